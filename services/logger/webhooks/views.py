"""Views: endpoints and their deliveries as ingest answers them, in camelCase, and which events a replay has.

Deliveries are listed by falling number, which is the order in which they were made. A page looks at a bounded number of
rows, so with a rare filter it may be short or even empty and still have a successor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from services.logger.database import Database
from services.logger.filters import InvalidQueryError, Page, Span, read_page, read_span, write_cursor
from services.logger.webhooks.endpoints import Row
from services.logger.webhooks.journal import first_id, last_id
from shared.clock import rfc3339
from shared.webhooks import ALL_EVENTS, EVENT_TYPES, WEBHOOK_TEST

DELIVERY_STATUSES = ("waiting", "retrying", "delivered", "failed")
# rows of the journal that are looked at to count events; beyond, their share is an estimate
LOOKED_AT_FOR_ONE, _LOOKED_AT_FOR_EACH = 100_000, 5000
_LOOKED_AT = 5000
_LAST_ID = (1 << 63) - 1

OPEN_EVENTS = """
SELECT coalesce(sum(count), 0) FROM webhook_deliveries INDEXED BY idx_webhook_open
WHERE number = ? AND status IN ('waiting', 'retrying')
"""
MATCHING = """
SELECT count(*) FROM webhook_events
WHERE id BETWEEN ?1 AND ?2 AND type IN (SELECT value FROM json_each(?3))
    AND (?4 = '[]' OR channel = '' OR channel IN (SELECT value FROM json_each(?5))) AND subject <> ?6
"""
_REPLAY = """
INSERT INTO webhook_replays (number, next_event, last_event, created_at_ms) VALUES (?, ?, ?, ?) RETURNING id
"""
_ALWAYS = Span()
_COLUMNS = (
    "n, webhook_id, type, count, status, attempts, created_at_ms, at_ms, next_at_ms, response_status, error,"
    " duration_ms"
)
_PAGE = f"""
SELECT {_COLUMNS} FROM webhook_deliveries {{index}}
WHERE number = ?1 AND n >= ?2 AND n < ?3 AND {{status}} ORDER BY n DESC LIMIT ?4
"""  # noqa: S608 -- this module's own words
_EVERY = _PAGE.format(index="", status="true")
_FAILED = _PAGE.format(index="INDEXED BY idx_webhook_failed", status="status = 'failed'")
_OPEN = _PAGE.format(index="INDEXED BY idx_webhook_open", status="status IN ('waiting', 'retrying')")
PAGES = {"": _EVERY, "delivered": _EVERY, "failed": _FAILED, "waiting": _OPEN, "retrying": _OPEN}
_FIRST_FROM = "SELECT created_at_ms FROM webhook_deliveries WHERE number = ? AND n >= ? ORDER BY n LIMIT 1"
_EVENT_FROM = "SELECT kept_at_ms FROM webhook_events WHERE id >= ? ORDER BY id LIMIT 1"


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries of an endpoint to return, by status ("" for every) and by the time at which they were made."""

    status: str = ""
    span: Span = _ALWAYS


def read_delivery_filter(query: Mapping[str, str]) -> tuple[DeliveryFilter, Page]:
    """Read the parameters of a list of deliveries; raises InvalidQueryError."""
    status = query.get("status", "")
    if status and status not in DELIVERY_STATUSES:
        raise InvalidQueryError(f"status: {status!r} is unknown; use {', '.join(DELIVERY_STATUSES)}")
    return DeliveryFilter(status, read_span(query)), read_page(query)


def show(connection: Database, row: Row, *, alone: bool = True) -> dict[str, Any]:
    """Return an endpoint, alone or with all others; its secret is never shown again."""
    config = row.config
    return {
        "id": row.endpoint_id,
        "url": config.url,
        "events": config.events,
        "channels": config.channels,
        "reference": config.reference,
        "description": config.description,
        "batch": None if config.batch is None else msgspec.to_builtins(config.batch),
        "enabled": bool(row.enabled),
        "disabledReason": row.disabled_reason or None,
        "failingSince": rfc3339(row.failing_since_ms) if row.failing_since_ms else None,
        "createdAt": rfc3339(row.created_at_ms),
        "updatedAt": rfc3339(row.updated_at_ms),
        "waiting": count_waiting(connection, row, LOOKED_AT_FOR_ONE if alone else _LOOKED_AT_FOR_EACH),
        "lastDeliveredAt": rfc3339(row.delivered_at_ms) if row.delivered_at_ms else None,
    }


def count_waiting(connection: Database, row: Row, looked_at: int = LOOKED_AT_FOR_ONE) -> int:
    """Return how many events an endpoint has not got yet, an estimate if more than `looked_at` rows follow its cursor.

    A filter by reference is not applied to those that are not handed out.
    """
    handed_out = int(connection.execute(OPEN_EVENTS, (row.number,)).fetchone()[0])
    return handed_out + _count(connection, row, (row.cursor + 1, _LAST_ID), looked_at)


