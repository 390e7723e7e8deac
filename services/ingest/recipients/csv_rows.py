"""CSV: chunks of bytes become rows, in memory for one row and one chunk.

UTF-8 with or without a byte order mark; fields separated by commas, semicolons (as spreadsheets write where the
comma is the decimal point) or tabs, told from the header row; quoted fields may hold line breaks. Columns `name`,
`email`, `phone` and `reference` (in any case) are the recipient's own, each other column is a variable. Empty cells
are values that are not given.
"""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from services.ingest.problems import ApiError

MAX_ROW_CHARS = 1024 * 1024
MAX_COLUMNS = 500
_OWN_COLUMNS = ("name", "email", "phone", "reference")
_DELIMITERS = ",;\t"
_HINT = "sep="


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a file; `variables` pairs a variable's name with its column, `own` a recipient's field."""

    width: int
    own: tuple[tuple[str, int], ...]
    variables: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row; `line` is its last line in the file, from 1; `problem` says why it does not fit the header."""

    header: Header
    cells: list[str]
    line: int

    @property
    def problem(self) -> str:
        """What is wrong with the row, "" if nothing is."""
        if len(self.cells) == self.header.width:
            return ""
        return f"the row has {len(self.cells)} cells, the header {self.header.width}"

    def fields(self) -> dict[str, Any]:
        """Return the row in the shape of a recipient's JSON."""
        cells = self.cells
        fields: dict[str, Any] = {name: cells[place] for name, place in self.header.own if cells[place]}
        fields["variables"] = {name: cells[place] for name, place in self.header.variables if cells[place]}
        return fields


async def csv_rows(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[list[CsvRow]]:
    """Yield the rows of each chunk, the first time as soon as the header is known; raises ApiError.

    `limit` caps the bytes of one row. Blank lines are left out.
    """
    reader = _Reader(min(limit, MAX_ROW_CHARS))
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        async for chunk in chunks:
            if rows := reader.feed(decoder.decode(chunk)):
                yield rows
        rows = reader.feed(decoder.decode(b"", final=True), final=True)
    except UnicodeDecodeError as error:
        raise ApiError("MALFORMED_CSV", f"the file is not UTF-8: {error.reason}") from error
    if reader.header is None:
        raise ApiError("MALFORMED_CSV", "the file has no header row")
    if rows:
        yield rows


class _Reader:
    """Drives csv.reader by pieces: a row whose end is not there yet is read again with the next piece."""

    def __init__(self, limit: int) -> None:
        self.header: Header | None = None
        self._limit = limit
        self._delimiter = ""
        self._lines: deque[str] = deque()
        self._partial: list[str] = []
        self._held = 0
        self._line = 0

    def feed(self, text: str, *, final: bool = False) -> list[CsvRow]:
        """Take a piece of the file; return the rows that it completes."""
        self._split(text, final=final)
        if self._held > self._limit:
            raise ApiError("MALFORMED_CSV", f"line {self._line + 1}: a row is longer than {self._limit} characters")
        if not self._lines:
            return []
        self._delimiter = self._delimiter or self._recognised()
        rows: list[CsvRow] = []
        for cells in self._records(final=final):
            if not any(cells):
                continue
            if self.header is None:
                self.header = _header(cells)
            else:
                rows.append(CsvRow(self.header, cells, self._line))
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

    def _recognised(self) -> str:
        first = self._lines[0]
        if first.lower().startswith(_HINT) and len(first.strip()) == len(_HINT) + 1:
            self._lines.popleft()
            self._line += 1
            return first[len(_HINT)]
        unquoted = "".join(first.split('"')[::2])
        return max(_DELIMITERS, key=unquoted.count)

    def _records(self, *, final: bool) -> Iterator[list[str]]:
        source = _Source(self._lines)
        reader = csv.reader(source, delimiter=self._delimiter, strict=True)
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
                where = f"line {self._line + len(source.taken)}"
                raise ApiError("MALFORMED_CSV", f"{where}: {error}") from error
            self._line += len(source.taken)
            yield cells

    def _keep(self, taken: list[str]) -> None:
        """Put an unfinished row back, to be read again with what follows."""
        self._lines.extendleft(reversed(taken))
        held = sum(map(len, taken))
        if held > self._limit:
            raise ApiError("MALFORMED_CSV", f"line {self._line + 1}: a row is longer than {self._limit} characters")


class _Source:
    """The lines that csv.reader asks for; remembers those of the row at hand, and whether it asked for more."""

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


def _header(cells: list[str]) -> Header:
    names = [cell.strip() for cell in cells]
    if len(names) > MAX_COLUMNS:
        raise ApiError("MALFORMED_CSV", f"the header has more than {MAX_COLUMNS} columns")
    own: dict[str, int] = {}
    variables: dict[str, int] = {}
    for place, name in enumerate(names):
        known = own if name.lower() in _OWN_COLUMNS else variables
        key = name.lower() if known is own else name.removeprefix("variables.")
        if not name:
            raise ApiError("MALFORMED_CSV", f"column {place + 1} of the header has no name")
        if key in known:
            raise ApiError("MALFORMED_CSV", f"the header names the column {key[:60]!r} twice")
        known[key] = place
    return Header(len(names), tuple(own.items()), tuple(variables.items()))
