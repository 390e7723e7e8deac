"""Importing: checks a whole file of suppressions before it stores any, with one block in memory.

Safe to repeat: existing suppressions stay as they are. What is stored becomes events for the logger, so an import waits
while too many of them are unwritten.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.ingest.blasts.csv_columns import UnfitRows
from services.ingest.blasts.csv_rows import CsvRow
from services.ingest.blasts.first_pass import AT_ONCE
from services.ingest.blasts.recipients import FoundProblems
from services.ingest.blasts.spool import BlockFile
from services.ingest.http.errors import Problem
from services.ingest.http.gateway import Queue
from services.ingest.suppressions.rows import Entry, RowReader
from shared.errors import QueueFullError
from shared.suppressions import Suppression

# Redis blocks while a block is stored
_BLOCK = 500
# the logger writes a stream at its limit within seconds, unless it is away
_PATIENCE_S = 30.0
_WAIT_S = 0.25
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[str, str, Suppression]])


@dataclass(frozen=True, slots=True)
class How:
    """How a file is imported: `permissive` stores the valid rows and skips invalid ones, `dry` stores nothing."""

    permissive: bool = False
    dry: bool = False


@dataclass(slots=True)
class Imported:
    """The result of an import: suppressions read, counted by outcome, and the rows that were rejected."""

    total: int = 0
    stored: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    problems: list[Problem] = field(default_factory=list)


async def import_rows(
    blocks: AsyncIterator[list[CsvRow]], reader: RowReader, queue: Queue, folder: Path, how: How
) -> Imported:
    """Check all rows, then store them; raises ApiError with every problem where the whole file must be valid.

    Raises QueueFullError if too many events wait for the logger and do not get fewer; what was stored stays.
    """
    found, unfit, imported = FoundProblems(), UnfitRows(), Imported()
    with closing(_Pending(folder)) as pending:
        async for rows in blocks:
            for row in rows:
                if not (imported.rejected + pending.rows) % AT_ONCE:
                    await asyncio.sleep(0)
                if unfit.take(row):
                    imported.rejected += 1
                    continue
                result = reader.read(row, imported.rejected + pending.rows)
                if problems := [one for one in result if isinstance(one, Problem)]:
                    imported.rejected += 1
                    found.add(problems)
                    if found.full and not how.permissive:
                        raise found.answer()
                else:
                    pending.add([one for one in result if not isinstance(one, Problem)])
        found.add(unfit.problems())
        if found.total and not (how.permissive and pending.rows):
            raise found.answer()
        imported.total, imported.problems = pending.entries, found.first
        if not how.dry:
            for block in pending.blocks():
                await _store(block, queue, imported)
    return imported


async def _store(block: list[Entry], queue: Queue, imported: Imported) -> None:
    by_channel: defaultdict[str, list[tuple[str, Suppression]]] = defaultdict(list)
    for channel, address, one in block:
        by_channel[channel].append((address, one))
    for channel, every in by_channel.items():
        await _await_room(channel, queue)
        imported.stored.update(await queue.suppressions.add_all(channel, every))


async def _await_room(channel: str, queue: Queue) -> None:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await queue.producer.check_events(channel)
        except QueueFullError:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(_WAIT_S)


class _Pending:
    """Checked rows kept until the end of the file, in memory and then on disk."""

    def __init__(self, folder: Path) -> None:
        self._file = BlockFile(folder)
        self._block: list[Entry] = []
        self.rows = 0
        self.entries = 0

    def add(self, entries: list[Entry]) -> None:
        self.rows += 1
        self.entries += len(entries)
        self._block += entries
        if len(self._block) >= _BLOCK:
            self._flush()

    def blocks(self) -> Iterator[list[Entry]]:
        """Return every entry, about 500 at a time."""
        self._flush()
        return map(_decoder.decode, self._file.blocks())

    def close(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        self._file.write(_encoder.encode(self._block))
        self._block = []