def count_unplanned(connection: Database, row: Row, until: int) -> int:
    """Return how many events up to an id are not handed out to an endpoint; a filter by reference is not applied."""
    return _count(connection, row, (row.cursor + 1, until), LOOKED_AT_FOR_ONE)


def list_deliveries(
    connection: Database, row: Row, wanted: DeliveryFilter, page: Page
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of deliveries, the latest first, and the cursor of the next page."""
    low = 0 if wanted.span.from_ms is None else first_delivery(connection, row, wanted.span.from_ms)
    high = row.next_n if wanted.span.to_ms is None else first_delivery(connection, row, wanted.span.to_ms + 1)
    if page.cursor:
        high = min(high, page.cursor)
    limit = page.limit if wanted.status in {"", "failed"} else _LOOKED_AT
    found: list[dict[str, Any]] = []
    looked, last = 0, 0
    for delivery in connection.execute(PAGES[wanted.status], (row.number, low, high, limit)):
        looked, last = looked + 1, delivery[0]
        if not wanted.status or delivery[4] == wanted.status:
            found.append(_delivery(*delivery))
        if len(found) == page.limit:
            break
    # number 0 has no successor
    more = last > low and (looked == limit or len(found) == page.limit)
    return found, write_cursor(last) if more else None


def first_delivery(connection: Database, row: Row, at_ms: int) -> int:
    """Return the number of the first delivery of an endpoint that was made at a time or later."""
    return _first(0, row.next_n, lambda n: connection.execute(_FIRST_FROM, (row.number, n)).fetchone(), at_ms)


def first_event(connection: Database, at_ms: int) -> int:
    """Return the id of the first event of the journal that was written at a time or later."""
    return _first(1, last_id(connection) + 1, lambda event: connection.execute(_EVENT_FROM, (event,)).fetchone(), at_ms)


def add_replay(connection: Database, row: Row, from_ms: int, to_ms: int, now_ms: int) -> tuple[int, int]:
    """Let an endpoint get the events of a span again, `to_ms` excluded; return the replay's id and its size.

    A filter by reference is not applied to the size, which is an estimate for a long span. Events that the endpoint has
    not got yet are not among them: they come anyway.
    """
    first = first_event(connection, from_ms)
    last = min(first_event(connection, to_ms) - 1, row.cursor)
    events = _count(connection, row, (first, last), LOOKED_AT_FOR_ONE)
    replay = int(connection.execute(_REPLAY, (row.number, first, last, now_ms)).fetchone()[0])
    if last < first:
        connection.execute("DELETE FROM webhook_replays WHERE id = ?", (replay,))
    return replay, events


def _first(low: int, high: int, time_of: Callable[[int], tuple[int] | None], at_ms: int) -> int:
    """Return the first number whose row, or the next one that exists, is at a time or later, by bisection."""
    while low < high:
        middle = (low + high) // 2
        found = time_of(middle)
        if found is not None and found[0] < at_ms:
            low = middle + 1
        else:
            high = middle
    return low


def _count(connection: Database, row: Row, ids: tuple[int, int], looked_at: int) -> int:
    """Return how many events with ids in a range an endpoint gets by its types and channels.

    Beyond `looked_at` rows, what follows is taken to have the same share of them.
    """
    first, last = max(ids[0], first_id(connection)), min(ids[1], last_id(connection))
    rows, until = last - first + 1, min(last, first + looked_at - 1)
    if rows <= 0:
        return 0
    found = _count_exactly(connection, row, (first, until))
    return found if until == last else found * rows // looked_at


def has_events(connection: Database, row: Row, ids: tuple[int, int]) -> bool:
    """Return whether there is an event for an endpoint, by its types and channels, with an id in a range."""
    return _count_exactly(connection, row, ids) > 0


def _count_exactly(connection: Database, row: Row, ids: tuple[int, int]) -> int:
    config = row.config
    wanted = EVENT_TYPES if ALL_EVENTS in config.events else config.events
    types = [name for name in wanted if name != WEBHOOK_TEST]
    channels = orjson.dumps(config.channels).decode()
    values = (*ids, orjson.dumps(types).decode(), channels, channels, row.endpoint_id)
    return int(connection.execute(MATCHING, values).fetchone()[0])


def _delivery(*row: Any) -> dict[str, Any]:
    _, webhook_id, kind, count, status, attempts, created_ms, at_ms, next_at_ms, response, error, duration_ms = row
    return {
        "id": webhook_id,
        "type": kind,
        "events": count,
        "status": status,
        "attempts": attempts,
        "createdAt": rfc3339(created_ms),
        "lastAttemptAt": rfc3339(at_ms) if attempts else None,
        "nextAttemptAt": rfc3339(next_at_ms) if next_at_ms and status == "retrying" else None,
        "responseStatus": response or None,
        "error": error or None,
        "durationMs": duration_ms if attempts else None,
    }
