"""CSV files from users and spreadsheets: read as intended, or refused with one problem for the whole file."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.blasts.csv_columns import UnfitRows, missing_columns
from services.ingest.blasts.csv_rows import CsvRow, csv_rows
from services.ingest.blasts.csv_text import codec_of
from services.ingest.blasts.recipients import Rules
from services.ingest.http.errors import ApiError
from shared.templates import Template, Variable

LIMIT = 10_000
_PIECES = [
    b"sep=", b";", b",", b"\t", b"|", b'"', b"\r", b"\n", b"\r\n", b" ", b"name", b"email", b"E-mail", b"a", b"=",
    b"\xe9", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", "\u00e9".encode(), b"'", b"\\", b"\x85", b"\x1a",
]  # fmt: skip
SITI, BUDI = ["Siti", "siti@example.com", "007"], ["Budi", "budi@example.com", "008"]
TABLE = [["name", "email", "code"], SITI, BUDI]


def written(delimiter: str = ",", end: str = "\r\n", rows: list[list[str]] | None = None) -> str:
    return "".join(delimiter.join(row) + end for row in rows or TABLE)


async def read(raw: bytes, codec: str = "", size: int = 0, limit: int = LIMIT) -> list[CsvRow]:
    """Read a file in chunks of `size` bytes; in one chunk where `size` is 0."""

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(raw), size or len(raw) or 1):
            yield raw[at : at + (size or len(raw))]

    return [row async for rows in csv_rows(chunks(), limit, codec) for row in rows]


async def cells(raw: bytes, codec: str = "") -> list[list[str]]:
    """Return the cells of a file, after checking that the size of the chunks makes no difference."""
    found = [[row.cells for row in await read(raw, codec, size)] for size in (0, 1, 2, 7)]
    assert all(one == found[0] for one in found)
    return found[0]


async def refusal(raw: bytes, codec: str = "", limit: int = LIMIT) -> str:
    """Return why a file is refused, after checking that chunks of one byte give the same reason."""
    said = set()
    for size in (0, 1):
        with pytest.raises(ApiError) as raised:
            await read(raw, codec, size, limit)
        assert raised.value.code == "MALFORMED_CSV"
        said.add(raised.value.message)
    assert len(said) == 1, said
    return said.pop()


ENCODED = {
    "utf-8": written().encode(),
    "utf-8, marked": b"\xef\xbb\xbf" + written(";").encode(),
    "utf-8, marked twice": b"\xef\xbb\xbf" * 2 + written().encode(),
    "utf-16, little end first": b"\xff\xfe" + written("\t").encode("utf-16-le"),
    "utf-16, big end first": b"\xfe\xff" + written("\t").encode("utf-16-be"),
    "utf-16, unmarked": written("\t").encode("utf-16-le"),
    "utf-16, big, unmarked": written("\t").encode("utf-16-be"),
    "utf-32": written().encode("utf-32"),
    "bars": written("|").encode(),
    "lines end in CR": written(";", "\r").encode(),
    "lines end in LF": written(";", "\n").encode(),
    "no last line end": written(";", "\r").rstrip().encode(),
    "lines end in all ways": b"name,email,code\rSiti,siti@example.com,007\r\n\nBudi,budi@example.com,008\n\r",
    "quoted": b'"name","email","code"\r\n"Siti","siti@example.com","007"\r\n"Budi","budi@example.com","008"\r\n',
    "spaces behind the separators": written(", ").encode(),
    "quotes behind spaces": b'"name", "email", "code"\n"Siti", "siti@example.com", "007"\nBudi, budi@example.com, 008',
}  # fmt: skip
PREFIXES = {
    "a blank line": "\r\n",
    "blank lines": "\n \n\t\n",
    "a blank row": ";;\r\n",
    "a blank row in quotes": '"";"";""\n',
    "a hint": "sep=;\r\n",
    "a hint in capitals": "SEP=;\r\n",
    "a hint saved as a row": "sep=;;;\r\n",
    "a hint in quotes": '"sep=;"\r\n',
    "a hint in quotes, saved as a row": '"sep=;";;\r\n',
    "a hint with its sign in quotes": 'sep=";"\n',
    "a hint with nothing": "sep=\r\n",
    "a hint that another program made wrong": "sep=,,,\r\n",
    "a hint behind a blank line": "\r\nsep=;\r\n",
    "a hint before a blank line": "sep=;\r\n\r\n",
}


@pytest.mark.parametrize("kind", ENCODED)
async def test_a_table_is_the_same_however_it_was_saved(kind: str) -> None:
    """Byte order marks, encodings, separators and line ends make no difference."""
    assert await cells(ENCODED[kind]) == [SITI, BUDI]


@pytest.mark.parametrize("kind", PREFIXES)
async def test_lines_before_the_header_are_skipped(kind: str) -> None:
    """Blank lines and a spreadsheet's `sep=` line are skipped, however programs have changed that line."""
    assert await cells((PREFIXES[kind] + written(";")).encode()) == [SITI, BUDI]


