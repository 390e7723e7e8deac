"""The logger's process: kills during work, its metrics after a restart, backups and access."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial

from shared.events import Event, EventBatch, pack_batch
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from tests.integration.logger.conftest import LoggerMaker
from tests.integration.logger.recording import STREAM
from tests.servers import INTERNAL_SECRET, wait_for
from tests.unit.logger.database import begun, failed, queued, sent

JOBS, BATCH = 3000, 10
SAMPLES = {
    "kurir_redis_up", "kurir_redis_memory_used_bytes", "kurir_events_lag", "kurir_db_size_bytes",
    "kurir_log_size_bytes", "kurir_db_write_failures_total", 'kurir_queue_waiting{channel="email",lane="high"}',
    'kurir_queue_active{channel="whatsapp"}', 'kurir_queue_delayed{channel="email"}',
    'kurir_queue_scheduled{channel="email"}', 'kurir_queue_oldest_age_seconds{channel="email",lane="bulk"}',
    'kurir_channel_paused{channel="email"}', 'kurir_senders{channel="email"}', "process_cpu_seconds_total",
    'kurir_messages_total{channel="whatsapp",status="failed"}',
}  # fmt: skip


async def test_kill_9_loses_nothing_and_counts_nothing_twice(valkey_url: str, make_logger: LoggerMaker) -> None:
    """G5 and G1: after kills and restarts while 9,000 events are written, each is applied exactly once."""
    redis = connect(valkey_url)
    logger = make_logger(valkey_url)
    try:
        batches = _story()
        for number, events in enumerate(batches):
            await redis.xadd(STREAM, {"d": pack_batch(EventBatch("sender", number, events))})
        log = EventLog(redis)
        for left in (len(batches) * 3 // 4, len(batches) // 3):
            logger.start()
            await wait_for(partial(_lag_below, log, left), 60)
            logger.kill()
        logger.start()
        await wait_for(lambda: _lag_below(log, 1), 60)
    finally:
        await redis.aclose()
    logger.stop()
    with closing(sqlite3.connect(logger.folder / "logs.db")) as database:
        statuses = dict(database.execute("SELECT status, count(*) FROM message_logs GROUP BY status"))
        totals = dict(database.execute("SELECT status, n FROM message_totals"))
        letters = database.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
    assert statuses == {"sent": JOBS * 9 // 10, "failed": JOBS // 10}
    assert totals == {"queued": JOBS, "sent": JOBS * 9 // 10, "failed": JOBS // 10}
    assert letters == JOBS // 10


def _story() -> list[list[Event]]:
    """Return batches that queue all jobs, then begin them and send nine of ten."""
    batches: list[list[Event]] = [[queued(range(first, first + 500))] for first in range(0, JOBS, 500)]
    for first in range(0, JOBS, BATCH):
        indexes = range(first, first + BATCH)
        batches.append([begun(index) for index in indexes])
        batches.append([sent(index) if index % 10 else failed(index) for index in indexes])
    return batches


async def _lag_below(log: EventLog, bound: int) -> bool:
    return await log.lag() < bound


async def test_counters_continue_after_a_restart(valkey_url: str, make_logger: LoggerMaker) -> None:
    """The first scrape after a restart already has the totals, so that `increase()` sees no jump."""
    redis = connect(valkey_url)
    logger = make_logger(valkey_url)
    logger.start()
    assert logger.metrics().keys() >= SAMPLES
    batch = EventBatch("sender", 1, [queued(range(4)), sent(0), failed(1)])
    await redis.xadd(STREAM, {"d": pack_batch(batch)})
    name = 'kurir_messages_total{{channel="email",status="{}"}}'
    await wait_for(lambda: logger.metrics()[name.format("sent")] == 1)
    assert logger.stop() == 0
    logger.start()
    found = logger.metrics()
    assert [found[name.format(status)] for status in ("queued", "sent", "failed")] == [4, 1, 1]
    await redis.aclose()


async def test_a_backup_is_complete_while_events_are_written(valkey_url: str, make_logger: LoggerMaker) -> None:
    """The copy is consistent; it replaces an older copy but no other file."""
    redis = connect(valkey_url)
    logger = make_logger(valkey_url)
    logger.start()
    target = logger.folder / "backup.db"
    for number in range(60):
        first = number * 100
        ends = [sent(index) for index in range(first, first + 100)]
        batch = EventBatch("sender", number, [queued(range(first, first + 100)), *ends])
        await redis.xadd(STREAM, {"d": pack_batch(batch)})
    for _ in range(3):
        status, body = await asyncio.to_thread(logger.post, "/internal/backup", {"path": str(target)})
        assert status == 200, body
        with closing(sqlite3.connect(target)) as copy:
            assert copy.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            rows = copy.execute("SELECT count(*) FROM message_logs").fetchone()[0]
            kept = copy.execute("SELECT coalesce(sum(n), 0) FROM message_counts").fetchone()[0]
            assert rows == kept
    assert body["bytes"] == target.stat().st_size
    for path in (logger.folder / "logs.db", logger.folder / "stderr.txt"):
        status, body = logger.post("/internal/backup", {"path": str(path)})
        assert (status, body["code"]) == (409, "BACKUP_FAILED")
    for elsewhere in ("x/relative.db", str(logger.folder.parent / "b.db"), f"{logger.folder}/../b.db", ""):
        status, body = logger.post("/internal/backup", {"path": elsewhere})
        assert (status, body["code"]) == (403, "BACKUP_REFUSED")
    assert logger.post("/internal/backup", {"path": "by-name.db"})[1]["path"] == str(logger.folder / "by-name.db")
    await redis.aclose()


async def test_the_logger_serves_only_callers_with_the_secret(valkey_url: str, make_logger: LoggerMaker) -> None:
    """Every path except /health and /metrics needs it, including paths that do not exist."""
    logger = make_logger(valkey_url)
    logger.start()
    paths = (
        "/api/logs/messages",
        "/api/dashboard",
        "/api/blasts/x",
        "/internal/open-jobs",
        "/internal/x",
        "/Health",
        "/health/",
    )
    for header in ("", "Bearer ", "Bearer wrong", INTERNAL_SECRET, f"Basic {INTERNAL_SECRET}", "Bearer \u00e9"):
        for path in paths:
            status, body = logger.call(path, None, {"Authorization": header})
            assert (status, body["code"]) == (401, "UNAUTHORIZED")
        stranger = {"Authorization": header, "Content-Type": "application/json"}
        assert logger.call("/internal/backup", b'{"path": "stolen.db"}', stranger)[0] == 401
        assert [logger.call(path, None, {"Authorization": header})[0] for path in ("/health", "/metrics")] == [200, 200]
    assert not (logger.folder / "stolen.db").exists()
    assert logger.get("/api/dashboard")[0] == 200
