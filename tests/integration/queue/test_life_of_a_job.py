"""The paths of a job through the queue: enqueue, fetch, begin, finish, retry, give back, end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.blasts import Blast
from shared.events import BlastChannelEnded, Ended, Queued, Retrying, Sent
from shared.jobs import Lane
from shared.queue.keys import PartitionKeys
from shared.queue.producer import Chunk, GapError
from tests.integration.queue.world import WITH_FILES, World, eventually

PARTITIONS = (4,)
CLUSTER = True
SENTINELS = True


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
    numbers = sender.consumers[0]._settles
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
    assert await sender.retry(lease, 50_000)
    assert await sender.fetch() == []
    assert (await world.progress(blast)).counts["retrying"] == 1
    await world.check_balance()
    await world.make_due()
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
    server = await world.partition.server()
    await server.config_resetstat()
    assert {grant.kind for grant in await sender.begin(leases)} == {"granted"}
    assert all(await sender.finish(*leases))
    assert (await server.info("commandstats"))["cmdstat_xpending"]["calls"] == 2


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


@pytest.mark.parametrize("lost", [False, True], ids=["", "enqueued again after a failover"])
async def test_blast_of_two_channels_expires_as_a_whole(world: World, lost: bool) -> None:
    """What it sent on one channel counts for as long as it waits on the other; then the log lets both expire."""
    world.timing = replace(world.timing, keep_ended_ms=1)
    blast = await world.blast(2, channels=["email", "whatsapp"], totals={"email": 2, "whatsapp": 1})
    keys: list[Any] = [PartitionKeys("email", 0).blast(blast.blast_id), PartitionKeys("whatsapp").blast(blast.blast_id)]
    if lost:
        await world.redis.delete(keys[0])
    await world.enqueue(blast)
    assert all(await (sender := await world.sender()).finish(*await sender.take(2)))
    assert [await world.redis.pttl(key) for key in keys] == [-1, -1]
    assert (await world.progress(blast)).counts["sent"] == 2
    await world.control.cancel_blast(blast.blast_id)
    await world.blasts.truncate(blast.blast_id)
    await world.blasts.expire(blast.blast_id, 60_000)
    for key in (*keys, f"blast:{blast.blast_id}"):
        assert 0 < await world.redis.pttl(key) <= 60_000


async def test_restored_blast_of_two_channels_expires_as_a_whole(world: World) -> None:
    """The counts of the other channel stay while dead letters of one are sent again; then the log lets both expire."""
    world.timing = replace(world.timing, keep_ended_ms=1)
    blast = _on_two_channels(world)
    await world.blasts.restore(blast, {"email": {0: {"failed": 1}}, "whatsapp": {0: {"sent": 1}}})
    assert (await world.again(blast, [0], 2)).added == 1
    await world.blasts.expire(blast.blast_id, 1)  # its first end, seen late
    assert all(await (sender := await world.sender()).finish(*await sender.take(1)))
    assert [await world.redis.pttl(key) for key in _kept(blast)] == [-1, -1, -1]
    found = await world.blasts.progress(blast.blast_id)
    assert found is not None
    assert (found.state, found.channels["email"].counts["sent"]) == ("completed", 1)
    await world.blasts.expire(blast.blast_id, 60_000)
    assert all([0 < await world.redis.pttl(key) <= 60_000 for key in _kept(blast)])


async def test_restored_channel_has_not_ended_while_its_jobs_wait(world: World) -> None:
    """Its jobs in the outbox are open in the log: it ends, once, after they were sent."""
    blast = _on_two_channels(world)
    await world.blasts.restore(blast, {"email": {0: {"failed": 1, "queued": 1}}, "whatsapp": {0: {"sent": 1}}})
    found = await world.blasts.progress(blast.blast_id)
    assert found is not None
    assert (found.state, found.channels["whatsapp"].ended_at_ms > 0) == ("running", True)
    assert (await world.again(blast, [0], 2)).added == 1
    assert all(await (sender := await world.sender()).finish(*await sender.take(1)))
    assert [type(event) for event in await world.written()].count(BlastChannelEnded) == 1


async def test_other_channel_is_kept_while_dead_letters_wait(world: World) -> None:
    """Of a blast that expires soon, the channel without dead letters would expire before they are sent."""
    blast = _on_two_channels(world)
    await world.blasts.restore(blast, {"email": {0: {"failed": 1}}, "whatsapp": {0: {"sent": 1}}})
    await world.blasts.expire(blast.blast_id, 60_000)
    assert await world.blasts.keep(blast) == []
    await world.blasts.restore(blast, {})
    assert [await world.redis.pttl(key) for key in _kept(blast)] == [-1, -1, -1]
    await world.redis.delete(_kept(blast)[1])
    assert await world.blasts.keep(blast) == ["whatsapp"]


async def test_channel_restored_alone_expires_with_the_others(world: World) -> None:
    """It does not expire by itself, although the other one was still there and was not restored."""
    world.timing = replace(world.timing, keep_ended_ms=1)
    blast = _on_two_channels(world)
    await world.blasts.restore(blast, {"email": {0: {"failed": 1}}})
    assert (await world.again(blast, [0], 2)).added == 1
    assert all(await (sender := await world.sender()).finish(*await sender.take(1)))
    assert await world.redis.pttl(_kept(blast)[0]) == -1


async def test_blast_kept_for_jobs_that_were_sent_again_before_is_released(world: World) -> None:
    """Kept for a chunk that had already been enqueued, it expires if its jobs have ended, and stays while they wait."""
    blast = _on_two_channels(world)
    await world.blasts.restore(blast, {"email": {0: {"failed": 1}}, "whatsapp": {0: {"sent": 1}}})
    assert (await world.again(blast, [0], 2)).added == 1
    await world.blasts.release(blast)
    assert [await world.redis.pttl(key) for key in _kept(blast)] == [-1, -1, -1]
    assert all(await (sender := await world.sender()).finish(*await sender.take(1)))
    assert await world.blasts.keep(blast) == []
    assert (await world.again(blast, [0], 2)).added == 0
    await world.blasts.release(blast)
    assert all([await world.redis.pttl(key) > 0 for key in _kept(blast)])


def _on_two_channels(world: World) -> Blast:
    totals = {"email": 1, "whatsapp": 1}
    return world.unknown_blast(1, channels=list(totals), totals=totals)


def _kept(blast: Blast) -> list[Any]:
    """Return what Redis keeps of a blast in one partition of each channel: its hashes and its snapshot."""
    hashes = [PartitionKeys(channel, 0).blast(blast.blast_id) for channel in ("email", "whatsapp")]
    return [*hashes, f"blast:{blast.blast_id}"]


async def test_each_settlement_leaves_the_ids_of_its_jobs_for_inspection(world: World) -> None:
    """`C:completed` has one entry for each of the last hundred settlements; another outcome than `sent` adds none."""
    await world.given(108)
    sender = await world.sender()
    first, *others = await sender.take(108)
    redis: Any = world.redis
    assert await sender.retry(first, 60_000)
    assert await redis.xlen("{email}:completed") == 0
    for one in others[:101]:
        assert await sender.finish(one) == [True]
    assert await sender.finish(*others[101:]) == [True] * 6
    assert await redis.xlen("{email}:completed") == 100
    (_, newest), (_, before), *_ = await redis.xrevrange("{email}:completed")
    assert newest[b"d"].decode().split() == [lease.job_id for lease in others[101:]]
    assert before[b"d"].decode() == others[100].job_id


async def test_answers_are_kept_while_their_sender_lives(world: World) -> None:
    """The record of a sender's answers lasts an hour from its first call, and from each of its heartbeats."""
    await world.given(1)
    sender = await world.sender()
    leases = await sender.take(1)
    key, redis = f"{{email}}:once:{sender.name}", world.redis
    assert 0 < await redis.pttl(key) <= 3_600_000
    await redis.pexpire(key, 60_000)
    assert await sender.finish(*leases) == [True]
    await redis.pexpire(key, 60_000)
    await sender.consumer.heartbeat({"host": "h"})
    assert 3_000_000 < await redis.pttl(key) <= 3_600_000
