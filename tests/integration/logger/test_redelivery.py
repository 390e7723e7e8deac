"""Dead letters are sent again exactly once, despite repeated calls, outages and expired blasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.logger.redelivery import Outbox, RetryRequest, open_runs
from services.logger.sqlite_store import SqliteStore
from services.logger.writing import EventWriter
from shared.blasts import Blast
from shared.events import BlastChanged, Event
from shared.jobs import unpack_job
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys, blast_key
from shared.queue.producer import Chunk, Producer
from shared.queue.timing import Timing
from tests.faults.redis_servers import RedisServers
from tests.integration.logger.conftest import LoggerMaker
from tests.integration.logger.service import LoggerProcess
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import START_MS, accepted, blast, entry, failed, job, queued, sent

KEYS = PartitionKeys("email")


@pytest.fixture
async def redis(own_redis: RedisServer) -> AsyncIterator[Redis]:
    """Return a connection to the server of this module's logger."""
    client = connect(own_redis.url)
    yield client
    await client.aclose()


async def failed_blast(redis: Redis, blast_id: str, total: int = 3, uncertain: int = 0) -> Blast:
    """Enqueue a blast and fail all its jobs except the first, as senders would."""
    one = blast(blast_id, total=total)
    await BlastStore(redis, f"ingest-{blast_id}").create(one)
    jobs = [job(index, blast_id) for index in range(total)]
    await Producer(redis, f"ingest-{blast_id}").enqueue(Chunk(one, "email", 0, jobs))
    classes = {index: "uncertain" if index <= uncertain else "permanent" for index in range(1, total)}
    ends = [failed(index, blast_id, error_class=name) for index, name in classes.items()]
    await Producer(redis, f"sender-{blast_id}").emit(sent(0, blast_id), *ends)
    await redis.delete(KEYS.lane("normal"))
    await redis.hset(KEYS.blast(one.blast_id), mapping={"failed": total - 1, "sent": 1})
    await wait_for(lambda: _is_drained(redis), 30)
    return one


async def _is_drained(redis: Redis) -> bool:
    return await EventLog(redis).lag() == 0


async def _queued_again(redis: Redis, blast_id: str) -> list[tuple[str, int]]:
    """Return the waiting jobs of the normal lane with their runs."""
    entries: Any = await redis.xrange(KEYS.lane("normal"))
    jobs = [unpack_job(fields[b"d"]) for _, fields in entries]
    return sorted((one.job_id, one.run) for one in jobs if one.blast_id == blast_id)


async def _both_wait(redis: Redis, blast_id: str) -> None:
    """Wait until exactly the two failed jobs are in the queue, in their second run."""
    expected = [(f"{blast_id}:1:email", 2), (f"{blast_id}:2:email", 2)]

    async def they_do() -> bool:
        return await _queued_again(redis, blast_id) == expected

    await wait_for(they_do, 30)


async def test_failed_messages_are_queued_again_once(redis: Redis, logger: LoggerProcess) -> None:
    """The next run starts with no attempts used; a second call adds nothing."""
    await failed_blast(redis, "once")
    assert logger.post("/internal/retry", {"blastId": "once"}) == (200, {"success": True, "reopened": 2, "skipped": 0})
    assert logger.post("/internal/retry", {"blastId": "once"})[1]["reopened"] == 0
    await _both_wait(redis, "once")
    message = logger.get("/api/messages/once:1:email")[1]["message"]
    assert (message["status"], message["run"], message["attempts"]) == ("queued", 2, 0)
    progress = await BlastStore(redis, "test").progress("once")
    assert progress is not None
    counts = progress.channels["email"].counts
    assert (counts["queued"], counts["sent"], counts["failed"]) == (2, 1, 0)


async def test_uncertain_messages_are_left_out_unless_asked_for(redis: Redis, logger: LoggerProcess) -> None:
    """They may have been delivered, so only includeUncertain sends them again."""
    await failed_blast(redis, "unsure", total=4, uncertain=2)
    assert logger.post("/internal/retry", {"jobId": "unsure:1:email"})[1]["skipped"] == 1
    assert logger.post("/internal/retry", {"blastId": "unsure"})[1] == {"success": True, "reopened": 1, "skipped": 2}
    body = {"blastId": "unsure", "includeUncertain": True}
    assert logger.post("/internal/retry", body)[1] == {"success": True, "reopened": 2, "skipped": 0}


async def test_jobs_that_cannot_be_sent_again_have_a_reason(redis: Redis, logger: LoggerProcess) -> None:
    """Unknown, sent and cancelled messages give an error code; one that is already reopened gives 0."""
    await failed_blast(redis, "why")
    status, body = logger.post("/internal/retry", {"jobId": "why:0:email"})
    assert (status, body["code"]) == (409, "JOB_NOT_RETRYABLE")
    assert logger.post("/internal/retry", {"jobId": "why:9:email"})[1]["code"] == "JOB_NOT_FOUND"
    assert logger.post("/internal/retry", {"blastId": "nope"})[1]["code"] == "BLAST_NOT_FOUND"
    assert logger.post("/internal/retry", {})[1]["code"] == "INVALID_QUERY"
    assert logger.post("/internal/retry", {"jobId": "why:1:email"})[1]["reopened"] == 1
    again = logger.post("/internal/retry", {"jobId": "why:1:email"})
    assert again == (200, {"success": True, "reopened": 0, "skipped": 0})
    await Producer(redis, "canceller").emit(BlastChanged(START_MS, "why", "cancelled"))
    await wait_for(lambda: _is_drained(redis), 30)
    assert logger.post("/internal/retry", {"jobId": "why:2:email"})[1]["code"] == "JOB_NOT_RETRYABLE"
    assert logger.post("/internal/retry", {"blastId": "why"})[1] == {"success": True, "reopened": 0, "skipped": 1}