@pytest.mark.parametrize("hint", ["sep=\t\r\n", "sep=\t\t\t\r\n", "sep=\\t\r\n", '"sep=\t"\r\n', "sep=\r\n"])
async def test_a_separator_hint_may_be_a_tab(hint: str) -> None:
    """The tab itself and its usual notations are recognised."""
    assert await cells((hint + written("\t")).encode()) == [SITI, BUDI]
    assert await cells(("\ufeff" + hint + written("\t")).encode("utf-16-le")) == [SITI, BUDI]


async def test_a_separator_hint_may_be_any_character() -> None:
    """The separator of the hint is used even if the header has more of another."""
    raw = "sep=^\nname^email^code, or what you call it, or so\nSiti^siti@example.com^007"
    assert await cells(raw.encode()) == [SITI]
    assert (
        await refusal(b"sep=m\nname,email\n") == "line 1: 'm' cannot separate cells; use a comma, semicolon, tab or bar"
    )


@pytest.mark.parametrize(
    ("codec", "delimiter"), [("windows-1252", ";"), ("macintosh", ";"), ("iso-8859-1", ","), ("utf-16le", "\t")]
)
async def test_an_encoding_that_is_named_is_read(codec: str, delimiter: str) -> None:
    """An encoding that cannot be recognised by its bytes is read according to the Content-Type's charset."""
    rows = [TABLE[0], ["Jos\u00e9 N\u00fa\u00f1ez", "jose@example.com", "007"]]
    raw = written(delimiter, "\r", rows).encode(codec_of(codec))
    assert await cells(raw, codec_of(codec)) == rows[1:]


async def test_an_encoding_that_is_not_named_is_refused_with_its_line() -> None:
    """The file is refused once, with advice on saving it or naming its charset, since a guess may garble names."""
    raw = written(",", "\r", [*TABLE, ["Jos\u00e9", "jose@example.com", "9"]]).encode("cp1252")
    said = await refusal(raw)
    assert said.startswith("line 4 is not UTF-8: save the file as 'CSV UTF-8', or name its charset")
    assert (await refusal(b"\xff\xfen\x00a\x00m")).startswith("the file is not valid UTF-16")
    assert (await refusal(b"name\n\x81", "cp1252")).startswith("the file is not valid CP1252")


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "us-ascii", ""])
def test_the_usual_charset_may_be_named(charset: str) -> None:
    """ASCII, which many clients name by default, is accepted."""
    assert codec_of(charset) in {"utf-8", ""}


@pytest.mark.parametrize("charset", ["klingon", "unicode_escape", "idna", "rot13", "utf-7", "base64", "x" * 999])
def test_an_unknown_charset_is_refused(charset: str) -> None:
    """Encodings that Python knows but that no file uses are refused too."""
    with pytest.raises(ApiError) as raised:
        codec_of(charset)
    assert raised.value.code == "UNSUPPORTED_MEDIA_TYPE"


async def test_rows_may_lack_their_last_cells_and_be_blank() -> None:
    """Missing last cells count as not given, and blank rows are skipped, whatever characters they consist of."""
    raw = (
        b"name,email,code,city,note\nSiti,siti@example.com,007,Solo,ok\n,,,,\n\n , ,\nBudi,budi@example.com\n,,,,,,,\n"
    )
    rows = await read(raw)
    assert [row.fields() for row in rows] == [
        {"name": "Siti", "email": "siti@example.com", "variables": {"code": "007", "city": "Solo", "note": "ok"}},
        {"name": "Budi", "email": "budi@example.com", "variables": {}},
    ]
    assert [row.line for row in rows] == [2, 6]


async def test_columns_without_name_and_text_do_not_count() -> None:
    """Empty columns without a name are ignored: after the last column, before the first, and hundreds of them."""
    for columns in (b"name,email,code,,", b"name,email,code" + b"," * 2000):
        assert (await read(columns + b"\nSiti,siti@example.com,007,,"))[0].fields()["variables"] == {"code": "007"}
    rows = await read(b",name,email,,code\n,Siti,siti@example.com,,007\n")
    assert rows[0].fields() == {"name": "Siti", "email": "siti@example.com", "variables": {"code": "007"}}
    assert rows[0].stray_column == 0


