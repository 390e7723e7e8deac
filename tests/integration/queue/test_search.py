"""The search for jobs to cancel, among any number of other jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.jobs import JobId, Lane, Recipient
from shared.queue.producer import Chunk
from shared.queue.sweeper import Sweeper
from tests.integration.queue.world import World, ends, eventually


async def reads(world: World) -> int:
    """Return how often ranges of streams have been read."""
    stats: dict[str, Any] = await world.redis.info("commandstats")
    return int(stats.get("cmdstat_xrange", {"calls": 0})["calls"])


async def test_jobs_that_ended_are_not_searched_for(world: World) -> None:
    """If the blast has no jobs left, no stream is searched, however many other jobs wait."""
    blast = await world.given(1)
    sender = await world.sender()
    assert await sender.finish(*await sender.take())
    await world.given(50, "bulk")
    before = await reads(world)
    assert await world.control.cancel_job(f"{blast.blast_id}:0:email") == "unknown"
    assert await reads(world) == before
    assert await world.redis.exists("{email}:cancels") == 0


@pytest.mark.parametrize("lane", ["high", "normal", "bulk"])
async def test_one_job_is_found_among_similar_ids(world: World, lane: Lane) -> None:
    """A job is found by its packed blast and index; no job with a similar beginning is ended."""
    likes = [await world.blast(8, lane, blast_id=blast_id) for blast_id in ("ab", "abc", "a", "abcdefgh" * 5)]
    for blast in likes:
        jobs = world.jobs(blast, [0, 1, 12, 127, 128, 255, 256, 70_000])
        await world.producer.enqueue(Chunk(blast, "email", 0, jobs))
    for blast in likes:
        for index in (1, 128, 70_000):
            assert await world.control.cancel_job(f"{blast.blast_id}:{index}:email") == "cancelled"
        assert (await world.progress(blast)).counts["cancelled"] == 3
    told = ends(await world.written())
    assert set(told) == {(f"{blast.blast_id}:{index}:email", 1) for blast in likes for index in (1, 128, 70_000)}
    await world.check_balance(*likes)


async def test_a_search_reaches_the_last_job_of_any_size(world: World) -> None:
    """Large jobs are read a few at a time; a deferred job is found by its id."""
    large = await world.blast(12, "high")
    recipient = Recipient("someone@example.com", "Someone", {"text": "x" * 200_000})
    await world.enqueue(large, recipient=recipient)
    last = await world.given(600, "high")
    sender = await world.sender()
    (first,) = await sender.take(1)
    assert await sender.defer(first, 60_000)
    assert await world.control.cancel_job(first.job_id) == "cancelled"
    assert await world.control.cancel_job(f"{large.blast_id}:11:email") == "cancelled"
    assert await world.control.cancel_job(f"{last.blast_id}:599:email") == "cancelled"
    assert await world.control.cancel_blast(large.blast_id)
    assert (await world.progress(large)).counts["cancelled"] == 12
    await world.check_balance(large, last)


async def test_a_job_that_moves_behind_the_search_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was deferred when its stream was read, and became due before the deferred jobs were read."""
    blast = await world.given(2, "high")
    sender = await world.sender()
    (lease,) = await sender.take(1)
    assert await sender.defer(lease, 0)
    due_later, moved = Sweeper._due_later, False

    async def comes_due(sweeper: Sweeper, wanted: Any) -> AsyncIterator[Any]:
        nonlocal moved
        if not moved:
            moved = bool(await eventually(lambda: sender.fetch(10), "what came due"))
        async for found in due_later(sweeper, wanted):
            yield found

    monkeypatch.setattr(Sweeper, "_due_later", comes_due)
    assert await world.control.cancel_job(lease.job_id) == "cancelled"
    await world.check_balance(blast)


@pytest.mark.parametrize("lane", ["high", "normal", "bulk"])
async def test_a_job_is_found_wherever_it_is(world: World, lane: Lane) -> None:
    """Waiting, being sent, retried or deferred; nothing is changed by looking. One that has ended is not found."""
    blast = await world.given(120, lane)
    sender = await world.sender()
    begun, parked, deferred, done = await sender.take(4)
    assert await sender.retry(parked, 60_000)
    assert await sender.defer(deferred, 60_000)
    assert await sender.finish(done) == [True]
    before = await world.progress(blast)
    for lease in (begun, parked, deferred):
        found = await world.control.find_job(JobId(blast.blast_id, lease.job.index, "email"))
        assert found is not None
        assert found.recipient == lease.job.recipient
    last = await world.control.find_job(JobId(blast.blast_id, 119, "email"))
    assert last is not None
    assert last.index == 119
    assert await world.control.find_job(JobId(blast.blast_id, done.job.index, "email")) is None
    assert await world.control.find_job(JobId("nothing", 0, "email")) is None
    assert await world.progress(blast) == before
    await world.check_balance(blast)
