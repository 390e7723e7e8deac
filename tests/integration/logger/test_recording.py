"""Recording loses nothing and counts nothing twice while Redis, the disk or the database file fails."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from services.logger.later_indexes import LATER_INDEXES
from shared.errors import QueueUnavailableError
from shared.events import Event, EventBatch, Receipts, pack_batch, pack_event
from shared.queue.connection import connect
from shared.queue.event_log import Before, EventEntry, EventLog
from shared.queue.keys import LOGGER_GROUP, PartitionKeys
from tests.integration.logger.recording import STREAM, Recording
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import START_MS, begun, failed, queued, queued_phones, receipt, sent, sent_phone

Record = Callable[..., Awaitable[Recording]]


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[Record]:
    """Return a function that starts a recorder on a server."""
    made: list[Recording] = []

    async def start(url: str, events: type[EventLog] = EventLog) -> Recording:
        recording = Recording(url, tmp_path, events)
        made.append(recording)
        await recording.start()
        return recording

    yield start
    for recording in made:
        await recording.close()


async def test_events_become_rows_and_leave_the_stream(redis_url: str, record: Record) -> None:
    """Events are read, written and acknowledged."""
    recording = await record(redis_url)
    await recording.add(queued(range(3)))
    await wait_for(recording.is_drained)
    await recording.add(begun(0), sent(0), failed(1))
    await wait_for(lambda: recording.statuses() == {"queued": 1, "sent": 1, "failed": 1})
    await wait_for(recording.is_drained)
    assert recording.recorder.state.events == 4
    assert recording.written[-1].ended_jobs == {"b": 2}


async def test_a_batch_that_was_written_but_not_acknowledged_counts_once(valkey_url: str, record: Record) -> None:
    """After a failure between commit and acknowledgement the batch is read again and found to be applied."""

    class CutOff(EventLog):
        cuts = 2

        async def ack(self, entries: Sequence[EventEntry], before: Before | None = None) -> None:
            if self.cuts:
                self.cuts -= 1
                raise QueueUnavailableError("cut off")
            await super().ack(entries, before)

    recording = await record(valkey_url, CutOff)
    await recording.add(queued(range(5)))
    await recording.add(sent(0))
    await wait_for(recording.is_drained)
    assert recording.statuses() == {"queued": 4, "sent": 1}
    assert dict(recording.rows("SELECT status, n FROM message_totals")) == {"queued": 5, "sent": 1}
    assert recording.recorder.state.repeated > 0


async def test_what_a_logger_that_is_gone_had_read_is_written(redis_url: str, record: Record) -> None:
    """A file's logger takes over what loggers of PostgreSQL left behind, but not what one may still be writing."""
    redis = connect(redis_url)
    await redis.xadd(STREAM, {"d": pack_batch(EventBatch("test", 1, [queued(range(3))]))})
    gone = EventLog(redis, consumer="gone")
    entries = await gone.read(10, 0.0) or await gone.read(10, 0.0)
    assert len(entries) == 1
    assert await EventLog(redis).take_over(3600.0) == 0
    await redis.xclaim(STREAM, LOGGER_GROUP, "gone", 0, [entries[0].entry_id], idle=20_000)
    await redis.aclose()
    recording = await record(redis_url)
    await wait_for(recording.is_drained)
    assert recording.statuses() == {"queued": 3}


async def test_a_restart_of_redis_loses_nothing(record: Record) -> None:
    """The recorder reports that Redis is away, and continues by itself when it is back."""
    server = RedisServer()
    server.start()
    try:
        recording = await record(server.url)
        await recording.add(queued(range(4)))
        await wait_for(recording.is_drained)
        server.kill()
        await wait_for(lambda: "redis" in recording.health.reasons())
        server.start()
        await recording.add(sent(0))
        await wait_for(lambda: recording.statuses() == {"queued": 3, "sent": 1})
        await wait_for(lambda: recording.health.reasons() == {})
    finally:
        server.destroy()