async def test_text_in_a_column_without_name_is_reported() -> None:
    """The first such column is reported, as with an unquoted separator in a cell, or row numbers before a table."""
    rows = await read(b"name,email\nSiti, S.Kom,siti@example.com\nBudi,budi@example.com\n")
    assert [row.stray_column for row in rows] == [3, 0]
    assert (await read(b",name,email\n0,Siti,siti@example.com\n"))[0].stray_column == 1


NO_HEADER = (
    "the first row has no column for a recipient (name, email or phone): begin the file with a row of column names"
)
NO_NAMES = "the first row contains an email address: begin the file with a row of column names, in a line of its own"
BROKEN = {
    b"": "the file has no header row: begin the file with a row of column names",
    b"\xef\xbb\xbf": "the file has no header row: begin the file with a row of column names",
    b"\n;;\n\n": "the file has no header row: begin the file with a row of column names",
    b"sep=;\n": "the file has no header row: begin the file with a row of column names",
    b"name,email,Name\n": "the header names the column 'name' twice: remove or rename one",
    b"code,code\n": "the header names the column 'code' twice: remove or rename one",
    b"Siti,siti@example.com,007\n": NO_HEADER,
    b"Siti;081224772000;007\n": NO_HEADER,
    b"name,email,codeSiti,siti@example.com,007\nBudi,budi@example.com,008\n": NO_NAMES,
    b'name,email,"code\nSiti,siti@example.com,007"\nBudi,budi@example.com,008\n': NO_NAMES,
    b"mail,siti@example.com,007\nBudi,budi@example.com,008\n": NO_NAMES,
    b"Customers of January;;\n;;\nname;email;code\n": NO_HEADER,
    b'name,email\nSiti,"siti@example.com\nBudi,b@example.com\n': "line 2: the quote that opens a cell is never closed",
    b'name,email\n"Siti" R,s@example.com\n': ("line 2: text follows a closing quote; double each quote within a cell"),
    b"name\nSi\0ti\n": "line 2 contains a NUL character: this is not a text file",
    b"name\n" + b"\0" * 20: "line 2 contains a NUL character: this is not a text file",
    b"PK\x03\x04\x14\x00\x06\x00": "this is an Excel or ZIP file, not CSV: save it as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "this is an Excel file, not CSV: save it as 'CSV UTF-8'",
    ",".join(f"c{number}" for number in range(501)).encode(): "the header has more than 500 columns",
}


@pytest.mark.parametrize("raw", BROKEN)
async def test_a_broken_file_gets_one_error_that_helps(raw: bytes) -> None:
    """The message has the line number for any size of chunks, and never a library's words."""
    assert await refusal(raw) == BROKEN[raw]


SWALLOWED = {
    "the rest": (",", 'a@example.com,Jl. A,"1\nb@example.com,Jl. B,2\nc@example.com,Jl. C,3"', 3),
    "the next code": (",", 'a@example.com,"Jl. A,1\nb@example.com,Jl. B",2', 3),
    "a whole row": (",", '"a@example.com,Jl. A,1\nb@example.com,Jl. B,2"', 3),
    "short and blank rows": (",", 'a@example.com,Jl. A,"1\n\n,,\nb@example.com,,"', 3),
    "phones": (";", '0812 2477 2000;Jl. A;"1\n+62 812-2477-2001;Jl. B;2"', 3),
    "tabs": ("\t", 'a@example.com\tJl. A\t"1\nb@example.com\tJl. B\t"', 3),
    "empty columns": (",", 'a@example.com,"1,,\nb@example.com,2",,', 2),
}


@pytest.mark.parametrize("kind", SWALLOWED)
async def test_a_quote_that_swallows_rows_is_refused(kind: str) -> None:
    """A quote too many would make one recipient of several, and give the first the values of the others."""
    delimiter, rows, width = SWALLOWED[kind]
    raw = delimiter.join(["email", "city", "code"][:width]) + f"\n{rows}\n"
    last = raw.count("\n")
    assert await refusal(raw.encode()) == (
        f"line 2: the quote that opens a cell is closed only in line {last}, after other rows; remove it, or double it"
    )


