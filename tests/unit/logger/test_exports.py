"""Exports: every value survives, and no spreadsheet runs one."""

from __future__ import annotations

import csv
import io

import orjson
import pytest

from services.logger.exports import csv_of, ndjson_of

AWKWARD = 'a "quoted", line\nbroken, ünïcode 😀'


def test_csv_keeps_awkward_values() -> None:
    """Quotes, commas, line breaks and any script come back as they went in; NULL is empty."""
    (row,) = csv.reader(io.StringIO(csv_of([(1, AWKWARD, None)]).decode(), newline=""))
    assert row == ["1", AWKWARD, ""]


@pytest.mark.parametrize("text", ["=1+1", "+62", "-1", "@SUM(A1)", "\tx"])
def test_a_formula_becomes_text(text: str) -> None:
    """A recipient called =cmd() must not run on the machine of who opens the export."""
    (row,) = csv.reader(io.StringIO(csv_of([(text,)]).decode(), newline=""))
    assert row == [f"'{text}"]


def test_ndjson_is_an_object_a_line() -> None:
    """With the columns' names; a line break in a value does not break the line."""
    lines = ndjson_of(("id", "text"), [(1, AWKWARD), (2, None)]).splitlines()
    assert [orjson.loads(line) for line in lines] == [{"id": 1, "text": AWKWARD}, {"id": 2, "text": None}]