async def test_a_blast_that_expired_in_redis_is_restored(redis: Redis, logger: LoggerProcess) -> None:
    """An ended blast expires in Redis after 48 hours; its snapshot and counts are restored first."""
    one = await failed_blast(redis, "gone")
    await redis.delete(blast_key("gone"), KEYS.blast("gone"))
    assert logger.post("/internal/retry", {"blastId": "gone"})[1]["reopened"] == 2
    await _both_wait(redis, "gone")
    assert await BlastStore(redis, "test").load("gone") == one
    progress = await BlastStore(redis, "test").progress("gone")
    assert progress is not None
    counts = progress.channels["email"].counts
    assert (counts["sent"], counts["failed"], counts["queued"]) == (1, 0, 2)


async def test_the_same_chunk_again_finds_its_watermark(redis: Redis, logger: LoggerProcess) -> None:
    """After a kill between enqueueing and clearing the outbox, the repeated drain adds nothing."""
    one = await failed_blast(redis, "twice")
    logger.post("/internal/retry", {"blastId": "twice"})
    await _both_wait(redis, "twice")
    fields: Any = await redis.hgetall(KEYS.blast("twice"))
    (series,) = [name.decode().removeprefix("wm:") for name in fields if name.startswith(b"wm:run:")]
    jobs = [job(1, "twice", run=2), job(2, "twice", run=2)]
    again = await Producer(redis, "again").enqueue(Chunk(one, "email", 0, jobs, series))
    assert again.added == 0


@pytest.mark.parametrize("ended", [True, False], ids=["ended meanwhile", "still waiting"])
async def test_a_blast_whose_run_is_enqueued_again_expires(redis: Redis, tmp_path: Path, ended: bool) -> None:
    """The logger died before it cleared the outbox: the repeated drain keeps the blast only for jobs that wait."""
    store, blasts = (
        SqliteStore(tmp_path / "logs.db", readers=1),
        BlastStore(redis, "test", Timing(keep_ended_ms=60_000)),
    )
    await store.open()
    blast_id = f"drained-{ended}"
    events: list[Event] = [accepted(blast(blast_id)), queued(blast_id=blast_id), failed(0, blast_id)]
    await store.write(lambda connection: EventWriter().apply(connection, [entry(1, *events)]))
    await store.write(lambda connection: open_runs(connection, RetryRequest(blast_id=blast_id), START_MS))
    (row,) = await store.read(lambda connection: connection.execute("SELECT * FROM retry_outbox").fetchall())
    outbox = Outbox(store, Producer(redis, "test"), blasts)
    assert await outbox.drain()
    if ended:
        await redis.hset(KEYS.blast(blast_id), "ended_at", START_MS)
    places = ", ".join("?" * len(row))
    await store.write(lambda connection: connection.execute(f"INSERT INTO retry_outbox VALUES ({places})", row))
    assert await outbox.drain()
    assert (0 < await redis.pttl(blast_key(blast_id)) <= 60_000) == ended
    await redis.delete(KEYS.lane("normal"))
    await store.close()


async def test_a_run_stays_in_the_outbox_until_a_replica_has_it(tmp_path: Path) -> None:
    """A failover lost messages that were sent again: the log had forgotten them as soon as the master had them."""
    servers = RedisServers(replica=True)
    store = SqliteStore(tmp_path / "logs.db", readers=1)
    try:
        await servers.start()
        redis = connect(servers.url)
        redis.replicas = 1
        await store.open()
        events: list[Event] = [accepted(blast("held")), queued(blast_id="held"), failed(0, "held")]
        await store.write(lambda connection: EventWriter().apply(connection, [entry(1, *events)]))
        await store.write(lambda connection: open_runs(connection, RetryRequest(blast_id="held"), START_MS))
        outbox = Outbox(store, Producer(redis, "test"), BlastStore(redis, "test"))
        await servers.cut_link()
        assert not await outbox.drain()
        assert await _queued_again(redis, "held") == [("held:0:email", 2)]
        servers.master.kill()
        await asyncio.to_thread(servers.replica.command, "REPLICAOF", "NO", "ONE")
        await redis.aclose()
        redis = connect(servers.replica.url)
        outbox = Outbox(store, Producer(redis, "test"), BlastStore(redis, "test"))
        assert await _queued_again(redis, "held") == []
        assert await outbox.drain()
        assert await _queued_again(redis, "held") == [("held:0:email", 2)]
        assert await store.read(lambda connection: connection.execute("SELECT * FROM retry_outbox").fetchall()) == []
        await redis.aclose()
    finally:
        await store.close()
        servers.destroy()


async def test_a_run_opened_while_redis_was_away_is_enqueued_later(make_logger: LoggerMaker) -> None:
    """The outbox survives the death of Redis and of the logger, and each job is queued once."""
    server = RedisServer()
    server.start()
    logger = make_logger(server.url)
    try:
        logger.start()
        before = connect(server.url)
        await failed_blast(before, "later")
        await before.aclose()
        server.kill()
        assert logger.post("/internal/retry", {"blastId": "later"})[1]["reopened"] == 2
        logger.kill()
        server.start()
        logger.start()
        after = connect(server.url)
        await _both_wait(after, "later")
        await after.aclose()
    finally:
        server.destroy()
