"""Exports: log rows as CSV or NDJSON, a page at a time, so that any number of them takes little memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.spreadsheets import BOM, csv_of

CONTENT_TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Export:
    """How rows are written: `form` is csv or ndjson; a CSV file for a `spreadsheet` has a mark and digits as text."""

    form: str
    spreadsheet: bool = False

    def head(self, columns: Sequence[str]) -> bytes:
        """Return what comes before the rows."""
        if self.form != "csv":
            return b""
        return (BOM if self.spreadsheet else b"") + csv_of([columns])

    def encoder(self, columns: Sequence[str]) -> Callable[[Rows], bytes]:
        """Return how a page of rows with these columns is encoded."""
        if self.form == "csv":
            return lambda rows: csv_of(rows, spreadsheet=self.spreadsheet)
        return lambda rows: ndjson_of(columns, rows)


def ndjson_of(columns: Sequence[str], rows: Rows) -> bytes:
    """Encode rows as one JSON object a line."""
    return b"".join(orjson.dumps(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)
