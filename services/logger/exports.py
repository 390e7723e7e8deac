"""Exports: log rows as CSV or NDJSON, one page at a time, so that an export of any size needs little memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.recipient_masks import masked
from shared.spreadsheets import BOM, csv_of

CONTENT_TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Export:
    """An export's format: `form` is csv or ndjson.

    A CSV file for a `spreadsheet` begins with a byte order mark and marks digits as text. `masked`: recipients are not
    shown.
    """

    form: str
    spreadsheet: bool = False
    masked: bool = False

    def head(self, columns: Sequence[str]) -> bytes:
        """Return the bytes before the rows."""
        if self.form != "csv":
            return b""
        return (BOM if self.spreadsheet else b"") + csv_of([columns])

    def encoder(self, columns: Sequence[str]) -> Callable[[Rows], bytes]:
        """Return the function that encodes a page of rows with these columns."""
        encode = self._encoder(columns)
        return (lambda rows: encode([_masked(columns, row) for row in rows])) if self.masked else encode

    def _encoder(self, columns: Sequence[str]) -> Callable[[Rows], bytes]:
        if self.form == "csv":
            return lambda rows: csv_of(rows, spreadsheet=self.spreadsheet)
        return lambda rows: ndjson_of(columns, rows)


def _masked(columns: Sequence[str], row: Sequence[Any]) -> list[Any]:
    return list(masked(dict(zip(columns, row, strict=True))).values())


def ndjson_of(columns: Sequence[str], rows: Rows) -> bytes:
    """Encode each row as one line with a JSON object."""
    return b"".join(orjson.dumps(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)
