"""Retention: old rows are deleted, open messages stay, and the counts still match the rows."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.logger.retention import DAY_MS, Purged, Retention
from services.logger.sqlite_store import SqliteStore
from services.logger.webhooks.endpoints import create
from services.logger.webhooks.planning import AWAIT_BLAST_MS, adopt, propose
from services.logger.writing import EventWriter
from shared.blasts import Blast
from shared.events import ApiRequest, BlastChannelEnded, Receipts, SystemEvent
from shared.sealing import Seal
from tests.unit.logger.database import START_MS, accepted, begun, blast, entry, failed, queued, receipt, sent


class FixedClock:
    """A clock that shows the time set by the test."""

    def __init__(self, now_ms: int) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic(self) -> float:
        return self.at_ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.at_ms += int(seconds * 1000)


WEBHOOK = {"url": "https://example.com/hook", "events": ["*"]}
OLD: Blast = blast("old", total=700)
NEW: Blast = blast("new", total=2, created_at_ms=START_MS + 20 * DAY_MS)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Return a store with a new blast and an old one that still has one job in processing."""
    opened = SqliteStore(tmp_path / "logs.db", readers=1)
    await opened.open()
    clock = FixedClock(START_MS)
    writer = EventWriter(clock)
    later = 20 * DAY_MS
    old = entry(1, accepted(OLD), queued(range(700), "old"), *[sent(index, "old") for index in range(600)])
    ended = entry(2, *[failed(index, "old") for index in range(600, 699)], begun(699, "old"))
    noise = entry(3, ApiRequest(START_MS, "/x", "GET", "", "", 200, 1), SystemEvent(START_MS, "error", "old", "s"))
    await opened.write(lambda connection: writer.apply(connection, [old, ended, noise]))
    clock.at_ms = START_MS + later
    new = entry(4, accepted(NEW), queued(range(2), "new", at=later), sent(0, "new", at=later + 5))
    noise = entry(5, ApiRequest(START_MS + later, "/y", "GET", "", "", 200, 1))
    await opened.write(lambda connection: writer.apply(connection, [new, noise]))
    yield opened
    await opened.close()


async def purge(store: SqliteStore, days_later: int, forget: Callable[[], None] = lambda: None) -> Purged:
    clock = FixedClock(START_MS + days_later * DAY_MS)
    return await Retention(store, 10, forget, clock).purge()


async def rows(store: SqliteStore, query: str) -> list[tuple[Any, ...]]:
    return await store.read(lambda connection: connection.execute(query).fetchall())


async def test_old_rows_are_deleted_and_counts_follow(store: SqliteStore) -> None:
    """Messages go with their attempts and dead letters; the open job and all new rows stay."""
    purged = await purge(store, 20)
    assert purged.rows["message_logs"] == 699
    assert await rows(store, "SELECT job_id FROM message_logs ORDER BY id") == [
        ("old:699:email",),
        ("new:0:email",),
        ("new:1:email",),
    ]
    assert await rows(store, "SELECT status, n FROM message_counts WHERE n > 0 ORDER BY status") == [
        ("processing", 1),
        ("queued", 1),
        ("sent", 1),
    ]
    for table in ("message_attempts", "dead_letters", "system_logs"):
        assert await rows(store, f"SELECT count(*) FROM {table}") == [(0,)]
    assert await rows(store, "SELECT endpoint FROM api_logs") == [("/y",)]


async def test_deleted_rows_have_left_the_write_ahead_log(store: SqliteStore, tmp_path: Path) -> None:
    """Each chunk is checkpointed: otherwise a later commit would wait while the disk writes many chunks."""
    await purge(store, 20)
    alone = tmp_path / "without-its-log.db"
    shutil.copyfile(tmp_path / "logs.db", alone)
    with closing(sqlite3.connect(alone)) as connection:
        assert connection.execute("SELECT count(*) FROM message_logs").fetchone() == (3,)


async def test_totals_stay(store: SqliteStore) -> None:
    """The counters for Prometheus never decrease."""
    before = await rows(store, "SELECT * FROM message_totals")
    await purge(store, 20)
    assert await rows(store, "SELECT * FROM message_totals") == before


