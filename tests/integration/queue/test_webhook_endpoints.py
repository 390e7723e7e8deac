"""The endpoints of webhooks in Redis: the hash that senders read, and a partition for each."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from shared.errors import QueueUnavailableError
from shared.events import ChannelChanged, EventBatch, Queued, unpack_batch
from shared.queue.connection import connect
from shared.queue.consumer import BeginPolicy, Consumer
from shared.queue.keys import WEBHOOKS
from shared.queue.partitions import Partition
from shared.queue.webhooks import Endpoints, webhook_partition
from tests.integration.queue.webhooks import ENDLESS, deliver, endpoint
from tests.integration.queue.world import LASTING, HandSender, World
from tests.servers import free_port

_numbers = itertools.count(1)


async def sender_of(partition: Partition) -> HandSender:
    consumer = Consumer(partition, f"w{next(_numbers)}", LASTING, BeginPolicy(on_uncertain="repeat", concurrency=1000))
    await consumer.heartbeat({}, first=True)
    return HandSender(consumer)


async def test_endpoints_are_written_replaced_and_removed(world: World) -> None:
    """Each is a field by its number; replacing all removes those that are not named. Every call may be repeated."""
    store = Endpoints(world.redis)
    assert await store.load() == ([], {})
    for _ in range(2):
        await store.put(endpoint(10), endpoint(2))
    assert (await store.load())[0] == [endpoint(2), endpoint(10)]
    changed = endpoint(2, "https://example.com/new", enabled=False)
    for _ in range(2):
        await store.replace_all([changed, endpoint(11)])
    assert (await store.load())[0] == [changed, endpoint(11)]
    for _ in range(2):
        await store.remove(2)
    await store.put()
    await store.remove()
    assert (await store.load())[0] == [endpoint(11)]
    await store.replace_all([])
    assert await world.redis.exists(WEBHOOKS) == 0


async def test_an_endpoint_of_a_later_version_hides_no_other(world: World) -> None:
    """What cannot be unpacked is returned by its number, with its bytes."""
    redis: Any = world.redis
    await Endpoints(world.redis).put(endpoint(1), endpoint(3))
    await redis.hset(WEBHOOKS, "2", b"\xc1")
    found, unreadable = await Endpoints(world.redis).load()
    assert found == [endpoint(1), endpoint(3)]
    assert {number: error.raw for number, error in unreadable.items()} == {2: b"\xc1"}


async def test_without_redis_every_call_says_so() -> None:
    """The driver's errors do not leave the module."""
    away = connect(f"redis://127.0.0.1:{free_port()}/0", socket_timeout_s=0.5)
    store = Endpoints(away)
    for call in (store.load(), store.put(endpoint(1)), store.remove(1), store.replace_all([])):
        with pytest.raises(QueueUnavailableError):
            await call
    await away.aclose()


async def test_endpoints_share_nothing_but_their_channel(world: World) -> None:
    """A sender of one gets only its deliveries; a pause holds only one; events are in each partition's own stream."""
    redis: Any = world.redis
    first, second = webhook_partition(world.redis, 1), webhook_partition(world.redis, 12)
    assert (first.keys.events, second.name) == ("{webhook.1}:events", "webhook.12")
    await deliver(world.redis, 1, 0, 2)
    await deliver(world.redis, 12, 0, 1)
    await world.control.pause_partitions([first], "410")
    one, other = await sender_of(first), await sender_of(second)
    assert await one.fetch() == []
    (lease,) = await other.take()
    assert (lease.job_id, lease.job.recipient.name) == ("we_12:0:webhook", "evt_12_0")
    assert await other.finish(lease) == [True]
    kinds = {}
    for partition in (first, second):
        batches = [unpack_batch(fields[b"d"]) for _, fields in await redis.xrange(partition.keys.events)]
        assert all(isinstance(batch, EventBatch) for batch in batches)
        kinds[partition.name] = [type(event) for batch in batches for event in batch.events]
    assert kinds["webhook.1"] == [Queued, ChannelChanged]
    assert ChannelChanged not in kinds["webhook.12"]
    assert (await world.control.partition_stats(first)).pause_reason == "410"
    assert (await world.control.channel_stats("email")).counters["enqueued"] == 0


async def test_an_endless_blast_counts_and_never_ends(world: World) -> None:
    """Its total exceeds what 32 bits hold; a repeated chunk adds nothing, and the hash stays small however many end."""
    partition = webhook_partition(world.redis, 1)
    sender = await sender_of(partition)
    for first in range(0, 2000, 500):
        assert await deliver(world.redis, 1, first, 500) == first + 500
        assert await deliver(world.redis, 1, first, 500) == first + 500
        while leases := await sender.take(200):
            assert all(await sender.finish(*leases))
    stats = await world.control.partition_stats(partition)
    assert (stats.counters["enqueued"], stats.counters["sent"], stats.waiting) == (2000, 2000, 0)
    redis: Any = world.redis
    kept = await redis.hgetall(partition.keys.blast("we_1"))
    assert (kept[b"wm:jobs"], kept[b"sent"], kept[b"total"]) == (b"2000", b"2000", str(ENDLESS).encode())
    assert b"ended_at" not in kept
    assert len(kept) < 20
    assert await redis.ttl(partition.keys.blast("we_1")) == -1
