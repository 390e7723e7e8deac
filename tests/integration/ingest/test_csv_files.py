"""CSV files over HTTP: a spreadsheet's file is read as intended, or refused with one error."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.integration.ingest.running import Api, Reply
from tests.integration.ingest.test_blasts import BLAST, queued

CASES = Path(__file__).parent / "cases"
SITI, BUDI = ("siti@example.com", "007"), ("budi@example.com", "008")


async def post(api: Api, raw: bytes, content_type: str = "text/csv", **head: str) -> Reply:
    """POST a file as a blast, by default of otp through email."""
    query = {"templateId": "otp", "channels": "email", **head}
    return await api.post(BLAST, data=raw, headers={"Content-Type": content_type}, params=query)


async def sent(redis: Redis, channel: str = "email") -> list[tuple[str, Any]]:
    """Return the address and the code of every job."""
    return [(job.recipient.address, job.recipient.variables["code"]) for job in await queued(redis, channel)]


@pytest.mark.parametrize(
    ("case", "jobs"),
    [
        ("04-sep-hint-tab", [SITI, BUDI]),
        ("10-mac-cr", [SITI, BUDI]),
        ("11-blank-first-line", [SITI, BUDI]),
        ("12-trailing-empty-column", [SITI]),
        ("13-short-rows", [SITI, BUDI, ("wati@example.com", "009")]),
        ("18-header-variants", [SITI]),
        ("39-optional-header-case", [("min2@example.com", "1")]),
    ],
)
async def test_a_file_is_read_as_it_was_meant(case: str, jobs: list[tuple[str, str]], api: Api, redis: Redis) -> None:
    """Each row becomes one message, with the code as written."""
    reply = await post(api, (CASES / f"{case}.csv").read_bytes())
    assert (reply.status, reply.body.get("errors", [])) == (202, [])
    assert await sent(redis) == jobs


async def test_an_optional_column_in_another_case_is_used(api: Api, redis: Redis) -> None:
    """The mail says 30 minutes, not the default."""
    await post(api, (CASES / "39-optional-header-case.csv").read_bytes())
    (job,) = await queued(redis)
    assert str(job.recipient.variables["minutes"]) == "30"


async def test_one_mailbox_in_three_spellings_gets_one_message(api: Api, redis: Redis) -> None:
    """The first spelling gets the message; the others are duplicates."""
    reply = await post(api, (CASES / "31-case-dup.csv").read_bytes())
    assert (reply.body["totalMessages"], reply.body["duplicates"]) == (1, 2)
    assert await sent(redis) == [("Siti@example.com", "1")]


async def test_cells_with_more_than_a_number_are_refused(api: Api, redis: Redis) -> None:
    """Each refusal names its cause; no message goes to a number that the file does not contain."""
    reply = await post(api, (CASES / "38-phone-float-send.csv").read_bytes(), channels="whatsapp")
    assert reply.status == 422
    assert [(one["field"], one["message"].partition(".")[0]) for one in reply.body["errors"]] == [
        ("recipients[0].phone", "line 2: This looks like a spreadsheet's decimal number"),
        ("recipients[1].phone", "line 3: This looks like two numbers"),
        ("recipients[2].phone", "line 4: This has a note in brackets"),
    ]
    assert await queued(redis, "whatsapp") == []


TABLE = [
    ["Nama", "E-mail", "No. HP", "code", "note", ""],
    ["Jos\u00e9 \u0141uczak; S.Kom, M.T.", "Jose@Example.com", "0812-2477-0001", "007", 'a "quoted" word', ""],
    ["Siti", "siti@example.com", "+62 812 2477 0002", "008", "two\r\nlines", ""],
    ["", "", "", "", "", ""],
    ["\u5c0f\u6797", "kobayashi@example.com", "0812 2477 0003", "009", "", ""],
]


def saved(delimiter: str = ",", end: str = "\r\n", *, quote: bool = False, short: bool = False) -> str:
    """Save the table as a spreadsheet does, with the same line ends within cells as between rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL if quote else 0)
    for row in TABLE:
        cells = [cell.replace("\r\n", end) for cell in row]
        while short and cells and not cells[-1]:
            cells.pop()
        writer.writerow(cells)
    return text.getvalue()


