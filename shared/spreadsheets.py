"""CSV for people: what a spreadsheet would run or change when it opens a file is written so that it does not.

A cell that begins like a formula gets an apostrophe in front (CWE-1236); `unguarded` takes it off again, so that what
is exported can be imported. On request a file is made for spreadsheets alone: with a byte order mark, without which
Excel takes UTF-8 for another character set, and with digits marked as text, which it would else round or shorten.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any

BOM = BOM_UTF8
# what a spreadsheet takes for a formula, also in full width; guarded texts are guarded once more, to be told apart
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# phone numbers, and whatever else loses digits or zeros as a number
_TEXT_CELL = re.compile(r'="([^"]*)"')
_DIGITS = re.compile(r"[0-9]{7,}|0[0-9]+|[0-9]+[eE][0-9]+")


def csv_of(rows: Sequence[Sequence[Any]], *, spreadsheet: bool = False) -> bytes:
    """Encode rows as CSV; for a `spreadsheet` texts of digits become `="…"`, which it shows as they are."""
    text = io.StringIO()
    cell = _text_cell if spreadsheet else guarded
    csv.writer(text).writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def guarded(value: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def unguarded(text: str) -> str:
    """Return what a guarded cell held."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def plain_texts(cells: list[str]) -> list[str]:
    """Return the cells of a row, those that are marked as texts for spreadsheets (`="007"`) without the mark."""
    if not any(cell[:2] == '="' for cell in cells):
        return cells
    return [found[1] if (found := _TEXT_CELL.fullmatch(cell.strip())) else cell for cell in cells]


def _text_cell(value: Any) -> Any:
    return f'="{value}"' if isinstance(value, str) and _DIGITS.fullmatch(value) else guarded(value)