@pytest.mark.parametrize(
    "row",
    [
        'a@example.com,"Jl. A\nSolo",1',
        'a@example.com,"Jl. A, 3\nSolo, Jawa",1',
        'a@example.com,Jl. A,"ask\nb@example.com"',
        'a@example.com,Jl. A,"ask:\nb@example.com, his boss, or\nc@example.com"',
        'a@example.com,Jl. A,"Dear Siti, here it is:\n0812 2477 2000, Budi, Solo"',
        'a@example.com,Jl. A,"\n1\n"',
    ],
)
async def test_a_cell_of_several_lines_is_read(row: str) -> None:
    """Addresses, stories and signatures have line breaks and separators, but no complete rows."""
    (found,) = await read(f"email,city,code\n{row}\n".encode())
    assert found.cells[0] == "a@example.com"
    assert any("\n" in cell for cell in found.cells)


@pytest.mark.parametrize("row", [b"x" * (LIMIT + 1), b'"' + b"x\n" * LIMIT])
async def test_an_endless_row_is_refused(row: bytes) -> None:
    """It is refused before it is held in memory; an unclosed quote would make one row of the whole file."""
    said = await refusal(b"name\n" + row)
    assert said == f"line 2: a row is longer than {LIMIT} characters; check for a quote that is not closed"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(_PIECES), max_size=30).map(b"".join) | st.binary(max_size=60),
    st.sampled_from(["", "cp1252", "utf-8"]),
    st.integers(0, 5),
)
async def test_any_bytes_are_rows_or_one_refusal(raw: bytes, codec: str, size: int) -> None:
    """Every input gives rows or an ApiError, never a library's exception or message."""
    try:
        found: list[CsvRow] | ApiError = await read(raw, codec, size)
    except ApiError as error:
        found = error
    if isinstance(found, ApiError):
        assert found.code == "MALFORMED_CSV"
        assert not re.search("codec|delimiter|expected|unexpected|field limit", found.message)
    else:
        assert all(len(row.cells) >= row.header.width for row in found)


async def test_a_row_in_many_pieces_takes_time_in_proportion() -> None:
    """A row of many lines that arrives line by line is not read again with each of them."""
    raw = b'name\n"' + b"x\n" * 60_000 + b'"\n'
    began = time.process_time()
    assert len((await read(raw, size=2, limit=1 << 20))[0].cells[0]) == 120_000
    assert time.process_time() - began < 5


async def test_a_header_in_many_pieces_takes_time_in_proportion() -> None:
    """A header with an unclosed quote is not joined again with each piece that arrives."""
    raw = b'"' + b"x" * 60_000 + b"\n" + b"y" * 60_000 + b'",name\na,Siti\n'
    began = time.process_time()
    assert (await read(raw, size=1, limit=1 << 20))[0].cells == ["a", "Siti"]
    assert time.process_time() - began < 5


async def test_a_cell_that_is_too_long_is_refused() -> None:
    """The message names the cell, since a row may have that length."""
    said = await refusal(b"name\n" + b"x" * 200_000, limit=1 << 20)
    assert said == "line 2: a cell is longer than 131072 characters"


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("email", "E-mail"),
        ("email", "e mail"),
        ("email", "Email Address"),
        ("email", "E-Mail-Address:"),
        ("email", "EMAIL_ADDRESS"),
        ("email", "Alamat Email"),
        ("email", "\ufeffMail"),
        ("phone", "Mobile"),
        ("phone", "Phone Number"),
        ("phone", "Phone No."),
        ("phone", "WhatsApp"),
        ("phone", "WhatsApp Phone Number"),
        ("phone", "Phone 1 - Value"),
        ("email", "E-mail 1 - Value"),
        ("phone", "No. HP"),
        ("phone", "Nomor\u00a0WA"),
        ("name", "Nama"),
        ("name", "Full Name"),
        ("reference", " Reference "),
    ],
)
async def test_usual_names_of_columns_are_accepted(field: str, column: str) -> None:
    """An alias works in any case and with any signs; a variable of that name gets the value too."""
    (row,) = await read(f"{column},code\nx,1\n".encode())
    assert row.fields()[field] == "x"
    assert row.fields()["variables"]["code"] == "1"


async def test_an_exact_column_name_comes_first() -> None:
    """Other aliases are then only variables; without the exact name, two aliases are ambiguous."""
    (row,) = await read(b"phone,Mobile,WhatsApp\n1,2,3\n")
    assert row.fields() == {"phone": "1", "variables": {"Mobile": "2", "WhatsApp": "3"}}
    (row,) = await read(b"Mobile,WhatsApp\n2,3\n")
    assert row.fields() == {"variables": {"Mobile": "2", "WhatsApp": "3"}}
    assert row.header.unclear == (("phone", ("Mobile", "WhatsApp")),)


