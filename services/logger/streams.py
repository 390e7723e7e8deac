"""Streams of ids: the ids of rows that an index finds, the latest first, read in small pieces.

SQLite appends the id to every index, so rows with equal indexed columns are in id order there. A filter on several
values of a column, or on the first column of a longer index, becomes several streams that are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from services.logger.database import Database
from services.logger.filters import STATUSES, MessageFilter
from shared.channels import CHANNELS

_FIRST_READ, _LATER_READ = 64, 1024
MOST_PREFIXED = 10_000
_MOST_BLASTS = 50
RECIPIENT_COLUMNS = ("recipient_email", "recipient_phone", "recipient_identity")

PREFIXED = """
SELECT id FROM message_logs INDEXED BY {index} WHERE {column} >= ? AND {column} < ? LIMIT ?
"""
BLASTS_BY_REFERENCE = """
SELECT blast_id FROM blasts INDEXED BY idx_blasts_reference WHERE reference = ?
ORDER BY created_at_ms DESC LIMIT ?
"""


class Ids(Protocol):
    """Yields ids in descending order, from below `below` down to `low`."""

    def ids(self, connection: Database, low: int, below: int) -> Iterator[int]:
        """Yield the ids, reading ahead only a little."""
        ...


@dataclass(frozen=True, slots=True)
class IdStream:
    """The ids of a table's rows that meet `condition`, read from `index`; all rows if there is no condition."""

    table: str
    index: str = ""
    condition: str = ""
    parameters: tuple[str | int, ...] = ()

    def query(self) -> str:
        """Return the query of the next ids; its parameters are the condition's, then `low`, `below` and the limit."""
        source = f"{self.table} INDEXED BY {self.index}" if self.index else self.table
        condition = f"{self.condition} AND " if self.condition else ""
        return f"SELECT id FROM {source} WHERE {condition}id >= ? AND id < ? ORDER BY id DESC LIMIT ?"  # noqa: S608 -- own names

    def ids(self, connection: Database, low: int, below: int) -> Iterator[int]:
        """Yield the ids, reading ahead only a little."""
        query, size = self.query(), _FIRST_READ
        while True:
            found = [row[0] for row in connection.execute(query, (*self.parameters, low, below, size))]
            yield from found
            if len(found) < size:
                return
            below, size = found[-1], _LATER_READ


@dataclass(frozen=True, slots=True)
class IdList:
    """Ids that are already known, in descending order."""

    found: Sequence[int]

    def ids(self, _connection: Database, low: int, below: int) -> Iterator[int]:
        """Yield the ids within the bounds."""
        return (one for one in self.found if low <= one < below)


def message_streams(connection: Database, wanted: MessageFilter) -> tuple[list[Ids], frozenset[str]]:
    """Choose the index that leaves the fewest rows to check; return its streams and the filter fields they cover."""
    if wanted.blast:
        if wanted.deliveries:
            return _of_blasts_delivery(wanted.blast, wanted.deliveries), frozenset({"blast", "deliveries"})
        return _of_blast(wanted.blast, wanted), frozenset({"blast", "statuses", "channels"})
    if wanted.recipient:
        found = _of_recipient(connection, wanted)
        if found is not None:
            return [found], frozenset({"recipient"})
    if wanted.reference:
        return _of_reference(connection, wanted), frozenset({"reference"})
    return _of_one_column(wanted) or _of_closed_sets(connection, wanted)


def _of_one_column(wanted: MessageFilter) -> tuple[list[Ids], frozenset[str]] | None:
    """Use the index on the class of the error, on the delivery or on the template; None if none is asked for."""
    if wanted.error_class:
        stream = IdStream("message_logs", "idx_error_class", "error_class = ?", (wanted.error_class,))
        return [stream], frozenset({"error_class"})
    if wanted.deliveries:
        return _of_delivery(wanted), frozenset({"deliveries", "channels"})
    if wanted.template:
        stream = IdStream("message_logs", "idx_template_id", "template_id = ?", (wanted.template,))
        return [stream], frozenset({"template"})
    return None


def _of_blast(blast_id: str, wanted: MessageFilter) -> list[Ids]:
    condition = "blast_id = ? AND channel = ? AND status = ?"
    pairs = product(wanted.channels or tuple(CHANNELS), wanted.statuses or STATUSES)
    return [IdStream("message_logs", "idx_blast", condition, (blast_id, *pair)) for pair in pairs]


def _of_delivery(wanted: MessageFilter) -> list[Ids]:
    """Return the messages with these deliveries; few of them may be of the channel that is asked for."""
    pairs = product(wanted.deliveries, wanted.channels or tuple(CHANNELS))
    return [IdStream("message_logs", "idx_delivery", "delivery = ? AND channel = ?", pair) for pair in pairs]


def _of_blasts_delivery(blast_id: str, deliveries: Sequence[str]) -> list[Ids]:
    condition = "blast_id = ? AND delivery = ?"
    return [IdStream("message_logs", "idx_blast_delivery", condition, (blast_id, one)) for one in deliveries]


def _of_recipient(connection: Database, wanted: MessageFilter) -> Ids | None:
    """Return the messages whose address or identity matches `recipient`; None if there are too many to sort."""
    found: set[int] = set()
    for (beginning, end), column in product(wanted.recipient_ranges, RECIPIENT_COLUMNS):
        query = PREFIXED.format(index=f"idx_{column}", column=column)
        parameters = (beginning, end, MOST_PREFIXED + 1)
        found.update(row[0] for row in connection.execute(query, parameters))
        if len(found) > MOST_PREFIXED:
            return None
    return IdList(sorted(found, reverse=True))


def _of_reference(connection: Database, wanted: MessageFilter) -> list[Ids]:
    """Return the messages of recipients with this reference and of the latest blasts with it."""
    streams: list[Ids] = [IdStream("message_logs", "idx_reference", "reference = ?", (wanted.reference,))]
    for (blast_id,) in connection.execute(BLASTS_BY_REFERENCE, (wanted.reference, _MOST_BLASTS)):
        streams += _of_blast(blast_id, wanted)
    return streams


def _of_closed_sets(connection: Database, wanted: MessageFilter) -> tuple[list[Ids], frozenset[str]]:
    """Use the index on status or on channel, whichever leaves fewer rows."""
    if wanted.statuses and wanted.channels:
        counts = connection.execute("SELECT channel, status, n FROM message_counts").fetchall()
        by_status = sum(n for _, status, n in counts if status in wanted.statuses)
        by_channel = sum(n for channel, _, n in counts if channel in wanted.channels)
        by = "status" if by_status <= by_channel else "channel"
    else:
        by = "status" if wanted.statuses else "channel"
    values, covered = (wanted.statuses, "statuses") if by == "status" else (wanted.channels, "channels")
    if not values:
        return [IdStream("message_logs")], frozenset()
    streams: list[Ids] = [IdStream("message_logs", f"idx_{by}", f"{by} = ?", (value,)) for value in values]
    return streams, frozenset({covered})
