"""Reading NDJSON and CSV: the same rows wherever the chunks end, within bounds."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.problems import ApiError
from services.ingest.recipients import csv_rows, ndjson_lines

LIMIT = 10_000
_CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8)


async def _chunks(raw: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    at = 0
    for size in [*sizes, len(raw)]:
        yield raw[at : at + size]
        at += size


async def _rows(raw: bytes, sizes: list[int] | None = None, limit: int = LIMIT) -> list[list[str]]:
    return [row.cells async for rows in csv_rows(_chunks(raw, sizes or []), limit) for row in rows]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(_CELLS, _CELLS), max_size=6),
    st.lists(st.integers(0, 9), max_size=20),
    st.sampled_from([",", ";", "\t"]),
)
async def test_csv_rows_do_not_depend_on_chunks(rows: list[tuple[str, str]], sizes: list[int], delimiter: str) -> None:
    """Quoted line breaks and delimiters, any alphabet, chunks of any size: what was written is read."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["name", "code"], *rows])
    expected = [list(row) for row in rows if any(row)]
    assert await _rows(b"\xef\xbb\xbf" + text.getvalue().encode(), sizes) == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=6), max_size=8), st.lists(st.integers(0, 9), max_size=20))
async def test_ndjson_lines_do_not_depend_on_chunks(lines: list[bytes], sizes: list[int]) -> None:
    """Blank lines are left out, everything else comes whole."""
    raw = b"\n".join(lines)
    found = [line async for block in ndjson_lines(_chunks(raw, sizes), LIMIT) for line in block]
    expected = [line for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line and not line.isspace()]
    if not raw.startswith(b"\xef"):
        assert found == expected


async def test_columns_are_a_recipients_own_or_variables() -> None:
    """In any case; empty cells are not given; a row of another width says so."""
    raw = b"sep=;\r\nName;EMAIL;order\r\nAnn;a@example.com;\r\nBo;b@example.com;7;8\r\n"
    rows = [row async for rows in csv_rows(_chunks(raw, []), LIMIT) for row in rows]
    assert rows[0].fields() == {"name": "Ann", "email": "a@example.com", "variables": {}}
    assert rows[1].problem == "the row has 4 cells, the header 3"
    assert rows[1].line == 4


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n\n",
        b"name,name\n",
        b"name,\n",
        b"name\n\xff\n",
        b'name\n"never ends',
        b"name\n" + b"x" * (LIMIT + 1),
        b'name\n"' + b"x\n" * LIMIT,
        ",".join(f"c{number}" for number in range(501)).encode(),
    ],
)
async def test_a_csv_that_cannot_be_read_is_refused(raw: bytes) -> None:
    """No header, no UTF-8, a broken quote, a row without end."""
    with pytest.raises(ApiError) as raised:
        await _rows(raw)
    assert raised.value.code == "MALFORMED_CSV"


async def test_a_line_without_end_is_refused() -> None:
    """Before it is held in memory."""
    with pytest.raises(ApiError) as raised:
        await anext(ndjson_lines(_chunks(b"x" * 50, [20, 20]), 30))
    assert raised.value.code == "BODY_TOO_LARGE"
