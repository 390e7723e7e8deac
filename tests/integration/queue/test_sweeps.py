"""Sweeps: each waiting job of a cancelled blast ends once, whatever its index, run and place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from shared.blasts import Blast
from shared.clock import SystemClock
from shared.events import Ended, SweptRanges
from shared.queue.producer import Chunk
from shared.queue.sweeper import Sweeper, Swept
from tests.integration.queue.world import World, ends

EDGES = [0, 1, 127, 128, 129, 255, 256, 300, 65_535, 65_536, *range(70_000, 70_100)]


async def given(world: World, indexes: Sequence[int]) -> Blast:
    """Enqueue a blast whose jobs have these indexes, in chunks of 50."""
    blast = await world.blast(len(indexes), "bulk")
    for first in range(0, len(indexes), 50):
        jobs = world.jobs(blast, indexes[first : first + 50])
        await world.producer.enqueue(Chunk(blast, "email", first, jobs), world.partition)
    return blast


@pytest.fixture(params=[True, False], ids=["recorded", "unrecorded"], autouse=True)
def is_recorded(request: pytest.FixtureRequest) -> bool:
    """Whether `C:chunks:<blast>` has the chunks, as it has not of an earlier version."""
    return bool(request.param)


async def cancelled(world: World, blast: Blast, *, recorded: bool) -> list[SweptRanges]:
    """Cancel a blast; return the events of its ranges, in which each range is as long as it can be."""
    await world.written()
    world.events.clear()
    if not recorded:
        await world.redis.unlink(world.partition.keys.key(f"chunks:{blast.blast_id}"))
    assert await world.control.cancel_blast(blast.blast_id)
    found = [event for event in await world.written() if isinstance(event, SweptRanges)]
    assert all(b[0] > a[1] + 1 for event in found for a, b in pairwise(event.ranges))
    return found


async def test_each_index_is_in_a_range(world: World, is_recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any size and with gaps; recorded chunks that nobody touched are not read."""
    blast, read, sweep = await given(world, EDGES), [], Sweeper._sweep_blast_stream

    async def noted(*args: Any) -> Swept:
        read.append(await sweep(*args))
        return read[-1]

    monkeypatch.setattr(Sweeper, "_sweep_blast_stream", noted)
    found = await cancelled(world, blast, recorded=is_recorded)
    assert [one.ended for one in read] == [0 if is_recorded else len(EDGES)]
    assert sorted(index for event in found for index in event.indexes()) == EDGES
    assert set(ends(world.events).values()) == {1}
    assert (await world.progress(blast)).counts["cancelled"] == len(EDGES)
    await world.check_balance(blast)


@pytest.mark.parametrize("run", [2, 127, 128, 200, 256, 300])
async def test_a_range_has_one_run(world: World, run: int, is_recorded: bool) -> None:
    """Failed jobs that were sent again are cancelled in that run, the others in the first."""
    blast = await given(world, range(120))
    sender = await world.sender()
    for lease in await sender.take(3):
        assert await sender.fail(lease)
    await world.again(blast, [0, 1, 2], run)
    await cancelled(world, blast, recorded=is_recorded)
    told = {f"{blast.blast_id}:{index}:email": run if index < 3 else 1 for index in range(120)}
    assert ends(world.events) == dict.fromkeys(told.items(), 1)
    await world.check_balance(blast)


async def test_jobs_that_were_touched_have_an_end_of_their_own(world: World, is_recorded: bool) -> None:
    """Those in a sender's buffer, given back and in flight are not in a range; those in flight are left."""
    blast = await given(world, range(200))
    sender = await world.sender()
    buffered = await sender.fetch(3)
    flying = await sender.take(2)
    (back,) = await sender.take(1)
    assert await sender.give_back(back)
    found = await cancelled(world, blast, recorded=is_recorded)
    touched = {lease.job_id for lease in [*buffered, *flying, back]}
    alone = {event.job_id for event in world.events if isinstance(event, Ended)}
    assert alone == touched - {lease.job_id for lease in flying}
    assert sum(map(len, found)) == 200 - len(touched)
    assert (await world.progress(blast)).counts["processing"] == 2
    await world.check_balance(blast)
    assert await sender.finish(*flying) == [True, True]
    assert set(ends(await world.written()).values()) == {1}


async def test_a_job_that_was_cancelled_alone_is_not_in_a_range(world: World, is_recorded: bool) -> None:
    """It is in the middle of a chunk; and nothing of the blast is left where another blast's job has a record."""
    other = await world.given(2)
    await world.redis.hset(world.partition.keys.key("cancels"), f"{other.blast_id}:9:email", "1")
    blast = await given(world, range(200))
    assert await world.control.cancel_job(f"{blast.blast_id}:77:email") == "cancelled"
    found = await cancelled(world, blast, recorded=is_recorded)
    assert sorted(index for event in found for index in event.indexes()) == [*range(77), *range(78, 200)]
    await world.check_balance(blast, other)


async def test_a_scheduled_blast_is_cancelled_as_scheduled(world: World, is_recorded: bool) -> None:
    """Its jobs count as scheduled until they end; the blast ends with the last."""
    blast = await world.given(200, "bulk", scheduled_at_ms=SystemClock().now_ms() + 60_000)
    assert (await world.progress(blast)).counts["scheduled"] == 200
    assert sum(map(len, await cancelled(world, blast, recorded=is_recorded))) == 200
    truth = await world.check_balance(blast)
    assert not truth.bulk_streams
    assert [key async for key in world.redis.scan_iter("{email}:chunks:*")] == []


async def test_two_sweeps_at_once_end_each_job_once(world: World, is_recorded: bool) -> None:
    """A request to cancel is repeated while the first one is served, and senders fetch meanwhile."""
    blast = await given(world, range(1000))
    await world.written()
    world.events.clear()
    if not is_recorded:
        await world.redis.unlink(world.partition.keys.key(f"chunks:{blast.blast_id}"))
    sender = await world.sender()
    flying = await sender.take(2)
    sweeps = [world.control.cancel_blast(blast.blast_id) for _ in range(3)]
    await asyncio.gather(*sweeps, sender.fetch(100))
    told = ends(await world.written())
    assert (len(told), set(told.values())) == (998, {1})
    await world.check_balance(blast)
    assert await sender.finish(*flying) == [True, True]
    assert (await world.progress(blast)).counts["cancelled"] == 998