async def test_only_an_ended_blast_is_deleted(store: SqliteStore) -> None:
    """A blast with an open job stays, with its template and with counts that add up to its total."""
    await purge(store, 20)
    assert await rows(store, "SELECT sum(n) FROM blast_counts WHERE blast_id = 'old'") == [(700,)]
    writer = EventWriter()
    end = BlastChannelEnded(START_MS + 20 * DAY_MS, "old", "email", {"total": 700})
    await store.write(lambda connection: writer.apply(connection, [entry(9, sent(699, "old", at=50), end)]))
    assert (await purge(store, 30)).rows["blasts"] == 0
    assert (await purge(store, 31)).rows["blasts"] == 1
    assert await rows(store, "SELECT blast_id FROM blasts") == [("new",)]
    assert await rows(store, "SELECT count(*) FROM blast_counts WHERE blast_id = 'old'") == [(0,)]
    assert await rows(store, "SELECT count(*) FROM blast_templates") == [(1,)]


RECEIPTS = [
    receipt("delivered", 5, job_id="old:0:email", address="else@example.com"),
    receipt("bounced", 6, job_id="old:1:email", severity="hard", words="<user1@example.com> is unknown"),
    receipt("delivered", 7, job_id="new:0:email"),
    receipt("opted_out", 8, address="user9999@example.com"),
    receipt("delivered", 9, job_id="never:0:email"),
]


async def test_receipts_go_with_their_messages(store: SqliteStore) -> None:
    """So do their counts; those that waited for a message are counted as unmatched, and totals stay."""
    writer = EventWriter(FixedClock(START_MS))
    await store.write(lambda connection: writer.apply(connection, [entry(9, Receipts(RECEIPTS))]))
    assert await rows(store, "SELECT delivery, n FROM delivery_counts") == [("bounced", 1), ("delivered", 2)]
    purged = await purge(store, 20)
    assert purged.rows["early_receipts"] == 2
    assert await rows(store, "SELECT job_id FROM message_receipts") == [("new:0:email",)]
    assert await rows(store, "SELECT delivery, n FROM delivery_counts WHERE n > 0") == [("delivered", 1)]
    assert await rows(store, "SELECT state, n FROM early_counts ORDER BY state") == [("unmatched", 2), ("waiting", 0)]
    assert await rows(store, "SELECT kind, n FROM receipt_totals") == [("bounced", 1), ("delivered", 2)]


async def test_what_waits_for_a_message_waits_for_a_week(store: SqliteStore) -> None:
    """A provider repeats for a week at most; a person's choice is kept as long as any row of the log."""
    writer = EventWriter(FixedClock(START_MS))
    foreign = [receipt("delivered", 9 + number, job_id=f"never:{number}:email") for number in range(2000)]
    told = [foreign[0], receipt("opted_out", 8, address="user9999@example.com"), *foreign[1:]]
    await store.write(lambda connection: writer.apply(connection, [entry(9, Receipts(told))]))
    retention = Retention(store, 90, lambda: None, FixedClock(START_MS + 7 * DAY_MS))
    assert (await retention.purge()).rows["early_receipts"] == 0
    later = EventWriter(FixedClock(START_MS + 6 * DAY_MS))
    recent = receipt("delivered", 9, job_id="recent:0:email")
    await store.write(lambda connection: later.apply(connection, [entry(10, Receipts([recent]))]))
    retention = Retention(store, 90, lambda: None, FixedClock(START_MS + 7 * DAY_MS + 1))
    assert (await retention.purge()).rows["early_receipts"] == 2000
    left = "SELECT ref FROM early_receipts ORDER BY id"
    assert await rows(store, left) == [("to user9999@example.com",), ("recent:0:email",)]
    assert await rows(store, "SELECT state, n FROM early_counts ORDER BY state") == [
        ("unmatched", 2000), ("waiting", 2),
    ]  # fmt: skip


async def test_applied_batches_are_remembered_for_two_days(store: SqliteStore) -> None:
    """That is enough for any redelivery; a producer without batches is deleted and its cached number forgotten."""
    forgotten: list[bool] = []
    await purge(store, 21, lambda: forgotten.append(True))
    assert await rows(store, "SELECT sequence FROM applied_events ORDER BY sequence") == [(4,), (5,)]
    await purge(store, 23)
    assert await rows(store, "SELECT count(*) FROM applied_events") == [(0,)]
    assert await rows(store, "SELECT count(*) FROM event_producers") == [(0,)]
    assert forgotten == [True]


