"""CSV: chunks of bytes become rows, with one row and one chunk in memory.

Accepts every encoding and line end that `csv_text` reads. Cells are separated by commas, semicolons (which spreadsheets
write where the comma is the decimal point), tabs or bars, recognised from the header row or from a spreadsheet's `sep=`
line before it. Quoted cells may contain line breaks, but not what looks like further rows: with a quote too many, a
recipient would get the values of the next ones. Blank rows are skipped. A row may lack its last cells: they count as
empty.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from services.ingest.blasts.csv_header import Header, is_own_column, read_header
from services.ingest.blasts.csv_text import text_of
from services.ingest.http.errors import ApiError
from shared.spreadsheets import plain_texts

MAX_ROW_CHARS = 1024 * 1024
# the reader of the rows may stop early: small pieces avoid parsing rows for nothing
_PIECE_CHARS = 2048
_DELIMITERS = ",;\t|"
# the characters of a blank row
_NOTHING = f' \ufeff\n"{_DELIMITERS}'
# programs that do not know this line save it as a row: quoted, with a delimiter for each further column
_HINT = re.compile(rf'\ufeff*"?sep *="? *+(?P<hint>\\t|<?tab>?|[^"\n])?["{_DELIMITERS} ]*+\n?', re.IGNORECASE)
_TAB = re.compile(r"\\t|<?tab>?", re.IGNORECASE)
# the most lines of a header whose names contain line breaks
_HEADER_LINES = 20
# DOS's end-of-file mark
_END_OF_FILE = ["\x1a"]
# an email address or a phone number, as far as is needed to tell a row from the second line of a cell
_ADDRESS = re.compile(r"[^\s@]++@[^\s@]++|(?=(?:[^0-9]*+[0-9]){8})[0-9 ()+./-]++")

Columns = Callable[[Sequence[str]], Header]


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row, at least as wide as its header; `line` is its last line in the file, from 1.

    `written` is the number of cells that the file has for it.
    """

    header: Header
    cells: list[str]
    line: int
    written: int = 0

    @property
    def stray_column(self) -> int:
        """The first column, counted from 1, with text in this row but no name in the header; 0 for none."""
        cells, header = self.cells, self.header
        if len(cells) == header.width and not header.nameless:
            return 0
        outside = (*header.nameless, *range(header.width, len(cells)))
        return next((place + 1 for place in outside if cells[place].strip()), 0)

    @property
    def other_separator(self) -> str:
        """The separator of this row, where it differs from the header's and the whole row is one cell; otherwise ""."""
        missing = self.header.width - self.written
        if self.written != 1 or not missing:
            return ""
        return next((one for one in _DELIMITERS if self.cells[0].count(one) >= missing), "")

    def fields(self) -> dict[str, Any]:
        """Return the row in the shape of a recipient's JSON."""
        return self.header.fields(self.cells)


async def csv_rows(
    chunks: AsyncIterator[bytes], limit: int, codec: str = "", columns: Columns = read_header
) -> AsyncIterator[list[CsvRow]]:
    """Yield the rows after the header, a few at a time; raises ApiError.

    `limit` caps the length of one row. `codec` is that of the Content-Type's charset, if it names one. `columns` reads
    the header row, and raises ApiError if it lacks a column.
    """
    reader = _Reader(min(limit, MAX_ROW_CHARS), columns)
    async for text in text_of(chunks, codec):
        for start in range(0, len(text), _PIECE_CHARS):
            if rows := reader.feed(text[start : start + _PIECE_CHARS]):
                yield rows
    rows = reader.feed("", final=True)
    if reader.header is None:
        raise ApiError("MALFORMED_CSV", "the file has no header row: begin the file with a row of column names")
    if rows:
        yield rows


