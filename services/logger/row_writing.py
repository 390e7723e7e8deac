"""The statements on the path of every event, of which each adapter has its own: they decide how fast the log is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import orjson

from services.logger.database import Database
from services.logger.folding import JobChange
from services.logger.merging import Known, Merged, Tally
from shared.events import ApiRequest, EventBatch, SystemEvent

IdT = TypeVar("IdT")


Alike = tuple[str, str, int, str, int, str, str, str, bool, str]
"""A receipt without its job: channel, kind, at_ms, source, run, severity, code, words, trusted and evidence."""


@dataclass(slots=True)
class Deliveries:
    """New deliveries: the rows by kind and time, and the changes of counts by blast, channel and delivery."""

    updates: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class Together(NamedTuple):
    """Jobs of a blast that end together in a run, and the state that their rows get; `at` is the time as in a row."""

    blast_id: str
    job_ids: Sequence[str]
    status: str
    error_class: str
    message: str
    run: int
    at: str
    rank: int


class OldJob(NamedTuple):
    """What retention knows of a message that it deletes."""

    row_id: int
    job_id: str
    channel: str
    status: str
    delivery: str | None


class RowWriter(Protocol):
    """Writes what a batch of events changed, within its transaction."""

    def note_batches(
        self, connection: Database, batches: Sequence[EventBatch], now_s: int, producers: dict[str, int]
    ) -> list[bool]:
        """Record batches as applied; return for each whether it is new. `producers` are the numbers known so far."""
        ...

    def find_known(self, connection: Database, job_ids: Sequence[str]) -> Iterator[Known]:
        """Yield the existing rows of jobs."""
        ...

    def parts(self, changes: Sequence[JobChange]) -> Iterable[Sequence[JobChange]]:
        """Return the parts in which changes are best merged and written."""
        ...

    def write_jobs(self, connection: Database, merged: Merged) -> None:
        """Write the rows of jobs, their dead letters, and the bounds of the ids of each minute."""
        ...

    def end_together(self, connection: Database, together: Together, was: str) -> int:
        """End the messages that have this status in this run; return how many.

        Left alone are those that lack what their `Queued` says or when it was, and those with a higher rank.
        """
        ...

    def write_tally(self, connection: Database, tally: Tally) -> None:
        """Change the counts."""
        ...

    def write_attempts(
        self, connection: Database, attempts: Iterable[tuple[Any, ...]], errors: Mapping[tuple[int, str, str], int]
    ) -> None:
        """Write attempts, and count errors by day, channel and class."""
        ...

    def write_receipts(self, connection: Database, alike: Mapping[Alike, Sequence[str]]) -> None:
        """Add the rows of new receipts: of each the jobs that it is about."""
        ...

    def write_deliveries(self, connection: Database, deliveries: Deliveries) -> None:
        """Write the deliveries of messages, and change their counts."""
        ...

    def drop_jobs(self, connection: Database, jobs: Sequence[OldJob]) -> None:
        """Delete the rows of messages and what belongs to them, and change the counts."""
        ...

    def write_requests(self, connection: Database, requests: Iterable[ApiRequest]) -> None:
        """Add requests to the API."""
        ...

    def write_system(self, connection: Database, events: Iterable[SystemEvent]) -> None:
        """Add events of services."""
        ...


@runtime_checkable
class BringsRows(Protocol):
    """A database that has a row writer of its own."""

    @property
    def rows(self) -> RowWriter:
        """The row writer."""
        ...


def first_and_last(rows: Iterable[tuple[int, IdT]]) -> Iterator[tuple[int, IdT]]:
    """Yield the first row of every minute, then the last; `rows` are in the order of insertion."""
    first: dict[int, IdT] = {}
    last: dict[int, IdT] = {}
    for minute, row in rows:
        first.setdefault(minute, row)
        last[minute] = row
    yield from first.items()
    yield from last.items()


def metadata_of(event: SystemEvent) -> str | None:
    """Return the metadata of an event as JSON, None without any."""
    return orjson.dumps(event.metadata, default=str).decode() if event.metadata else None
