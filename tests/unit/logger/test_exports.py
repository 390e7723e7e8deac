"""Exports keep every value, and no spreadsheet runs one as a formula."""

from __future__ import annotations

import csv
import io

import orjson
import pytest

from services.logger.exports import Export, ndjson_of
from shared.spreadsheets import csv_of, guarded, unguarded

AWKWARD = 'a "quoted", line\nbroken, ünïcode 😀'


def test_csv_keeps_awkward_values() -> None:
    """Quotes, commas, line breaks and text in any script survive a round trip; NULL becomes empty."""
    (row,) = csv.reader(io.StringIO(csv_of([(1, AWKWARD, None)]).decode(), newline=""))
    assert row == ["1", AWKWARD, ""]


FORMULAS = ["=1+1", "+62", "-1", "@SUM(A1)", "\tx", "\rx", "\n=1", "\uff1d1", "'=1", "''+1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text: str) -> None:
    """A recipient named =cmd() must not run on the machine of the person who opens the export."""
    (row,) = csv.reader(io.StringIO(csv_of([(text,)]).decode(), newline=""))
    assert row == [f"'{text}"]


@pytest.mark.parametrize("text", [*FORMULAS, "'tis", "a=b", "", "siti@example.com"])
def test_guarded_cells_can_be_read_back(text: str) -> None:
    """An import of the export gives the same text."""
    assert unguarded(guarded(text)) == text


def test_a_file_for_spreadsheets_keeps_digits_as_text() -> None:
    """It has a byte order mark, and phone numbers, long ids and leading zeros as text; numbers stay numbers."""
    export = Export("csv", spreadsheet=True)
    assert export.head(["phone"]) == b"\xef\xbb\xbfphone\r\n"
    row = ("6281224770000", "007", "1e5", "12345678901234567890", "5", 3, "=1+1", None, "Siti")
    assert export.encoder(["phone"])([row]) == (
        b'"=""6281224770000""","=""007""","=""1e5""","=""12345678901234567890""",5,3,\'=1+1,,Siti\r\n'
    )
    assert Export("csv").head(["phone"]) == b"phone\r\n"
    assert Export("csv").encoder(["phone"])([row[:2]]) == b"6281224770000,007\r\n"


def test_ndjson_has_one_object_per_line() -> None:
    """Each object has the column names; a line break in a value does not break the line."""
    lines = ndjson_of(("id", "text"), [(1, AWKWARD), (2, None)]).splitlines()
    assert [orjson.loads(line) for line in lines] == [{"id": 1, "text": AWKWARD}, {"id": 2, "text": None}]


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_export_can_be_masked(form: str) -> None:
    """For a caller that may not see recipients, no row names its own; ids stay."""
    columns = ("job_id", "recipient_email", "recipient_phone", "recipient_name", "subject", "response")
    row = ("b:0:email", "ana@example.com", "6281224770000", "Ana Silva", "For Silva", "no ana@example.com here")
    shown = Export(form, masked=True).encoder(columns)([row]).decode()
    assert not any(one in shown for one in ("ana@", "6281224770000", "Silva"))
    assert all(one in shown for one in ("b:0:email", "a***@example.com", "***00", "A***"))
    assert "ana@example.com" in Export(form).encoder(columns)([row]).decode()