class _Reader:
    """Drives csv.reader piece by piece: an incomplete row is read again with the next piece."""

    def __init__(self, limit: int, columns: Columns) -> None:
        self.header: Header | None = None
        self._columns = columns
        self._limit = limit
        self._hint = ""
        self._delimiter = ""
        self._lines: deque[str] = deque()
        self._partial: list[str] = []
        self._held = 0
        self._kept = 0
        self._fresh = 0
        self._line = 0

    def feed(self, text: str, *, final: bool = False) -> list[CsvRow]:
        """Take a piece of the file; return the rows that it completes."""
        self._split(text, final=final)
        self._check_length(self._held, len(self._lines))
        self._fresh += len(text)
        # an incomplete row is read again only when its length has doubled, so that reading takes linear time
        if self._fresh < self._kept and not final:
            return []
        self._fresh = self._kept = 0
        if not self._delimiter and not self._begin(final=final):
            return []
        rows: list[CsvRow] = []
        for cells in self._records(final=final):
            if not any(map(str.strip, cells)) or cells == _END_OF_FILE:
                continue
            if self.header is None:
                self.header = self._columns(cells)
            else:
                written = len(cells)
                if written < self.header.width:
                    cells.extend([""] * (self.header.width - written))
                rows.append(CsvRow(self.header, plain_texts(cells), self._line, written))
        return rows

    def _split(self, text: str, *, final: bool) -> None:
        pieces = text.split("\n")
        self._partial.append(pieces[0])
        self._held += len(pieces[0])
        if len(pieces) > 1:
            self._lines.append("".join(self._partial) + "\n")
            self._lines.extend(piece + "\n" for piece in pieces[1:-1])
            self._partial = [pieces[-1]]
            self._held = len(pieces[-1])
        if final and any(self._partial):
            self._lines.append("".join(self._partial))
            self._partial = []

    def _begin(self, *, final: bool) -> bool:
        """Skip the lines before the header and recognise the delimiter; return False if the header is incomplete."""
        while self._lines:
            first = self._lines[0]
            hint = _HINT.fullmatch(first)
            if not hint and first.strip(_NOTHING):
                header = self._header_text()
                if header.count('"') % 2 and not final and len(self._lines) < _HEADER_LINES:
                    self._kept = len(header)
                    return False
                self._delimiter = self._recognised(header)
                return True
            if hint:
                self._hint = _TAB.sub("\t", hint["hint"] or "")
            self._lines.popleft()
            self._line += 1
        return False

    def _header_text(self) -> str:
        """Return the lines of the header: up to the line that closes its last quote."""
        text = ""
        for line in islice(self._lines, _HEADER_LINES):
            text += line
            if text.count('"') % 2 == 0:
                break
        return text

    def _recognised(self, header: str) -> str:
        unquoted, bare = "".join(header.split('"')[::2]), header.replace('"', "")
        likely = max(_DELIMITERS, key=lambda one: (sum(map(is_own_column, bare.split(one))), unquoted.count(one)))
        if not self._hint or (self._hint not in unquoted and likely in unquoted):
            return likely
        if self._hint != "\t" and (self._hint.isalnum() or self._hint.isspace()):
            what = f"{self._hint!r} cannot separate cells; use a comma, semicolon, tab or bar"
            raise ApiError("MALFORMED_CSV", f"line {self._line}: {what}")
        return self._hint

    def _records(self, *, final: bool) -> Iterator[list[str]]:
        source = _Source(self._lines)
        reader = csv.reader(source, delimiter=self._delimiter, strict=True, skipinitialspace=True)
        while self._lines:
            source.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if source.starved and not final:
                    self._keep(source.taken)
                    return
                raise ApiError("MALFORMED_CSV", self._broken(source, error)) from error
            if len(source.taken) > 1:
                self._check_lines(source.taken)
            self._line += len(source.taken)
            yield cells

    def _check_lines(self, taken: list[str]) -> None:
        """Raise ApiError if the lines of one row look like rows of their own."""
        width = self.header.width if self.header else 0
        lines = [line for line in taken if line.strip(_NOTHING)]
        if width > 1 and len(lines) > 1 and _are_rows(lines, self._delimiter, width):
            what = f"the quote that opens a cell is closed only in line {self._line + len(taken)}, after other rows"
            raise ApiError("MALFORMED_CSV", f"line {self._line + 1}: {what}; remove it, or double it")

    def _keep(self, taken: list[str]) -> None:
        """Put an incomplete row back, to be read again with the following text."""
        self._lines.extendleft(reversed(taken))
        self._kept = sum(map(len, taken))
        self._check_length(self._kept)

    def _check_length(self, held: int, lines_before: int = 0) -> None:
        if held > self._limit:
            what = f"a row is longer than {self._limit} characters; check for a quote that is not closed"
            raise ApiError("MALFORMED_CSV", f"line {self._line + lines_before + 1}: {what}")

    def _broken(self, source: _Source, error: csv.Error) -> str:
        """Return why a row cannot be read."""
        first, last = self._line + 1, self._line + len(source.taken)
        if source.starved:
            return f"line {first}: the quote that opens a cell is never closed"
        if "field limit" in str(error):
            return f"line {first}: a cell is longer than {csv.field_size_limit()} characters"
        return f"line {last}: text follows a closing quote; double each quote within a cell"


def _are_rows(lines: list[str], delimiter: str, width: int) -> bool:
    """Return whether each line has as many cells as the header, and all have an address in the same column."""
    rows = [line.rstrip("\n").replace('"', "").split(delimiter) for line in lines]
    if not all(len(cells) >= width and not any(cells[width:]) for cells in rows):
        return False
    return any(all(_ADDRESS.fullmatch(cells[place].strip()) for cells in rows) for place in range(width))


class _Source:
    """The lines for csv.reader; remembers those of the current row, and whether the reader ran out of lines."""

    def __init__(self, lines: deque[str]) -> None:
        self._lines = lines
        self.taken: list[str] = []
        self.starved = False

    def begin(self) -> None:
        self.taken = []

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> str:
        if not self._lines:
            self.starved = True
            raise StopIteration
        line = self._lines.popleft()
        self.taken.append(line)
        return line
