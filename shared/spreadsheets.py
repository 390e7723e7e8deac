"""CSV that is safe to open in a spreadsheet.

A cell that begins like a formula gets a leading apostrophe (CWE-1236). `unguarded` removes it, so that an export can be
imported again. On request a file is made only for spreadsheets: it has a byte order mark, without which Excel misreads
UTF-8, and it marks digits as text, since a spreadsheet would round or shorten them.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any

BOM = BOM_UTF8
# texts that a spreadsheet treats as formulas, also in full width; guarded texts are guarded again, so none is ambiguous
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# phone numbers and other texts that would lose digits or zeros as numbers
_TEXT_CELL = re.compile(r'="([^"]*)"')
_DIGITS = re.compile(r"[0-9]{7,}|0[0-9]+|[0-9]+[eE][0-9]+")
# what spreadsheets save where a formula failed; Excel translates most of them
_ERROR = re.compile(
    r"""\#(?: N/[ABD] | \u041d/\u0414 | NV | YOK | GETTING_DATA
        | \u00a1? (?:REF|VALOR|DIV/0|NUM|NULL|NULO) !
        | (?:VALUE|VALEUR|VALORE|SPILL|CALC|FIELD|BLOCKED|CONNECT|UNKNOWN|BUSY|PYTHON|ERROR) !
        | (?:BEZUG|WERT|ZAHL|NOMBRE|RIF|VERW|WAARDE|ADR|ARG) !
        | \u00bf? (?:NAME|NOM|NOME|NOMBRE|NAAM|NAZWA) \?)""",
    re.VERBOSE,
)
_OFFICE_ERROR = re.compile(r"Err:5[0-9]{2}")
_TOO_NARROW = re.compile("#{4,}")
_LOADING = "Loading..."
# MySQL's and PostgreSQL's mark for a missing value in text files
_NULL = "\\N"
# as Excel shows a number of more than eleven digits in a column of no format
_SHORTENED = re.compile(r"[1-9](?:[.,][0-9]{1,14})?E\+[0-9]{2}")


def csv_of(rows: Sequence[Sequence[Any]], *, spreadsheet: bool = False) -> bytes:
    """Encode rows as CSV; for a `spreadsheet` texts of digits become `="…"`, which it shows unchanged."""
    text = io.StringIO()
    cell = _text_cell if spreadsheet else guarded
    csv.writer(text).writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def guarded(value: Any) -> Any:
    """Return a cell that spreadsheets do not run as a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def unguarded(text: str) -> str:
    """Return the original text of a guarded cell."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def plain_texts(cells: list[str]) -> list[str]:
    """Return the cells of a row without the marks for text in spreadsheets (`="007"`)."""
    if not any(cell[:2] == '="' for cell in cells):
        return cells
    return [found[1] if (found := _TEXT_CELL.fullmatch(cell.strip())) else cell for cell in cells]


def may_be_broken(cells: list[str]) -> bool:
    """Return whether any cell of a row may be a broken one; quick, since few rows have any."""
    row = "\n".join(cells)
    return "#" in row or "E+" in row or "Err:" in row or _LOADING in row or _NULL in row


def broken_cell(text: str) -> str:
    """Return what is wrong with a cell that a program has saved in place of its value, "" for any other."""
    text = text.strip()
    if _ERROR.fullmatch(text) or _OFFICE_ERROR.fullmatch(text):
        return "the error of a formula: correct the cell, or empty it"
    if _TOO_NARROW.fullmatch(text):
        return "what a spreadsheet shows where the column is too narrow: widen the column and save the file again"
    if text == _LOADING:
        return "what a spreadsheet shows until it has computed a cell: save the file again"
    if text == _NULL:
        return "a database's mark for a missing value: empty the cell"
    if _SHORTENED.fullmatch(text):
        return "a number that a spreadsheet has shortened: format the column as text and write all its digits"
    return ""


def _text_cell(value: Any) -> Any:
    return f'="{value}"' if isinstance(value, str) and _DIGITS.fullmatch(value) else guarded(value)