DIALECTS = {
    "comma, UTF-8": (saved().encode(), "text/csv"),
    "semicolon, UTF-8 with a mark": (("\ufeff" + saved(";")).encode(), "text/csv; charset=utf-8"),
    "tab with a hint": (("sep=\t\r\n" + saved("\t")).encode(), "text/csv"),
    "semicolon with a hint saved as a row": (("sep=;;;;;\n" + saved(";", "\n")).encode(), "text/csv"),
    "tab, UTF-16": (saved("\t").encode("utf-16"), "text/csv"),
    "tab, UTF-16 with its other end first": (("\ufeff" + saved("\t")).encode("utf-16-be"), "text/csv; charset=UTF-16"),
    "tab, as itself": (saved("\t").encode(), "text/tab-separated-values"),
    "lines that end in CR": (saved(";", "\r").encode(), "text/csv"),
    "all quoted, behind a blank line": (("\r\n" + saved(quote=True)).encode(), "text/csv"),
    "without the last empty cells": (saved(";", "\n", short=True).encode(), "application/csv"),
    "Chinese Windows": (saved().replace("\u00e9", "e").replace("\u0141", "L").encode("gbk"), "text/csv; charset=gbk"),
}


NOTES = {
    "id": "notes",
    "name": "Notes",
    "type": "note",
    "category": "transactional",
    "channels": ["email", "whatsapp"],
    "subject": "{{ code }}",
    "text": "{{ code }} {{ note }}",
    "variables": [{"name": "code"}, {"name": "note", "required": False}],
    "whatsapp": {"templateName": "notes", "language": "en", "bodyVariables": ["code"]},
}


async def outcome(redis: Redis, reply: Reply) -> list[tuple[Any, ...]]:
    assert reply.status == 202, reply.text
    assert (reply.body["totalRecipients"], reply.body["totalMessages"]) == (3, 6)
    jobs = [*await queued(redis), *await queued(redis, "whatsapp")]
    return [(job.index, job.channel, job.recipient.address, job.recipient.name.translate({0xE9: "e", 0x141: "L"}),
             job.recipient.variables) for job in jobs]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("form", ["csv", "multipart"])
async def test_every_dialect_of_a_table_is_the_same_blast(form: str, dialect: str, api: Api, redis: Redis) -> None:
    """The jobs and values are the same for every program that saved it and every way to send it."""
    raw, content_type = DIALECTS[dialect]
    assert (await api.post("/api/templates", NOTES)).status == 201
    if form == "csv":
        reply = await post(api, raw, content_type, templateId="notes", channels="email,whatsapp")
    else:
        parts = aiohttp.FormData()
        parts.add_field("blast", '{"templateId": "notes", "channels": ["email", "whatsapp"]}')
        parts.add_field("recipients", raw, filename="people.csv", content_type=content_type)
        reply = await api.post(BLAST, data=parts)
    name, other = "Jose Luczak; S.Kom, M.T.", "\u5c0f\u6797"
    assert await outcome(redis, reply) == [
        (0, "email", "Jose@example.com", name, {"code": "007", "note": 'a "quoted" word'}),
        (1, "email", "siti@example.com", "Siti", {"code": "008", "note": "two\nlines"}),
        (2, "email", "kobayashi@example.com", other, {"code": "009"}),
        (0, "whatsapp", "6281224770001", name, {"code": "007", "note": 'a "quoted" word'}),
        (1, "whatsapp", "6281224770002", "Siti", {"code": "008", "note": "two\nlines"}),
        (2, "whatsapp", "6281224770003", other, {"code": "009"}),
    ]


