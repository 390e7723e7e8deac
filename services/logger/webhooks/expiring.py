"""Retention of the journal and of deliveries, in the chunks of `retention`.

The newest event of the journal always stays, so that ids are never used again. An open delivery stays too: what is in
Redis is delivered however old it is. Events that a webhook has not got when they are deleted, because it was disabled
or away for as long as the log keeps, are counted.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from services.logger.database import Database
from services.logger.webhooks.endpoints import read_rows
from services.logger.webhooks.journal import COUNT
from services.logger.webhooks.views import count_unplanned

Chunked = Callable[[Database, int], tuple[int, bool]]

OLD_EVENTS = """
SELECT id FROM webhook_events WHERE id > ?1 AND id < (SELECT max(id) FROM webhook_events) AND kept_at_ms < ?2
ORDER BY id LIMIT ?3
"""
OLD_DELIVERIES = """
SELECT n, created_at_ms < ?3, status IN ('delivered', 'failed') FROM webhook_deliveries
WHERE number = ?1 AND n > ?2 ORDER BY n LIMIT ?4
"""


def expire_events(cutoff_ms: int) -> Chunked:
    """Delete events that were journaled before the cutoff, in the order of their ids."""

    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        row = connection.execute("SELECT kept_at_ms FROM webhook_events WHERE id > 0 ORDER BY id LIMIT 1").fetchone()
        if row is None or row[0] >= cutoff_ms:
            return 0, False
        ids = [event for (event,) in connection.execute(OLD_EVENTS, (0, cutoff_ms, size))]
        if not ids:
            return 0, False
        missed = sum(
            count_unplanned(connection, endpoint, ids[-1])
            for endpoint in read_rows(connection)
            if not endpoint.deleted and endpoint.cursor < ids[-1]
        )
        if missed:
            connection.execute(COUNT, ("events expired", missed))
        connection.execute("DELETE FROM webhook_events WHERE id <= ?", (ids[-1],))
        return len(ids), len(ids) == size

    return chunk


def expire_deliveries(number: int, cutoff_ms: int) -> Chunked:
    """Delete an endpoint's deliveries that ended and were made before the cutoff."""
    last = -1

    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        nonlocal last
        rows = connection.execute(OLD_DELIVERIES, (number, last, cutoff_ms, size)).fetchall()
        old = [row for row in rows if row[1]]
        ended = [n for n, _, has_ended in old if has_ended]
        last = old[-1][0] if old else last
        query = "DELETE FROM webhook_deliveries WHERE number = ? AND n IN (SELECT value FROM json_each(?))"
        connection.execute(query, (number, orjson.dumps(ended).decode()))
        return len(ended), len(old) == size

    return chunk
