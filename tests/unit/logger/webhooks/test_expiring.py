"""Retention deletes old events and deliveries; what waits in Redis stays, and what was missed is counted."""

from __future__ import annotations

from services.logger.webhooks.endpoints import Row
from services.logger.webhooks.expiring import expire_deliveries, expire_events
from tests.unit.logger.database import START_MS, Database, entry, queued, sent
from tests.unit.logger.webhooks.endpoints import add, again, journal, patch, take

LATER_MS = 1 << 50


def endpoint(database: Database, count: int = 10) -> Row:
    row = add(database)
    database.apply(entry(1, queued(range(count)), *(sent(n) for n in range(count))))
    return row


def expired(database: Database) -> int:
    return int(database.one("SELECT coalesce(sum(n), 0) FROM webhook_totals WHERE name = 'events expired'"))


def test_old_events_go_in_chunks_and_the_newest_stays(database: Database) -> None:
    """Ids must never be used again, or a cursor would skip what follows."""
    row = endpoint(database)
    take(database, row)
    kept_ms = journal(database)[0].kept_at_ms
    assert expire_events(kept_ms)(database.connection, 4) == (0, False)
    chunk = expire_events(LATER_MS)
    assert [chunk(database.connection, 4) for _ in range(3)] == [(4, True), (4, True), (1, False)]
    assert [event.event for event in journal(database)] == [10]
    database.apply(entry(2, queued((11,)), sent(11)))
    assert [event.event for event in journal(database)] == [10, 11]
    assert expired(database) == 0


def test_events_that_an_endpoint_never_got_are_counted(database: Database) -> None:
    """It was disabled for as long as the log keeps; one that got them, or does not subscribe, misses nothing."""
    row, other = endpoint(database), add(database, events=["message.failed"])
    add(database)
    patch(database, row, enabled=False)
    chunk = expire_events(LATER_MS)
    assert [chunk(database.connection, 6) for _ in range(2)] == [(6, True), (3, False)]
    assert expired(database) == 9
    patch(database, row, enabled=True)
    assert len(take(database, row)) == 1
    assert take(database, other) == []


def test_old_deliveries_go_unless_they_are_open(database: Database) -> None:
    """A job in Redis is delivered however old it is, and its row still counts for the window."""
    row = endpoint(database)
    take(database, row)
    database.connection.execute("UPDATE webhook_deliveries SET created_at_ms = ? + n", (START_MS,))
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n NOT IN (2, 3)")
    database.connection.execute("UPDATE webhook_deliveries SET status = 'failed' WHERE n = 4")
    chunk = expire_deliveries(row.number, START_MS + 7)
    assert [chunk(database.connection, 4) for _ in range(2)] == [(2, True), (3, False)]
    assert [n for (n,) in database.rows("SELECT n FROM webhook_deliveries ORDER BY n")] == [2, 3, 7, 8, 9]
    assert again(database, row).next_n == 10
