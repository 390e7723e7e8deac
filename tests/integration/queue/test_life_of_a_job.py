"""The paths of a job through the queue: enqueue, fetch, begin, finish, retry, give back, end."""

from __future__ import annotations

import pytest

from shared.events import BlastChannelEnded, Ended, Queued, Retrying, Sent
from shared.jobs import Lane
from shared.queue.producer import Chunk, GapError
from tests.integration.queue.world import WITH_FILES, World, eventually


async def test_job_goes_from_enqueue_to_sent(world: World) -> None:
    """A job is fetched, begun and finished, and its blast ends; events report each step."""
    blast = await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert (await world.progress(blast)).counts["processing"] == 1
    assert await sender.finish(lease) == [True]
    progress = await world.progress(blast)
    assert progress.counts["sent"] == 1
    assert progress.ended_at_ms > 0
    await world.check_balance()
    kinds = [type(event) for event in await world.written()]
    assert kinds.count(Queued) == kinds.count(Sent) == kinds.count(BlastChannelEnded) == 1


async def test_repeated_chunk_adds_nothing_twice(world: World) -> None:
    """A chunk whose reply was lost finds the watermark; one that overlaps adds only what is missing."""
    blast = await world.blast(10)
    assert (await world.enqueue(blast, 0, 6)).added == 6
    assert (await world.enqueue(blast, 0, 6)).added == 0
    assert (await world.enqueue(blast, 4, 6)).added == 4
    assert (await world.progress(blast)).enqueued == 10
    leases = await (await world.sender()).fetch(50)
    assert [lease.job.index for lease in leases] == list(range(10))


async def test_chunk_behind_a_gap_is_refused(world: World) -> None:
    """A chunk is refused if jobs before its first are missing: no job can be lost between two chunks."""
    blast = await world.blast(10)
    with pytest.raises(GapError):
        await world.enqueue(blast, 5, 5)


async def test_repeated_finish_answers_as_before_and_counts_once(world: World) -> None:
    """A finish whose reply was lost is repeated with its number: it gets the same answer and counts once."""
    blast = await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    numbers = sender.consumer._settles
    before = numbers.next()
    replay = iter([before, before])
    numbers.next = lambda: next(replay)  # type: ignore[method-assign]
    assert await sender.finish(lease) == [True]
    assert await sender.finish(lease) == [True]
    assert (await world.progress(blast)).counts["sent"] == 1
    assert sum(isinstance(event, Sent) for event in await world.written()) == 1


@pytest.mark.parametrize("lane", ["high", "normal", "bulk"])
async def test_retry_counts_attempts_and_comes_back_when_due(world: World, lane: Lane) -> None:
    """A failed attempt is parked, due after its delay, and counts as the next attempt."""
    blast = await world.given(1, lane)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert lease.attempt == 1
    assert await sender.retry(lease, 400)
    assert await sender.fetch() == []
    assert (await world.progress(blast)).counts["retrying"] == 1
    await world.check_balance()
    (lease,) = await eventually(sender.take, "the retry to be due")
    assert lease.attempt == 2
    assert await sender.finish(lease) == [True]
    await world.check_balance()
    assert sum(isinstance(event, Retrying) for event in await world.written()) == 1


async def test_jobs_of_distant_entries_are_settled_together(world: World) -> None:
    """The first and the last of many jobs in flight are found, and none in between."""
    blast = await world.given(200)
    sender = await world.sender()
    leases = await sender.take(200)
    assert await sender.finish(leases[0], leases[-1]) == [True, True]
    counts = (await world.progress(blast)).counts
    assert (counts["sent"], counts["processing"]) == (2, 198)
    await world.check_balance(blast)


async def test_entries_of_one_chunk_are_read_together(world: World) -> None:
    """Their ids differ in their last number only: a begin and a settle each read them in one go, not one by one."""
    await world.given(50)
    sender = await world.sender()
    leases = await sender.fetch(50)
    await world.redis.config_resetstat()
    assert {grant.kind for grant in await sender.begin(leases)} == {"granted"}
    assert all(await sender.finish(*leases))
    assert (await world.redis.info("commandstats"))["cmdstat_xpending"]["calls"] == 2


async def test_job_that_was_not_begun_was_not_tried(world: World) -> None:
    """A job that was only fetched cannot be retried or deferred, and can still be begun."""
    blast = await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.fetch(1)
    assert not await sender.retry(lease, 0)
    assert not await sender.uncertain(lease, 0)
    assert not await sender.defer(lease, 0)
    await world.check_balance(blast)
    assert [grant.kind for grant in await sender.begin([lease])] == ["granted"]
    assert await sender.finish(lease) == [True]


async def test_given_back_job_costs_no_attempt(world: World) -> None:
    """A job that was begun and not tried waits again as before, for any sender."""
    blast = await world.given(1)
    first, second = await world.sender(), await world.sender()
    (lease,) = await first.take()
    assert await first.give_back(lease)
    assert (await world.progress(blast)).counts["queued"] == 1
    (again,) = await second.take()
    assert again.attempt == 1
    assert await second.finish(again) == [True]
    await world.check_balance()


async def test_dead_letter_ends_the_job(world: World) -> None:
    """A permanent failure ends the job once; `C:failed` shows it."""
    blast = await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await sender.fail(lease)
    assert not await sender.fail(lease)
    progress = await world.progress(blast)
    assert progress.counts["failed"] == 1
    assert await world.redis.xlen("{email}:failed") == 1
    assert sum(isinstance(event, Ended) for event in await world.written()) == 1


async def test_chunk_of_more_than_500_is_refused(world: World) -> None:
    """A script call stays short: a chunk holds at most 500 jobs."""
    blast = await world.blast(501)
    with pytest.raises(ValueError, match="at most 500"):
        await world.producer.enqueue(Chunk(blast, "email", 0, world.jobs(blast, range(501))))


async def test_dead_letter_with_an_attachment_is_sent_again(world: World) -> None:
    """It fails, is enqueued as the next run, whole, and is sent."""
    blast = await world.blast(1)
    await world.enqueue(blast, recipient=WITH_FILES)
    sender = await world.sender()
    assert await sender.fail((await sender.take())[0])
    jobs = world.jobs(blast, [0], run=2, recipient=WITH_FILES)
    assert (await world.producer.enqueue(Chunk(blast, "email", 0, jobs, series="run:2"))).added == 1
    (again,) = await sender.take()
    assert (again.job.run, (await world.whole(again.job)).recipient) == (2, WITH_FILES)
    assert await sender.finish(again) == [True]
    await world.check_balance(blast)