ROWS = [f"Person {number},person{number}@example.com,{number}" for number in range(200)]
BROKEN = {
    "no column for the address": (
        "\n".join(["name,alamat,code", *ROWS]).encode(), 422, "MISSING_EMAIL", "the file has no column 'email'; its"
    ),
    "no column for a variable": (
        "\n".join(["name,email,kode", *ROWS]).encode(), 422, "MISSING_REQUIRED_VARIABLE",
        "the file has no column for the variable 'code'; its columns are 'name', 'email', 'kode'",
    ),
    "no header": ("\n".join(ROWS).encode(), 400, "MALFORMED_CSV", "the first row has no column for a recipient"),
    "too many cells in every row": (
        "\n".join(["name,email,code", *(f"{row},x" for row in ROWS)]).encode(), 422, "INVALID_VALUE",
        "200 rows have text in a column without a name, first in column 4 (line 2, 3, 4 …)",
    ),
    "another separator in every row": (
        "\n".join(["name;email;code", *ROWS]).encode(), 422, "INVALID_VALUE",
        "200 rows are separated by ',', but the header is not (line 2, 3, 4 …): use one separator",
    ),
    "Windows-1252": (
        "\n".join(["name,email,code", *(f"Jos\u00e9 {row}" for row in ROWS)]).encode("cp1252"), 400, "MALFORMED_CSV",
        "line 2 is not UTF-8",
    ),
    "a workbook": (b"PK\x03\x04" + bytes(200), 400, "MALFORMED_CSV", "this is an Excel or ZIP file"),
    "zero bytes": (b"name,email,code\n" + bytes(200), 400, "MALFORMED_CSV", "line 2 contains a NUL character"),
    "a quote without end": (
        "\n".join(["name,email,code", '"Siti', *ROWS]).encode(), 400, "MALFORMED_CSV", "line 2: the quote that opens"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("validation", ["strict", "permissive"])
async def test_a_broken_file_has_one_error(kind: str, validation: str, api: Api, redis: Redis) -> None:
    """Its two hundred rows do not repeat the error, and nothing is queued."""
    raw, status, code, words = BROKEN[kind]
    reply = await post(api, raw, validation=validation)
    assert (reply.status, reply.body["code"]) == (status, code)
    assert reply.body["message"].startswith(words)
    assert len(reply.body["errors"]) == (1 if status == 422 else 0)
    assert await queued(redis) == []


async def test_a_problem_of_a_row_names_its_line(api: Api) -> None:
    """Blank rows and cells of several lines do not count as recipients, but as lines."""
    raw = b"\nname,email,code\n,,\nSiti,siti@,1\n\nBudi,budi@example.com,\nWati,wati@,2\n"
    for validation in ("strict", "permissive"):
        errors = (await post(api, raw, validation=validation)).body["errors"]
        assert [(one["field"], one["message"].partition(":")[0]) for one in errors] == [
            ("recipients[0].email", "line 4"),
            ("recipients[1].variables.code", "line 6"),
            ("recipients[2].email", "line 7"),
        ]


async def test_permissive_sends_the_rows_that_fit(api: Api, redis: Redis) -> None:
    """Rows with text outside the header's columns are one problem; a channel without a column is another."""
    raw = b"name,email,code\nSiti,siti@example.com,007\nBudi, S.Kom,budi@example.com,008\nWati,wati@example.com,009,x\n"
    reply = await post(api, raw, validation="permissive", channels="email,whatsapp")
    assert (reply.status, reply.body["totalMessages"], reply.body["rejectedRecipients"]) == (202, 1, 2)
    assert [(one["field"], one["code"]) for one in reply.body["errors"]] == [
        ("recipients", "MISSING_PHONE"),
        ("recipients", "INVALID_VALUE"),
    ]
    assert await sent(redis) == [SITI]


async def test_an_unknown_charset_is_refused(api: Api) -> None:
    """Both forms refuse it before they read anything."""
    assert (await post(api, b"name", "text/csv; charset=klingon")).body["code"] == "UNSUPPORTED_MEDIA_TYPE"
    parts = aiohttp.FormData()
    parts.add_field("blast", '{"templateId": "otp", "channels": ["email"]}')
    parts.add_field("recipients", b"name", filename="p.csv", content_type="text/csv; charset=klingon")
    assert (await api.post(BLAST, data=parts)).body["code"] == "UNSUPPORTED_MEDIA_TYPE"