def rules(*channels: str, **changes: Any) -> Rules:
    variables = [
        Variable("code", required=True),
        Variable("minutes", required=False),
        Variable("fee", required=True, default=1),
    ]
    template = Template(id="t", name="T", channels=["email", "whatsapp"], text="x", variables=variables)
    return Rules(template=template, channels=channels, **changes)


async def test_a_missing_column_is_reported_once() -> None:
    """A missing column for an address or required variable is one problem, which lists the file's columns."""
    (row,) = await read(b"Name,Surname,Kode\nSiti,Rahayu,007\n")
    missing = missing_columns(row.header, rules("email", "whatsapp"))
    assert [(field, one.field, one.code) for field, one in missing.items()] == [
        ("email", "recipients", "MISSING_EMAIL"),
        ("phone", "recipients", "MISSING_PHONE"),
        ("variables.code", "recipients", "MISSING_REQUIRED_VARIABLE"),
    ]
    assert missing["email"].message == ("the file has no column 'email'; its columns are 'name', 'Surname', 'Kode'")
    assert missing_columns(row.header, rules(global_variables={"code": "1"})) == {}
    (row,) = await read(b"Nama,E-mail,Kode\nSiti,siti@example.com,007\n")
    (problem,) = missing_columns(row.header, rules("email")).values()
    assert problem.message == "the file has no column for the variable 'code'; its columns are 'Nama', 'E-mail', 'Kode'"


async def test_an_ambiguous_column_is_refused() -> None:
    """An ambiguous column for an address is an error: no guess decides who gets a message."""
    (row,) = await read(b"email,code,Mobile,WhatsApp\na@example.com,1,2,3\n")
    assert missing_columns(row.header, rules("email")) == {}
    (other,) = await read(b"code,Phone Number,WhatsApp Phone Number\n1,2,3\n")
    with pytest.raises(ApiError, match="'Phone Number', 'WhatsApp Phone Number' could be the phone"):
        missing_columns(other.header, rules("whatsapp"))
    with pytest.raises(
        ApiError, match="any of the columns 'Mobile', 'WhatsApp' could be the phone: rename one of them"
    ):
        missing_columns(row.header, rules("whatsapp"))


@pytest.mark.parametrize(
    "data",
    [
        "name;email;code;Amount (Rp, net, gross, all)\nSiti;siti@example.com;007;1\n",
        "name,email,code,a;b;c;d;e\nSiti,siti@example.com,007,1\n",
        "name\temail\tcode\tx, y, z, w\nSiti\tsiti@example.com\t007\t1\n",
        '"name";"email";"code"\nSiti;siti@example.com;007\n',
        '"note\nof ours";name;email;code\n1;Siti;siti@example.com;007\n',
        '"a, b,\nc, d, e";name;email;code\n1;Siti;siti@example.com;007\n',
        "sep = ;\nname;email;code\nSiti;siti@example.com;007\n",
        "sep=TAB\nname\temail\tcode\nSiti\tsiti@example.com\t007\n",
        "sep=<tab>\nname\temail\tcode\nSiti\tsiti@example.com\t007\n",
        "name,email,code\nSiti,siti@example.com,007\n\x1a",
        'name,email,code\nSiti,siti@example.com,="007"\n',
        'name,email,code\nSiti,="siti@example.com","=""007"""\n',
        "name,email,Variables.code\nSiti,siti@example.com,007\n",
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
async def test_the_separator_is_the_one_that_finds_known_columns(data: str, size: int) -> None:
    """Other separators or line breaks in column names and a spreadsheet's marks make no difference."""
    (row,) = await read(data.encode(), size=size)
    fields = row.fields()
    assert (fields["name"], fields["email"], fields["variables"]["code"]) == ("Siti", "siti@example.com", "007")


async def test_rows_with_another_separator_than_the_header_are_one_problem() -> None:
    """They are not reported for each row and variable."""
    unfit = UnfitRows()
    rows = await read(b"name,email,code\nSiti;siti@example.com;007\nBudi;budi@example.com;008\nWati,w@example.com\n")
    assert [unfit.take(row) for row in rows] == [True, True, False]
    (problem,) = unfit.problems()
    assert problem.message.startswith("2 rows are separated by ';', but the header is not (line 2, 3)")
