"""Single messages: their snapshot and their job are stored in one step, once, and concurrent ones share calls."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from shared.blasts import Blast, unpack_blast
from shared.errors import QueueFullError
from shared.events import BlastAccepted, Queued
from shared.jobs import Attachment, Job, Recipient
from shared.queue.acceptance import Acceptance
from shared.queue.client import QueueRedis
from shared.queue.keys import GATEWAY_EVENTS, blast_key
from tests.integration.queue.world import World

PARTITIONS = (4,)
# what the two ways write at different moments
_TIMES = {b"from", b"to", b"moved_at", b"changed_at"}


def single(world: World, **changes: Any) -> tuple[Blast, Job]:
    """Make a blast of one message that Redis does not know, and its job."""
    blast = world.unknown_blast(1, **changes)
    return blast, world.jobs(blast, [0])[0]


async def calls_of_scripts(redis: Redis) -> int:
    """Return how many scripts the server has run."""
    found: Any = await redis.info("commandstats")
    return sum(int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("eval", "evalsha"))


async def kept_of(world: World, blast: Blast) -> tuple[Any, ...]:
    """Return what Redis has of a blast but times; check its snapshot."""
    client: Any = world.redis
    keys = (blast_key(blast.blast_id), world.partition.keys.blast(blast.blast_id))
    assert unpack_blast(await client.hget(keys[0], "snapshot")) == blast
    fields = await client.hgetall(keys[1])
    without_times = {name: value for name, value in fields.items() if name not in _TIMES}
    return without_times, set(fields), [await client.pttl(key) for key in keys]


async def test_it_leaves_what_creating_and_enqueueing_leave(world: World) -> None:
    """The hashes have the same fields, the events say the same, and the job can be sent."""
    (blast, job), (other, other_job) = single(world), single(world)
    assert await Acceptance(world.redis, "a").accept(blast, job)
    await world.blasts.create(other)
    await world.enqueue(other)
    assert await kept_of(world, blast) == await kept_of(world, other)
    await world.check_balance(blast, other)
    events = await world.written()
    for kind in (Queued, BlastAccepted):
        said = [msgspec.structs.replace(one, at_ms=0, blast_id="") for one in events if isinstance(one, kind)]
        assert len(said) == 2
        if kind is Queued:
            assert said[0] == said[1]
    sender = await world.sender()
    leases = await sender.take(2)
    assert [lease.job for lease in leases] == [job, other_job]
    assert await sender.finish(*leases) == [True, True]
    progress = await world.progress(blast)
    assert (progress.total, progress.enqueued, progress.counts["sent"]) == (1, 1, 1)


async def test_a_repetition_adds_nothing_twice(world: World) -> None:
    """G2: after a lost reply, also once the message was sent; the events are emitted once."""
    blast, job = single(world)
    acceptance = Acceptance(world.redis, "a")
    assert [await acceptance.accept(blast, job) for _ in range(2)] == [True, True]
    sender = await world.sender()
    (lease,) = await sender.take(2)
    assert await sender.finish(lease) == [True]
    assert await Acceptance(world.redis, "another process").accept(blast, job)
    assert (await sender.consumer.fetch(5)).leases == []
    events = await world.written()
    assert sum(isinstance(event, Queued | BlastAccepted) for event in events) == 2
    await world.check_balance(blast)


async def test_a_blast_that_was_created_is_enqueued_as_any_other(world: World) -> None:
    """It may have been paused or cancelled since, so nothing is added here."""
    blast, job = single(world)
    await world.blasts.create(blast)
    assert not await Acceptance(world.redis, "a").accept(blast, job)
    assert (await world.progress(blast)).enqueued == 0
    await world.enqueue(blast)
    assert await Acceptance(world.redis, "a").accept(blast, job)
    assert (await world.progress(blast)).enqueued == 1
    await world.check_balance(blast)


async def test_messages_that_come_together_share_calls(world: World) -> None:
    """Of fifty, the first is sent at once and the others with the next call; each is there once."""
    acceptance = Acceptance(world.redis, "a")
    pairs = [single(world) for _ in range(50)]
    before = await calls_of_scripts(world.redis)
    assert all(await asyncio.gather(*(acceptance.accept(*pair) for pair in pairs)))
    assert await calls_of_scripts(world.redis) - before <= 3
    await world.check_balance(*(blast for blast, _ in pairs))
    sender = await world.sender()
    assert sorted(lease.job_id for lease in await sender.take(50)) == sorted(job.job_id for _, job in pairs)


async def test_a_full_redis_takes_none_of_it(world: World) -> None:
    """Neither the snapshot nor the job, for any of the messages of a call."""
    acceptance, pairs = Acceptance(world.redis, "a"), [single(world) for _ in range(3)]
    await world.given(1)
    await world.redis.config_set("maxmemory", 1)
    try:
        found = await asyncio.gather(*(acceptance.accept(*pair) for pair in pairs), return_exceptions=True)
    finally:
        await world.redis.config_set("maxmemory", 0)
    assert [type(one) for one in found] == [QueueFullError] * 3
    for blast, _ in pairs:
        assert not await world.redis.exists(blast_key(blast.blast_id), world.partition.keys.blast(blast.blast_id))
    assert all(await asyncio.gather(*(acceptance.accept(*pair) for pair in pairs)))


@pytest.mark.parametrize(
    "changes", [{"lane": "bulk"}, {"scheduled_at_ms": 1}, {"attachments": [Attachment("a", "text/plain", b"a")]}]
)
def test_other_blasts_go_another_way(changes: dict[str, Any]) -> None:
    """Those of `bulk`, with a time, or with files; and all on a cluster, or where replicas confirm them."""
    world = World(QueueRedis())
    blast, job = single(world)
    acceptance = Acceptance(world.redis, "a")
    assert acceptance.takes(blast, job)
    assert not acceptance.takes(msgspec.structs.replace(blast, **changes), job)
    heavy = Recipient("a@example.com", "A", attachments=[Attachment("a", "text/plain", b"a")])
    assert not acceptance.takes(blast, msgspec.structs.replace(job, recipient=heavy))
    for name, value in (("clustered", True), ("replicas", 1)):
        redis = QueueRedis()
        setattr(redis, name, value)
        assert not Acceptance(redis, "a").takes(blast, job)


async def test_the_blast_is_reported_beside_its_job(world: World) -> None:
    """The stream of requests carries nothing of it."""
    assert await Acceptance(world.redis, "a").accept(*single(world))
    assert await world.redis.xlen(GATEWAY_EVENTS) == 0