async def test_a_locked_file_is_waited_for(valkey_url: str, record: Record) -> None:
    """While another program locks the file, health reports it, failures are counted, and events wait in Redis."""
    recording = await record(valkey_url)
    with closing(sqlite3.connect(recording.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await recording.add(queued(range(3)))
        await wait_for(lambda: "database" in recording.health.reasons())
        assert "locked" in recording.health.reasons()["database"]
        assert recording.recorder.state.write_failures > 0
        assert not await recording.is_drained()
        other.execute("ROLLBACK")
    await wait_for(recording.is_drained)
    assert recording.statuses() == {"queued": 3}
    assert recording.health.reasons() == {}


async def test_a_full_disk_is_waited_for(valkey_url: str, record: Record) -> None:
    """SQLite's "disk is full" loses nothing: once space is free, everything is written exactly once."""
    recording = await record(valkey_url)
    pages = await recording.store.maintain(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await recording.store.maintain(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    for first in range(0, 2000, 500):
        await recording.add(queued(range(first, first + 500)))
    await wait_for(lambda: "full" in recording.health.reasons().get("database", ""))
    await recording.store.maintain(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone())
    await wait_for(recording.is_drained)
    assert recording.statuses() == {"queued": 2000}
    assert recording.rows("SELECT n FROM message_totals") == [(2000,)]


async def test_an_event_that_cannot_be_applied_does_not_stop_others(valkey_url: str, record: Record) -> None:
    """It is kept with its error; the events before and after it are written."""
    recording = await record(valkey_url)
    await recording.add(queued(range(2)))
    beyond_any_column = 2**63
    await recording.add(sent(0, attempt=beyond_any_column))
    await recording.redis.xadd(STREAM, {"d": b"\xc1 no batch"})
    await recording.add(sent(1))
    await wait_for(recording.is_drained)
    assert recording.statuses() == {"queued": 1, "sent": 1}
    kept = recording.rows("SELECT error FROM undecodable_events ORDER BY id")
    assert len(kept) == 2
    assert recording.recorder.state.set_aside == 2


async def test_an_event_of_a_later_version_is_set_aside(valkey_url: str, record: Record) -> None:
    """The batch with an unknown event is kept whole, its other events are written, and extra fields are ignored."""
    recording = await record(valkey_url)
    further: list[object] = [*msgspec.msgpack.decode(pack_event(queued([0]))), "further"]
    events = [further, ["delivered", START_MS, "b:0:email"], msgspec.msgpack.decode(pack_event(sent(0)))]
    await recording.redis.xadd(STREAM, {"d": msgspec.msgpack.encode(["later", 1, events])})
    await wait_for(recording.is_drained)
    assert recording.statuses() == {"sent": 1}
    (kept,) = recording.rows("SELECT raw FROM undecodable_events")
    assert msgspec.msgpack.decode(kept[0]) == ["later", 1, events]
    assert recording.recorder.state.set_aside == 1


async def test_a_large_file_gets_its_indexes_before_the_first_event(
    valkey_url: str, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events wait until the recorder has built them: a receipt is found by its provider's id at once."""
    first = await record(valkey_url)
    await first.close()
    with closing(sqlite3.connect(tmp_path / "logs.db")) as database:
        for name in LATER_INDEXES:
            database.execute(f"DROP INDEX {name}")
    monkeypatch.setattr("services.logger.sqlite_store.CHECK_FIRST_BYTES", 0)
    recording = await record(valkey_url)
    read = Receipts([receipt("read", 5, provider_id="wamid.w.0", source="meta")])
    batch = EventBatch("test", 99, [queued_phones(), sent_phone(), read])
    await recording.redis.xadd(PartitionKeys("whatsapp").events, {"d": pack_batch(batch)})
    await wait_for(recording.is_drained)
    assert recording.store.unindexed == []
    assert recording.rows("SELECT delivery FROM message_logs") == [("read",)]
    indexes = {name for (name,) in recording.rows("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert indexes >= set(LATER_INDEXES)


async def test_waiting_events_are_written_before_the_exit(valkey_url: str, record: Record) -> None:
    """When asked to stop, the recorder first writes the events left in Redis."""
    recording = await record(valkey_url)
    events: list[Event] = [queued(range(50)), *[sent(index) for index in range(50)]]
    for event in events:
        await recording.add(event)
    await recording.close()
    assert recording.statuses() == {"sent": 50}
