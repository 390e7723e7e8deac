"""G5 and G9 with several loggers: whichever dies, and whenever, each event's effect is in PostgreSQL exactly once.

What a webhook subscribed to is in its queue once, too, although the logger that feeds webhooks changes with each kill.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.rows import PostgresRowWriter
from shared.events import Event, EventBatch, pack_batch
from shared.jobs import Job
from shared.lifecycle import TaskGroup
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys
from shared.queue.webhooks import Endpoints
from tests.integration.logger.service import LoggerProcess
from tests.integration.logger.webhooks.feeding import events_in
from tests.integration.logger.webhooks.test_kills import jobs_of
from tests.postgres_servers import PostgresServer
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import Database, accepted, begun, blast, failed, queued, sent

BLASTS = ("0x4g2k9w00000001", "0x4g2k9w00000002")
JOBS, BATCH = 1500, 25
# the lead changes hands in a second rather than in ten, and so do turns and events that nobody acknowledges
# and the story, which is older than a month, is kept
HASTY = {"KURIR_TIME_SCALE": "0.1", "KURIR_RETENTION_DAYS": "3650"}
# a tenth of the messages, which fit the window of an endpoint that takes nothing
WEBHOOK = {"url": "https://example.com/hook", "events": ["message.failed"]}
HEALED_S = 90.0


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """Start a cluster that survives the kill of its processes."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.destroy()


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """Start a Redis server for the loggers."""
    server = RedisServer()
    server.start()
    yield server
    server.destroy()


def batches() -> Iterator[EventBatch]:
    """Yield a story of two blasts: every job begins, a tenth fail, the others are sent; some batches come twice."""
    number = 0
    chance = random.Random(7)
    for blast_id in BLASTS:
        kinds: list[list[Event]] = [[accepted(blast(blast_id, total=JOBS))]]
        for start in range(0, JOBS, BATCH):
            indexes = range(start, start + BATCH)
            kinds.append([queued(indexes, blast_id)])
            kinds.append([begun(index, blast_id) for index in indexes])
            kinds.append([failed(index, blast_id) if index % 10 == 0 else sent(index, blast_id) for index in indexes])
        chance.shuffle(kinds)
        for events in kinds:
            number += 1
            yield EventBatch("sender", number, events)
            if chance.random() < 0.1:
                yield EventBatch("sender", number, events)


async def _add_all(url: str) -> None:
    stream = PartitionKeys("email").events
    async with aclosing(connect(url)) as redis:
        for place, batch in enumerate(batches()):
            await redis.xadd(stream, {"d": pack_batch(batch)})
            if place % 12 == 0:
                await asyncio.sleep(0.05)


async def _kill_at_random(loggers: list[LoggerProcess], adding: asyncio.Task[None], seed: int) -> int:
    """Kill, freeze and restart one of the loggers after another while events arrive; return the number of kills."""
    chance, kills = random.Random(seed), 0
    while not adding.done() or kills < 4:
        victim = chance.choice(loggers)
        await asyncio.sleep(chance.uniform(0.1, 1.0))
        if chance.random() < 0.3:
            victim.send(signal.SIGSTOP)
            # past the second, here, after which others take over its turn, its lead and its events
            await asyncio.sleep(chance.uniform(0.1, 2.5))
            victim.send(signal.SIGCONT)
            continue
        victim.kill()
        kills += 1
        await asyncio.to_thread(victim.start)
    return kills


async def _drained(url: str) -> None:
    deadline = time.monotonic() + HEALED_S
    async with aclosing(connect(url)) as redis:
        while await EventLog(redis).lag():
            assert time.monotonic() < deadline, "events wait although both loggers run"
            await asyncio.sleep(0.1)


async def _check_webhook(url: str) -> None:
    """Check that the event of each failed message is in the queue of the webhook once, in deliveries without a gap."""
    expected = {f"{blast_id}:{index}:email" for blast_id in BLASTS for index in range(0, JOBS, 10)}
    deadline = time.monotonic() + HEALED_S
    async with aclosing(connect(url)) as redis:
        while len(events_in(jobs := await _jobs_of_webhook(redis))) < len(expected):
            assert time.monotonic() < deadline, f"{len(jobs)} deliveries reached the webhook although both loggers run"
            await asyncio.sleep(0.1)
    assert sorted(events_in(jobs)) == sorted(expected)
    assert [job.index for job in jobs] == list(range(len(jobs)))
    assert len({job.recipient.name for job in jobs}) == len(jobs)


async def _jobs_of_webhook(redis: Redis) -> list[Job]:
    """Return the deliveries to the only webhook, none before it is known to senders."""
    endpoints, errors = await Endpoints(redis).load()
    assert len(endpoints) <= 1
    assert not errors
    return await jobs_of(redis, endpoints[0].number) if endpoints else []


def _two_loggers(redis_url: str, folder: Path, database_url: str) -> list[LoggerProcess]:
    """Return two loggers of one database, not yet started."""
    for name in ("one", "two"):
        (folder / name).mkdir()
    env = {"KURIR_DATABASE_URL": database_url, **HASTY}
    return [LoggerProcess(redis_url, folder / name, env) for name in ("one", "two")]


