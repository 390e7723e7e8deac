"""Rows of a file of suppressions: the API key recorded for each."""

from __future__ import annotations

import pytest

from services.ingest.blasts.csv_rows import CsvRow
from services.ingest.suppressions.rows import Defaults, RowReader


@pytest.mark.parametrize(
    ("columns", "cells", "by"),
    [
        (["email"], ["a@example.com"], "importer"),
        (["email", "by"], ["a@example.com", "somebody"], "somebody"),
        (["email", "by"], ["a@example.com", ""], ""),
    ],
)
def test_an_imported_row_names_its_key_unless_the_file_does(columns: list[str], cells: list[str], by: str) -> None:
    """A row without an author, such as a bounce, still has none after an export is imported."""
    reader = RowReader(Defaults("ID", 1, by="importer"))
    found = reader.read(CsvRow(reader.read_columns(columns), cells, 2), 0)
    assert [one[2].by for one in found if isinstance(one, tuple)] == [by]