async def test_the_retention_period_begins_at_a_messages_end(store: SqliteStore) -> None:
    """A message that was scheduled far ahead and its dead letter are kept for the whole period after its failure."""
    writer = EventWriter()
    late = failed(699, "old", at=20 * DAY_MS)
    await store.write(lambda connection: writer.apply(connection, [entry(9, late)]))
    await purge(store, 30)
    kept = "SELECT count(*) FROM message_logs m JOIN dead_letters d USING (job_id) WHERE m.job_id = 'old:699:email'"
    assert await rows(store, kept) == [(1,)]
    await purge(store, 31)
    assert await rows(store, kept) == [(0,)]


async def test_large_snapshots_and_dead_letters_are_deleted_a_few_at_a_time(store: SqliteStore) -> None:
    """Attachments take hundreds of pages each, so a transaction is bounded by bytes (1 MB), not only by rows."""
    ten = range(10)

    def grow(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE dead_letters SET job = zeroblob(400000) WHERE job_id LIKE 'old:60_:email'")
        for number in ten:
            connection.execute(
                "INSERT INTO blasts (blast_id, state, created_at_ms, ended_at_ms, snapshot)"
                " VALUES (?, 'completed', ?, ?, zeroblob(400000))",
                (f"large{number}", START_MS, START_MS),
            )

    await store.write(grow)
    statements: list[str] = []
    await store.write(lambda connection: connection.set_trace_callback(statements.append))
    purged = await purge(store, 20)
    assert (purged.rows["blasts"], purged.rows["message_logs"]) == (10, 699)
    transactions = "\n".join(statements).split("COMMIT")
    large = re.compile(r"DELETE FROM (?:blasts|dead_letters) WHERE \w+ = '(?:large\d|old:60\d:email)'")
    deleted = [len(large.findall(one)) for one in transactions]
    assert (sum(deleted), max(deleted)) == (20, 2)


async def test_nothing_is_left_of_an_address(store: SqliteStore) -> None:
    """Once everything is too old, no table holds an address, a name or a body."""
    writer = EventWriter(FixedClock(START_MS))
    end = [entry(9, sent(699, "old", at=50), failed(1, "new", at=60)), entry(10, Receipts(RECEIPTS))]
    await store.write(lambda connection: writer.apply(connection, end))
    assert await rows(store, "SELECT address FROM suppression_outbox") == [("user1@example.com",)]
    await store.write(lambda connection: connection.execute("DELETE FROM suppression_outbox"))  # as the outbox does
    await purge(store, 60)
    tables = [row[0] for row in await rows(store, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = {table: await rows(store, f"SELECT * FROM {table}") for table in tables}
    assert [table for table, kept in found.items() if "example.com" in repr(kept) or "User" in repr(kept)] == []


async def test_events_and_deliveries_of_webhooks_go_too(tmp_path: Path) -> None:
    """Those that are old: the newest event stays, and so does a delivery that waits."""
    store = SqliteStore(tmp_path / "logs.db", readers=1)
    await store.open()
    clock = FixedClock(START_MS)
    row = await store.write(lambda connection: create(connection, WEBHOOK, Seal("a secret of a test"), START_MS)[0])
    done = entry(1, queued(range(50)), *[sent(index) for index in range(50)])
    await store.write(lambda connection: EventWriter(clock).apply(connection, [done]))

    def hand_out(connection: sqlite3.Connection) -> None:
        # late enough that the events no longer wait for their blast, which the log does not have
        later_ms = START_MS + AWAIT_BLAST_MS
        adopt(connection, propose(connection, row, later_ms, recipients=False), later_ms)
        connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n <> 7")

    await store.write(hand_out)
    clock.at_ms += 31 * DAY_MS
    purged = await Retention(store, 30, lambda: None, clock).purge()
    assert (purged.rows["webhook_events"], purged.rows["webhook_deliveries"]) == (49, 49)
    left = "SELECT n FROM webhook_deliveries", "SELECT id FROM webhook_events"
    found = await store.read(lambda connection: [connection.execute(query).fetchall() for query in left])
    assert found == [[(7,)], [(50,)]]
    await store.close()
