"""Exports: log rows as CSV or NDJSON, a page at a time, so that any number of them takes little memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import orjson

Encode = Callable[[Sequence[tuple[Any, ...]]], bytes]
CONTENT_TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
# a spreadsheet takes a cell that begins so for a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_of(rows: Sequence[Sequence[Any]]) -> bytes:
    """Encode rows as CSV; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    text = io.StringIO()
    csv.writer(text).writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue().encode()


def ndjson_of(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Encode rows as one JSON object a line."""
    return b"".join(orjson.dumps(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
