"""The event log reads the streams of webhooks too, which come and go while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from shared.events import EventBatch, SystemEvent, pack_batch
from shared.queue.connection import connect
from shared.queue.event_log import EventEntry, EventLog
from shared.queue.keys import PartitionKeys


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """Return a connection to an empty server."""
    client = connect(redis_url)
    yield client
    await client.aclose()


async def emit(redis: Redis, number: int, sequence: int = 1) -> None:
    """Add an event to a webhook's stream."""
    batch = EventBatch(f"w{number}", sequence, [SystemEvent(1, "info", "x", "test")])
    await redis.xadd(PartitionKeys("webhook", number).events, {"d": pack_batch(batch)})


async def read(log: EventLog) -> list[EventEntry]:
    """Read until something comes; groups are made on the way."""
    async with asyncio.timeout(60):
        while not (entries := await log.read(100, 0.05)):
            continue
    return entries


async def test_a_webhook_is_followed_from_its_first_event(redis: Redis) -> None:
    """Also those that were added before it was followed, and while a read waited for others."""
    log = EventLog(redis)
    await emit(redis, 3)
    await log.read(10, 0.01)
    waiting = asyncio.create_task(log.read(10, 0.2))
    await asyncio.sleep(0)
    log.follow([3])
    await waiting
    (entry,) = await read(log)
    assert (entry.channel, entry.partition) == ("webhook", 3)
    assert await log.lag() == 1
    await log.ack([entry])
    assert await log.lag() == 0


async def test_a_webhook_that_was_deleted_is_not_made_again(redis: Redis) -> None:
    """Its stream is gone, and the others are read on."""
    log = EventLog(redis)
    log.follow([3, 4])
    await emit(redis, 3)
    (entry,) = await read(log)
    log.start_over()
    log.follow([4])
    await redis.delete(entry.stream)
    await emit(redis, 4)
    assert [one.partition for one in await read(log)] == [4]
    log.start_over()
    assert [one.partition for one in await read(log)] == [4]
    assert await redis.exists(entry.stream) == 0


async def test_unacknowledged_events_of_a_webhook_are_read_again(redis: Redis) -> None:
    """By the next process, which follows its webhooks after its first read."""
    first = EventLog(redis)
    first.follow([3])
    await emit(redis, 3)
    assert len(await read(first)) == 1
    second = EventLog(redis)
    await second.read(10, 0.01)
    second.follow([3])
    assert [one.partition for one in await read(second)] == [3]


async def test_only_the_streams_of_webhooks_have_an_index() -> None:
    """`{email}` is partition 0."""
    batch = EventBatch("x", 1, [])
    found = [EventEntry(stream, "1-0", batch) for stream in ("{email}:events", "{email.2g}:events", "gateway:events")]
    assert [(one.channel, one.partition) for one in found] == [("email", 0), ("email", 2), ("", 0)]
