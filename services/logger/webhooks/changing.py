"""What follows from a change of an endpoint, in its transaction: what it gets again, and what it does not get.

Enabled again after Kurir disabled it, an endpoint gets what failed meanwhile: the reason for it was the same. With
another filter it gets what happens from now on, like a new one, if there is nothing left of what it wanted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.logger.database import Database
from services.logger.webhooks.endpoints import BY_CLIENT, Row, change, find
from services.logger.webhooks.journal import last_id
from services.logger.webhooks.planning import unpack_events
from services.logger.webhooks.views import LOOKED_AT_FOR_ONE, has_events

# those that failed after each other: an endpoint that fails has at most a few thousand in five days
_LOOKED_AT = 10_000
FAILED_SINCE = """
SELECT events FROM webhook_deliveries INDEXED BY idx_webhook_failed
WHERE number = ? AND status = 'failed' AND at_ms >= ? ORDER BY n LIMIT ?
"""
_REPLAY = "INSERT INTO webhook_replays (number, next_event, last_event, created_at_ms) VALUES (?, ?, ?, ?)"


def change_endpoint(connection: Database, endpoint_id: str, wanted: Mapping[str, Any], now_ms: int) -> Row:
    """Change the given fields of an endpoint; raises UnknownWebhookError and InvalidQueryError."""
    before = find(connection, endpoint_id)
    row = change(connection, endpoint_id, wanted, now_ms)
    if _filters(row) != _filters(before):
        _skip_past(connection, before)
    if row.enabled and not before.enabled and before.disabled_reason != BY_CLIENT:
        _replay_failed(connection, before, now_ms)
    return find(connection, endpoint_id)


def _filters(row: Row) -> tuple[object, ...]:
    config = row.config
    return sorted(config.events), sorted(config.channels), config.reference


def _skip_past(connection: Database, before: Row) -> None:
    last = last_id(connection)
    if last - before.cursor <= LOOKED_AT_FOR_ONE and not has_events(connection, before, (before.cursor + 1, last)):
        connection.execute("UPDATE webhook_endpoints SET cursor = ? WHERE number = ?", (last, before.number))


def _replay_failed(connection: Database, before: Row, now_ms: int) -> None:
    """Replay from the first event of which the delivery failed since nothing was delivered any more."""
    since_ms = max(before.delivered_at_ms, before.enabled_at_ms)
    rows = connection.execute(FAILED_SINCE, (before.number, since_ms, _LOOKED_AT))
    first = min((unpack_events(packed)[0] for (packed,) in rows), default=None)
    if first is not None:
        connection.execute(_REPLAY, (before.number, first, before.cursor, now_ms))
