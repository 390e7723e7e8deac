"""Partitions: changes in one never affect another, and every script is called with a key that exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import shared.queue
from shared.queue.control import Control, add_up
from shared.queue.doctor import Doctor
from shared.queue.keys import PartitionKeys
from shared.queue.partitions import Partition
from shared.queue.scripts import Argument, Script
from tests.integration.queue.partition_life import BOUNCE, HEAD, given, live
from tests.integration.queue.world import World

# called with the stream of receipts or the lease of a mailbox, which belong to no partition
OF_RECEIPTS = {"add_receipt", "read_receipts", "set_aside_receipt", "read_again", "forget_readers", "hold_mailbox"}
SCRIPTS = {path.stem for path in (Path(shared.queue.__file__).parent / "lua").glob("*.lua")} - {"lib"} - OF_RECEIPTS
# called with the stream that they are about, which may be the gateway's
OF_STREAMS = {"create_group", "ack_events", "take_over_events"}
READ_ONLY = {"find_jobs", "stats"}
FIRST = {
    "heartbeat": ("s", 1000, b"{}", "1"),
    "accept": (HEAD, "b", "high", b"snapshot", b"job", b"\x90", b"\x90"),
    "suppress": (HEAD, "a@example.com", BOUNCE),
    "pause_channel": ("wait", HEAD),
    "set_rate": (1, "10/1s", ""),
    "start_rate_change": (1, 0),
    "set_permit": (1, 1),
    "put_files": ("b", 1000, "digest", b"content"),
    "cancel_job": ("b:0:email", 1000),
    "count_refusal": ("mx", "550", "a@example.com", "", 20, "0", "refused", 1000, 1000, 0, HEAD),
    "emit_event": (b"\x93\xa1t\x01\x90",),
    "unsuppress": ("a@example.com", "", "", 0),
}


def of_partition(world: World, index: int) -> World:
    """Return a world of another partition of email's queue, on the same server."""
    return World(world.redis, world.timing, index)


async def whole(redis: Redis, keys: PartitionKeys) -> dict[bytes, Any]:
    """Return every key of a partition, with its contents."""
    return {key: await redis.dump(key) async for key in redis.scan_iter(f"{keys.tag}:*", count=1000)}


async def test_every_script_is_called_with_a_key_that_exists(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key exists before each call, unless the partition is empty; the second never does."""
    call, keys, called = Script.call, world.partition.keys, Counter[str]()

    async def watched(self: Script, redis: Redis, names: Sequence[str], args: Sequence[Argument]) -> Any:
        called[self.name] += 1
        if self.name not in OF_STREAMS:
            assert names == keys.routing
            assert await redis.exists(names[0]) or not await redis.keys(f"{keys.tag}:*"), self.name
        answer = await call(self, redis, names, args)
        assert self.name in READ_ONLY or await redis.exists(names[0]), self.name
        assert not await redis.exists(*names[1:] or ["none"]), self.name
        return answer

    monkeypatch.setattr(Script, "call", watched)
    await live(world)
    assert set(called) == SCRIPTS


@pytest.mark.parametrize("name", FIRST)
async def test_the_first_write_creates_the_key_that_scripts_are_called_with(world: World, name: str) -> None:
    """It is called in an empty partition."""
    await world.partition.call(name, FIRST[name])
    assert await world.redis.exists(world.partition.keys.routing[0])


@pytest.mark.parametrize("index", [0, 1])
async def test_work_in_one_partition_leaves_the_other_unchanged(world: World, index: int) -> None:
    """Every script is called in one; the other has waiting jobs, jobs in flight, a suppression and a pause."""
    here, there = of_partition(world, index), of_partition(world, 1 - index)
    other = await there.sender()
    await given(there, 3)
    (flying,) = await other.take(1)
    await given(there, 120, "bulk")
    await there.partition.call("suppress", (HEAD, "r1@example.com", BOUNCE))
    await there.partition.call("pause_channel", ("by hand", HEAD))
    before = await whole(there.redis, there.partition.keys)
    await live(here)
    assert await whole(there.redis, there.partition.keys) == before
    assert await other.finish(flying) == [True]


async def test_partitions_share_no_jobs_leases_pauses_suppressions_or_counts(world: World) -> None:
    """Two partitions of one channel on one server: each delivers, holds, pauses and counts only its own jobs."""
    first, second = of_partition(world, 0), of_partition(world, 1)
    mine, theirs = await given(first, 2), await given(second, 3)
    one, two = await first.sender(), await second.sender()
    await second.partition.call("suppress", (HEAD, "r0@example.com", BOUNCE))
    leases, others = await one.fetch(10), await two.fetch(10)
    assert {lease.job.blast_id for lease in leases} == {mine.blast_id}
    assert {lease.job.blast_id for lease in others} == {theirs.blast_id}
    assert [grant.kind for grant in await one.begin(leases)] == ["granted"] * 2
    assert [grant.kind for grant in await two.begin(others)] == ["suppressed", "granted", "granted"]
    assert await two.consumer.settle([]) == []
    assert await one.finish(*leases) == [True, True]
    await second.partition.call("pause_channel", ("by hand", HEAD))
    assert not (await one.consumer.fetch(1)).paused
    assert (await two.consumer.fetch(1)).paused == "by hand"
    control = Control(world.redis, "c")
    counts = [await control.partition_stats(each.partition) for each in (first, second)]
    assert [(each.waiting, each.active, each.completed) for each in counts] == [(0, 0, 2), (1, 2, 0)]
    assert [len(each.senders) for each in counts] == [1, 1]
    together = add_up(counts)
    assert (together.waiting, together.active, together.completed, together.paused) == (1, 2, 2, 1)
    assert (together.pause_reason, len(together.senders)) == ("by hand", 2)


async def test_the_doctor_of_one_partition_ignores_the_other(world: World) -> None:
    """The doctor of a partition repairs only that partition."""
    first, second = of_partition(world, 0), of_partition(world, 1)
    for each in (first, second):
        await each.redis.zadd(each.partition.keys.key("ring"), {each.partition.keys.bulk("gone"): 1})
    (found,) = await Doctor(second.partition, "doctor", repair=True).examine()
    assert found.what == "turns of streams that do not exist"
    assert await Doctor(second.partition, "doctor", repair=True).examine() == []
    assert len(await Doctor(first.partition, "doctor", repair=False).examine()) == 1


def test_the_first_partition_has_the_keys_that_a_channel_had() -> None:
    """A running deployment finds its data; the other partitions have a number."""
    assert (PartitionKeys("email").tag, PartitionKeys("email", 1).tag) == ("{email}", "{email.1t}")
    assert PartitionKeys("email").bulk("b") == "{email}:jobs:bulk:b"


def test_batches_of_different_partitions_have_different_names(world: World) -> None:
    """A sender may serve two partitions: the logger would ignore the second of two batches with one name."""
    heads = [Partition(world.redis, PartitionKeys("email", index)).numbered("s", "begin") for index in (0, 1)]
    assert [head.producer for head in heads] == ["s/begin", "s.1/begin"]
