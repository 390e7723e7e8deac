"""Ended blasts expire in Redis, including those that ended while it was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.logger.expiry import Expiry
from services.logger.postgres.store import PostgresStore
from services.logger.sqlite_store import SqliteStore
from services.logger.writing import EventWriter
from shared.clock import SystemClock
from shared.events import BlastChannelEnded, Event
from shared.lifecycle import Stop
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.keys import blast_key
from shared.queue.timing import Timing
from tests.postgres_servers import PostgresServer
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import accepted, blast, entry, queued, queued_phones, sent, sent_phone


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """Return a connection to an empty Valkey."""
    client = connect(valkey_url)
    yield client
    await client.aclose()


async def test_a_blast_that_ended_before_the_start_gets_its_expiry(redis: Redis, tmp_path: Path) -> None:
    """The logger may have died between the commit and the expiry call; a running blast gets no expiry."""
    store = SqliteStore(tmp_path / "logs.db", readers=1)
    await store.open()
    now_ms = SystemClock().now_ms()
    blasts = [blast(name, created_at_ms=now_ms) for name in ("over", "running")]
    events: list[Event] = [*(accepted(one) for one in blasts), queued(blast_id="running"), queued(blast_id="over")]
    end: list[Event] = [sent(blast_id="over"), BlastChannelEnded(now_ms, "over", "email", {"total": 1})]
    await store.write(lambda connection: EventWriter().apply(connection, [entry(1, *events, *end)]))
    keeper = BlastStore(redis, "test")
    for one in blasts:
        await keeper.create(one)
    stop = Stop()
    task = asyncio.create_task(Expiry(keeper, store, Timing(keep_ended_ms=60_000)).run(stop))
    await wait_for(lambda: _expires(redis, "over"))
    assert 0 < await redis.pttl(blast_key("over")) <= 60_000
    assert await redis.pttl(blast_key("running")) == -1
    stop.set()
    await task
    await store.close()


async def _expires(redis: Redis, blast_id: str) -> bool:
    return await redis.pttl(blast_key(blast_id)) > 0


async def test_blasts_of_one_partition_expire_together(redis: Redis, tmp_path: Path) -> None:
    """The log knows them, so their snapshots need not be read; one of two channels is read as before."""
    store = SqliteStore(tmp_path / "logs.db", readers=1)
    await store.open()
    now_ms = SystemClock().now_ms()
    alone = blast("alone", created_at_ms=now_ms)
    both = blast("both", created_at_ms=now_ms, channels=["email", "whatsapp"], totals={"email": 1, "whatsapp": 1})
    keeper = BlastStore(redis, "test")
    for one in (alone, both):
        await keeper.create(one)
    mails: list[Event] = [
        queued(blast_id="alone"),
        sent(blast_id="alone"),
        queued(blast_id="both"),
        sent(blast_id="both"),
    ]
    ends = [(alone, "email"), (both, "email"), (both, "whatsapp")]
    events: list[Event] = [accepted(alone), accepted(both), *mails, queued_phones(blast_id="both")]
    events += [sent_phone(blast_id="both")]
    events += [BlastChannelEnded(now_ms, one.blast_id, channel, {"total": 1}) for one, channel in ends]
    applied = await store.write(lambda connection: EventWriter().apply(connection, [entry(1, *events)]))
    assert (sorted(applied.written.ended_blasts), applied.written.ended_alone) == (["alone", "both"], ["alone"])
    expiry = Expiry(keeper, store, Timing(keep_ended_ms=60_000))
    expiry.ended(applied.written.ended_blasts, applied.written.ended_alone)
    client: Any = redis
    await client.config_resetstat()
    assert await expiry.flush()
    assert (await client.info("commandstats"))["cmdstat_hget"]["calls"] == 1
    assert [await _expires(redis, one) for one in ("alone", "both")] == [True, False]
    await store.close()


async def test_an_expiry_that_redis_missed_is_set_later(tmp_path: Path) -> None:
    """While Redis is away the call is kept; once Redis is back, the blast gets its expiry."""
    server = RedisServer()
    server.start()
    redis = connect(server.url)
    keeper = BlastStore(redis, "test")
    expiry = Expiry(keeper, SqliteStore(tmp_path / "logs.db", readers=1))
    try:
        await keeper.create(blast("over"))
        server.kill()
        expiry.ended(["over"])
        assert not await expiry.flush()
        server.start()
        assert await expiry.flush()
        assert await _expires(redis, "over")
    finally:
        await redis.aclose()
        server.destroy()


async def test_a_blast_that_another_logger_ended_gets_its_expiry(redis: Redis, postgres_server: PostgresServer) -> None:
    """The other one died before it set it: this one finds the blast when it is told to look again."""
    store = PostgresStore(postgres_server.make_database(), readers=1)
    await store.open()
    now_ms = SystemClock().now_ms()
    keeper = BlastStore(redis, "test")
    clock = _Hurried()
    expiry = Expiry(keeper, store, Timing(keep_ended_ms=60_000), clock)
    stop = Stop()
    task = asyncio.create_task(expiry.run(stop))
    await wait_for(lambda: not expiry._unsure)
    one = blast("over", created_at_ms=now_ms)
    await keeper.create(one)
    end: list[Event] = [accepted(one), queued(blast_id="over"), sent(blast_id="over")]
    end.append(BlastChannelEnded(now_ms, "over", "email", {"total": 1}))
    batch = entry(1, *end)
    await store.write(lambda connection: EventWriter().apply(connection, [batch]))
    again = await store.write(lambda connection: EventWriter().apply(connection, [batch]))
    assert (again.written.repeated, again.written.ended_blasts) == (True, [])
    clock.ahead_s += 60
    expiry.recall()
    await wait_for(lambda: _expires(redis, "over"))
    stop.set()
    await task
    await store.close()


class _Hurried(SystemClock):
    """A clock that a test moves ahead."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s
