"""Reading NDJSON and CSV: the same rows for any size of chunks, within limits."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.blasts.csv_rows import csv_rows
from services.ingest.blasts.request_body import ndjson_lines
from services.ingest.http.decoding import problems_of
from services.ingest.http.errors import ApiError
from services.ingest.http.requests import BlastRequest

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
    """Quoted line breaks and delimiters, any alphabet and chunks of any size are read as they were written."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["name", "code"], *rows])
    expected = [list(row) for row in rows if any(map(str.strip, row))]
    assert await _rows(b"\xef\xbb\xbf" + text.getvalue().encode(), sizes) == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=6), max_size=8), st.lists(st.integers(0, 9), max_size=20))
async def test_ndjson_lines_do_not_depend_on_chunks(lines: list[bytes], sizes: list[int]) -> None:
    """Blank lines are skipped; every other line arrives whole."""
    raw = b"\n".join(lines)
    found = [line async for block in ndjson_lines(_chunks(raw, sizes), LIMIT) for line in block]
    expected = [line for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line and not line.isspace()]
    if not raw.startswith(b"\xef"):
        assert found == expected


async def test_an_endless_line_is_refused() -> None:
    """It is refused before it is held in memory."""
    with pytest.raises(ApiError) as raised:
        await anext(ndjson_lines(_chunks(b"x" * 50, [20, 20]), 30))
    assert raised.value.code == "BODY_TOO_LARGE"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"templateId": 1}, "templateId should be a string, but is an integer"),
        ({"channels": "email"}, "channels should be an array, but is a string"),
        ({"channels": []}, "channels is empty"),
        ({"templateId": "x" * 101}, "templateId is longer than 100 characters"),
        ({"priority": 7}, "priority should be at most 2"),
        ({"dryRun": "yes"}, "dryRun should be true or false, but is a string"),
        ({"scheduledAt": "soon"}, "scheduledAt is not a time such as 2026-01-31T12:00:00Z"),
        ({"scheduledAt": "2026-01-31T12:00:00"}, "scheduledAt needs a time zone, as in 2026-01-31T12:00:00Z"),
        ({"validation": "lax"}, "validation cannot be 'lax'; use 'strict' or 'permissive'"),
    ],
)
def test_messages_about_fields_do_not_name_python_types(wrong: dict[str, Any], words: str) -> None:
    """The message uses JSON's names of types, such as string, not Python's `str`."""
    problems = problems_of({"templateId": "otp", "channels": ["email"], "recipients": [], **wrong}, BlastRequest)
    assert [problem.message for problem in problems] == [words]