async def test_g5_g9_two_loggers_killed_at_random_write_and_report_each_event_once(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Rows, attempts, dead letters, counts and a webhook's events are those of one logger that nothing happened to."""
    assert own_redis.command("FLUSHALL") == b"+OK"
    url = postgres_server.make_database()
    loggers = _two_loggers(own_redis.url, tmp_path, url)
    try:
        await asyncio.gather(*(asyncio.to_thread(logger.start) for logger in loggers))
        assert (await asyncio.to_thread(loggers[0].post, "/webhooks", WEBHOOK))[0] == 201
        async with TaskGroup() as tasks:
            adding = tasks.create_task(_add_all(own_redis.url))
            kills = await _kill_at_random(loggers, adding, seed=11)
        await _drained(own_redis.url)
        await _check_webhook(own_redis.url)
    finally:
        for logger in loggers:
            logger.kill()
    await asyncio.to_thread(_check, url)
    assert kills >= 4


async def _one_in_its_turn(loggers: list[LoggerProcess], server: PostgresServer, url: str) -> LoggerProcess:
    """Return the logger whose transaction waits for a table."""
    waiting = "SELECT client_port FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation'"
    deadline = time.monotonic() + HEALED_S
    while not (port := await asyncio.to_thread(server.sql, waiting, url.rpartition("/")[2])):
        assert time.monotonic() < deadline, "no logger writes"
    (found,) = [logger for logger in loggers if int(port) in logger.client_ports()]
    return found


async def test_g5_a_logger_frozen_in_its_transaction_does_not_hold_up_the_other(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    """The other one takes the turn and the events; thawed, the first finds its transaction undone."""
    assert own_redis.command("FLUSHALL") == b"+OK"
    url = postgres_server.make_database()
    loggers = _two_loggers(own_redis.url, tmp_path, url)
    holding = await asyncpg.connect(url)
    try:
        await asyncio.gather(*(asyncio.to_thread(logger.start) for logger in loggers))
        await holding.execute("BEGIN; LOCK TABLE kurir.message_totals IN EXCLUSIVE MODE")
        await _add_all(own_redis.url)
        frozen = await _one_in_its_turn(loggers, postgres_server, url)
        frozen.send(signal.SIGSTOP)
        await holding.close()
        await _drained(own_redis.url)
        frozen.send(signal.SIGCONT)
        assert (await asyncio.to_thread(frozen.get, "/api/logs/messages?status=failed"))[0] == 200
    finally:
        for logger in loggers:
            logger.kill()
        holding.terminate()
    await asyncio.to_thread(_check, url)


async def test_g5_postgresql_killed_under_load_has_each_event_once(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Its crash breaks transactions and commits without an answer; queries answer again as soon as it is back."""
    assert own_redis.command("FLUSHALL") == b"+OK"
    url = postgres_server.make_database()
    logger = LoggerProcess(own_redis.url, tmp_path, {"KURIR_DATABASE_URL": url, **HASTY})
    try:
        await asyncio.to_thread(logger.start)
        async with TaskGroup() as tasks:
            tasks.create_task(_add_all(own_redis.url))
            for pause_s in (0.3, 0.5, 0.2):
                await asyncio.sleep(pause_s)
                await asyncio.to_thread(postgres_server.kill)
                await asyncio.to_thread(postgres_server.start)
        await _drained(own_redis.url)
        assert (await asyncio.to_thread(logger.get, "/api/logs/messages?status=failed"))[0] == 200
        assert (await asyncio.to_thread(logger.get, "/health"))[0] == 200
    finally:
        logger.kill()
    await asyncio.to_thread(_check, url)


async def test_g5_a_logger_waits_for_postgresql_and_stops_while_it_waits(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Started while the server is away, it does not end as one with wrong settings does, and serves when it is back."""
    assert own_redis.command("FLUSHALL") == b"+OK"
    url = postgres_server.make_database()
    log_dir = tmp_path / "logs"
    logger = LoggerProcess(own_redis.url, tmp_path, {"KURIR_DATABASE_URL": url, "KURIR_LOG_DIR": str(log_dir), **HASTY})

    def waits() -> bool:
        return any("the database cannot be reached" in path.read_text() for path in log_dir.glob("*"))

    await asyncio.to_thread(postgres_server.kill)
    try:
        stopped = logger.spawn()
        await wait_for(waits, 30)
        stopped.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(stopped.wait, 30) == 0
        starting = asyncio.create_task(asyncio.to_thread(logger.start))
        await asyncio.to_thread(postgres_server.start)
        await starting
        assert (await asyncio.to_thread(logger.get, "/health"))[0] == 200
    finally:
        logger.kill()


def _check(url: str) -> None:
    connection = PostgresDatabase(url, PostgresRowWriter())
    database = Database.__new__(Database)
    database.connection, database.is_postgres = connection, True
    database.counts_agree()
    of_each = {"failed": JOBS // 10, "sent": JOBS - JOBS // 10}
    found = database.rows("SELECT blast_id, status, count(*) FROM message_logs GROUP BY 1, 2 ORDER BY 1, 2")
    assert found == [(blast_id, status, n) for blast_id in BLASTS for status, n in sorted(of_each.items())]
    assert database.one("SELECT count(*) FROM dead_letters") == len(BLASTS) * of_each["failed"]
    assert database.one("SELECT count(*) FROM message_attempts") == len(BLASTS) * of_each["failed"]
    totals = dict(database.rows("SELECT status, n FROM message_totals"))
    assert totals == {"queued": len(BLASTS) * JOBS, **{status: len(BLASTS) * n for status, n in of_each.items()}}
    minutes = database.rows("SELECT sum(queued), sum(sent), sum(failed) FROM message_minutes")
    assert minutes == [(totals["queued"], totals["sent"], totals["failed"])]
    assert database.rows("SELECT sum(n) FROM error_days") == [(totals["failed"],)]
    connection.close()
