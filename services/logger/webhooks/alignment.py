"""Alignment: what the database and Redis know about the deliveries of an endpoint, made to agree.

Redis's watermark is the number of the delivery that it expects next. Deliveries from there on that the database has as
enqueued are lost: Redis lost its last writes, or all of them. A watermark beyond the database's own numbers, or a
report that was taken from Redis and is not in the database, means that the database was restored from a backup: its
open deliveries then get numbers that were never used. Either way they are enqueued again, under the same `webhook-id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from services.logger.database import Database
from services.logger.webhooks.bodies import BATCH, COLUMNS, Journaled, batch_of, item_of, read_facts, single_of
from services.logger.webhooks.endpoints import Row
from services.logger.webhooks.journal import COUNT
from services.logger.webhooks.planning import unpack_events
from services.logger.webhooks.results import entry_order
from shared.queue.webhook_queues import Outgoing, Progress

EXPIRED = "its events are older than the log keeps"
# read at once: their bodies are in memory until they are enqueued
_UNSENT, _UNSENT_BYTES = 500, 4 * 1024 * 1024
_OPEN = "number = ?1 AND status IN ('waiting', 'retrying')"

# these queries consist of this module's own words
LOST = f"""
SELECT n FROM webhook_deliveries INDEXED BY idx_webhook_open WHERE {_OPEN} AND n >= ?2 AND enqueued LIMIT 1
"""  # noqa: S608
_REWIND = f"UPDATE webhook_deliveries SET enqueued = false WHERE {_OPEN} AND n >= ?2"  # noqa: S608
OPEN = f"SELECT n FROM webhook_deliveries INDEXED BY idx_webhook_open WHERE {_OPEN} ORDER BY n"  # noqa: S608
_RENUMBER = "UPDATE webhook_deliveries SET n = ?3, enqueued = false, state_rank = 0 WHERE number = ?1 AND n = ?2"
_KNOWN = "SELECT next_n, reported FROM webhook_endpoints WHERE number = ?"
_RESTORED = "UPDATE webhook_endpoints SET next_n = ?, reported = ? WHERE number = ?"
UNSENT = f"""
SELECT n, webhook_id, type, events, bytes FROM webhook_deliveries INDEXED BY idx_webhook_open
WHERE {_OPEN} AND NOT enqueued ORDER BY n LIMIT ?2
"""  # noqa: S608
EVENTS = f"""
SELECT {COLUMNS} FROM webhook_events WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id
"""  # noqa: S608
_BEFORE = f"""
SELECT n FROM webhook_deliveries INDEXED BY idx_webhook_open WHERE {_OPEN} AND n < ?2 AND NOT enqueued LIMIT 1
"""  # noqa: S608
_MARK = "UPDATE webhook_deliveries SET enqueued = true WHERE number = ? AND n = ?"
_GIVE_UP = "UPDATE webhook_deliveries SET status = 'failed', error = ?, enqueued = true WHERE number = ? AND n = ?"


class Unsent(NamedTuple):
    """Deliveries that are not enqueued, the numbers of those whose events are gone, and whether there are more."""

    outgoing: list[Outgoing]
    gone: list[int]
    more: bool


def is_off(connection: Database, number: int, redis: Progress) -> bool:
    """Return whether the database and Redis disagree about an endpoint; read Redis first, and the database then."""
    known = connection.execute(_KNOWN, (number,)).fetchone()
    if known is None:
        return False  # deleted since
    return _is_restored(known, redis) or connection.execute(LOST, (number, redis.watermark)).fetchone() is not None


def _is_restored(known: tuple[int, str], redis: Progress) -> bool:
    next_n, reported = known
    return redis.watermark > next_n or entry_order(redis.taken) > entry_order(reported)


def align_restored(connection: Database, known_to_redis: Iterable[tuple[int, Progress]]) -> list[int]:
    """Align endpoints, by number, for which the database was restored, within a transaction; return their numbers."""
    restored = []
    for number, redis in known_to_redis:
        known = connection.execute(_KNOWN, (number,)).fetchone()
        if known is not None and _is_restored(known, redis):
            align(connection, number, redis)
            restored.append(number)
    return restored


def has_unsent_before(connection: Database, number: int, n: int) -> bool:
    """Return whether a delivery before `n` is open and not enqueued."""
    return connection.execute(_BEFORE, (number, n)).fetchone() is not None


def align(connection: Database, number: int, redis: Progress) -> None:
    """Make the deliveries that Redis does not have ready to be enqueued again, within a transaction.

    A restored database does not know which of them Redis still has: some may be delivered twice, under the same id.
    """
    known = connection.execute(_KNOWN, (number,)).fetchone()
    if known is None:
        return
    if not _is_restored(known, redis):
        connection.execute(_REWIND, (number, redis.watermark))
        return
    numbers = [n for (n,) in connection.execute(OPEN, (number,))]
    first = max(redis.watermark, known[0])
    # the highest first: no two rows ever have the same number
    renumbered = [(number, n, first + place) for place, n in reversed(list(enumerate(numbers)))]
    connection.executemany(_RENUMBER, renumbered)
    reported = max(redis.taken, known[1], key=entry_order)
    connection.execute(_RESTORED, (first + len(numbers), reported, number))


def load_unsent(connection: Database, row: Row, *, recipients: bool) -> Unsent:
    """Read the next deliveries that are not enqueued, and make their bodies from their events again."""
    rows = connection.execute(UNSENT, (row.number, _UNSENT)).fetchall()
    outgoing: list[Outgoing] = []
    gone: list[int] = []
    size = 0
    for n, webhook_id, kind, packed, own in rows:
        if outgoing and size + own > _UNSENT_BYTES:
            return Unsent(outgoing, gone, more=True)
        body = _body(connection, kind, unpack_events(packed), recipients=recipients)
        if body is None:
            gone.append(n)
            continue
        outgoing.append(Outgoing(n, webhook_id, body))
        size += own
    return Unsent(outgoing, gone, more=len(rows) == _UNSENT)


def _body(connection: Database, kind: str, ids: Sequence[int], *, recipients: bool) -> str | None:
    """Return the body of a delivery, None if none of its events is left."""
    rows = connection.execute(EVENTS, (orjson.dumps(ids).decode(),))
    events = [Journaled._make(row) for row in rows]
    if not events:
        return None
    facts = read_facts(connection, events, recipients=recipients)
    if kind != BATCH:
        return single_of(events[0], facts)
    return batch_of([item_of(event, facts)[1] for event in events], events[-1].kept_at_ms)


def mark_enqueued(connection: Database, marks: Iterable[tuple[int, int]]) -> None:
    """Mark deliveries, by endpoint and number, as enqueued."""
    connection.executemany(_MARK, marks)


def give_up(connection: Database, gone: Sequence[tuple[int, int]]) -> None:
    """End deliveries, by endpoint and number, whose events retention has deleted."""
    connection.executemany(_GIVE_UP, ((EXPIRED, *one) for one in gone))
    connection.execute(COUNT, ("deliveries failed", len(gone)))
