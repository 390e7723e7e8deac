"""Pauses and cancellations: of a channel, of a blast, of one job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.errors import QueueFullError, QueueUnavailableError
from shared.events import BlastChanged, BlastChannelEnded, Sent
from shared.jobs import Lane
from shared.queue.consumer import BeginPolicy
from shared.queue.partitions import Partition
from shared.queue.scripts import Argument
from shared.queue.sweeper import Sweeper
from shared.settings import Rate
from tests.integration.queue.world import World, ends, eventually

PARTITIONS = (4,)


async def test_paused_channel_begins_nothing(world: World) -> None:
    """A fetch returns the reason and takes nothing; buffered jobs are not begun; a resume wakes senders."""
    blast = await world.given(3)
    sender = await world.sender()
    leases = await sender.fetch(1)
    await world.control.pause_channel("email", "535 wrong password")
    fetched = await sender.consumer.fetch(10)
    assert (fetched.leases, fetched.paused) == ([], "535 wrong password")
    assert await sender.obey(leases) == ["held"]
    assert (await world.control.channel_stats("email")).paused == 3
    await world.check_balance(blast)
    assert await world.wakes(lambda: world.control.resume_channel("email"))
    assert len(await sender.take(10)) == 3


async def test_resumed_blast_wakes_senders(world: World) -> None:
    """Idle senders continue it immediately."""
    blast = await world.given(120, "bulk")
    await world.control.pause_blast(blast.blast_id, "wait")
    assert await world.wakes(lambda: world.control.resume_blast(blast.blast_id))


@pytest.mark.parametrize(("lane", "count"), [("high", 5), ("normal", 5), ("bulk", 5), ("bulk", 120)])
async def test_paused_blast_does_not_block_others(world: World, lane: Lane, count: int) -> None:
    """Its jobs are set aside, also fetched ones; other blasts continue; after a resume it continues too."""
    held = await world.given(count, lane)
    sender = await world.sender()
    buffered = await sender.fetch(2)
    assert await world.control.pause_blast(held.blast_id, "wait")
    free = await world.given(5, lane)
    assert await sender.obey(buffered) == ["paused", "paused"]
    done: Counter[str] = Counter()
    while leases := await sender.fetch(50):
        words = await sender.obey(leases)
        begun = [lease for lease, word in zip(leases, words, strict=True) if word == "granted"]
        done.update(lease.job.blast_id for lease in begun)
        assert not begun or all(await sender.finish(*begun))
    assert done == {free.blast_id: 5}
    assert (await world.control.channel_stats("email")).paused == count
    await world.check_balance(held, free)
    assert await world.control.resume_blast(held.blast_id)
    assert (await world.control.channel_stats("email")).paused == 0
    assert len(await eventually(lambda: sender.take(count), "the resumed blast")) == count
    await world.check_balance(held, free)
    assert [event.change for event in await world.written() if isinstance(event, BlastChanged)] == ["paused", "resumed"]


@pytest.mark.parametrize(("lane", "count"), [("normal", 1), ("bulk", 120)])
async def test_resume_before_a_job_is_set_aside_leaves_nobody_asleep(world: World, lane: Lane, count: int) -> None:
    """The blast continues while a sender still sets its jobs aside: they are taken again, and idle senders hear it."""
    blast = await world.given(count, lane)
    slow, idle = await world.sender(), await world.sender()
    leases = await slow.fetch(count)
    assert await world.control.pause_blast(blast.blast_id, "wait")
    grants = await slow.begin(leases)
    assert await world.control.resume_blast(blast.blast_id)
    assert await idle.fetch() == []
    assert await world.wakes(lambda: slow.settle_refusals(leases, grants))
    assert len(await idle.take(count)) == count
    await world.check_balance(blast)


async def test_paused_blast_costs_the_others_nothing(world: World) -> None:
    """A large paused blast is out of the ring: no fetch reads its stream."""
    held = await world.given(1000, "bulk")
    free = await world.given(100, "bulk")
    assert await world.control.pause_blast(held.blast_id, "wait")
    leases = await (await world.sender()).take(100)
    assert {lease.job.blast_id for lease in leases} == {free.blast_id}
    assert await world.redis.zscore("{email}:ring", f"{{email}}:jobs:bulk:{held.blast_id}") is None


async def test_retries_of_a_paused_blast_wait_for_its_resume(world: World) -> None:
    """A job in flight at the pause finishes or is parked; its retry is not begun before the resume."""
    blast = await world.given(120, "bulk")
    sender = await world.sender()
    lease, other = await sender.take(2)
    assert await world.control.pause_blast(blast.blast_id, "wait")
    assert await sender.finish(other) == [True]
    assert await sender.retry(lease, 1)
    (again,) = await eventually(lambda: sender.fetch(10), "the retry")
    assert await sender.obey([again]) == ["paused"]
    assert await sender.fetch() == []
    await world.check_balance(blast)
    assert await world.control.resume_blast(blast.blast_id)
    leases = await sender.take(200)
    assert len(leases) == 119
    assert sorted(lease.attempt for lease in leases)[-2:] == [1, 2]


async def test_enqueueing_continues_while_a_blast_is_paused(world: World) -> None:
    """Chunks enqueued during the pause wait in the blast's own stream, in any lane."""
    blast = await world.blast(4, "high")
    await world.enqueue(blast, 0, 2)
    assert await world.control.pause_blast(blast.blast_id, "wait")
    await world.enqueue(blast, 2, 2)
    sender = await world.sender()
    assert await sender.obey(await sender.fetch()) == ["paused", "paused"]
    await world.check_balance(blast)
    assert await world.control.resume_blast(blast.blast_id)
    assert sorted(lease.job.index for lease in await sender.take()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("lane", "count"), [("high", 20), ("normal", 20), ("bulk", 20), ("bulk", 300)])
async def test_cancelled_blast_ends_wherever_its_jobs_wait(world: World, lane: Lane, count: int) -> None:
    """New, buffered, parked and deferred jobs end as cancelled; jobs in flight finish; other blasts continue."""
    other = await world.given(5, lane)
    blast = await world.given(count, lane)
    sender = await world.sender(policy=BeginPolicy(concurrency=1000))
    leases = [lease for lease in await sender.take(10) if lease.job.blast_id == blast.blast_id]
    flying, parked, put_off, back = leases[:4]
    assert await sender.retry(parked, 60_000)
    assert await sender.defer(put_off, 60_000)
    assert await sender.give_back(back)
    await sender.fetch(2)
    assert await world.control.cancel_blast(blast.blast_id)
    counts = (await world.progress(blast)).counts
    assert counts["cancelled"] == count - (len(leases) - 3)
    await world.check_balance(blast, other)
    assert all(await sender.finish(flying, *leases[4:]))
    progress = await world.progress(blast)
    assert progress.counts["cancelled"] + progress.counts["sent"] == count
    assert progress.ended_at_ms > 0
    assert (await world.enqueue(blast, 0, 5)).cancelled
    assert not await world.control.cancel_blast(blast.blast_id)
    events = await world.written()
    told = ends(event for event in events if not isinstance(event, Sent))
    assert set(told.values()) == {1}
    assert len(told) == progress.counts["cancelled"]
    assert sum(isinstance(event, BlastChannelEnded) for event in events) == 1
    await world.check_balance(blast, other)


async def test_a_sweep_of_several_streams_leaves_the_jobs_in_flight(world: World) -> None:
    """One call may end jobs of several streams: in each of them it ends those that wait, and their entries are gone."""
    blasts = [await world.given(3, "high"), await world.given(3)]
    sender = await world.sender()
    leases = await sender.fetch(6)
    flying = [lease for lease in leases if lease.job.index == 1]
    assert [grant.kind for grant in await sender.begin(flying)] == ["granted", "granted"]
    args: list[Argument] = [world.partition.numbered("s", "sweep").next()[1], 1000, "cancelled"]
    for lease in leases:
        args += (lease.stream, lease.entry_id, lease.job_id, "q", b"")
    assert await world.partition.call("sweep", args) == b"1t11t1"
    await world.check_balance(*blasts)
    assert await sender.finish(*flying) == [True, True]
    assert await world.redis.xlen(leases[0].stream) == await world.redis.xlen(leases[-1].stream) == 0
    await world.check_balance(*blasts)


@pytest.mark.parametrize("first_deferred_at_ms", [1, 1_790_000_000_000, 0x1A0_0000_0000, 0x1A0_0100_0000])
async def test_a_sweep_recognises_jobs_that_were_tried_before(world: World, first_deferred_at_ms: int) -> None:
    """A deferred job among the untried ones of a blast's stream is recognised, whatever its last bytes are."""
    blast = await world.given(120, "bulk")
    sender = await world.sender()
    (lease,) = await sender.take(1)
    assert await sender.defer(lease, 0, first_deferred_at_ms)
    assert await world.control.pause_blast(blast.blast_id, "wait")
    again = await eventually(lambda: sender.fetch(10), "the deferred job")
    assert set(await sender.obey(again)) == {"paused"}
    assert await world.control.cancel_blast(blast.blast_id)
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"cancelled": 120}
    told = ends(await world.written())
    assert (len(told), set(told.values())) == (120, {1})
    await world.check_balance(blast)


async def test_entries_that_are_not_jobs_are_left_to_the_senders(world: World) -> None:
    """A sweep ends no entry that it cannot read, whatever the bytes begin or end with."""
    blast = await world.given(120, "bulk")
    stream = f"{{email}}:jobs:bulk:{blast.blast_id}"
    reader: Any = world.redis
    whole = (await reader.xrange(stream, count=1))[0][1][b"d"]
    for raw in (b"", b"x", whole[:-5], whole[8:], b"\0\0\0\xc2\0"):
        await world.redis.xadd(stream, {"d": raw})
    assert await world.control.cancel_blast(blast.blast_id)
    assert (await world.progress(blast)).counts["cancelled"] == 120
    assert await world.redis.xlen(stream) == 5
    assert len(ends(await world.written())) == 120


async def test_senders_end_the_jobs_that_a_killed_sweep_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of the cancellation is enough: without a sweep, the jobs end when senders reach them."""

    async def killed(*_args: object) -> None:
        return

    blast = await world.given(150, "bulk")
    assert await world.control.pause_blast(blast.blast_id, "wait")
    monkeypatch.setattr(Sweeper, "sweep_blast", killed)
    assert await world.control.cancel_blast(blast.blast_id)
    sender = await world.sender()
    while leases := await sender.fetch(100):
        assert set(await sender.obey(leases)) == {"cancelled"}
    assert (await world.progress(blast)).ended_at_ms > 0
    await world.check_balance(blast)


@pytest.mark.parametrize("count", [5, 150])
async def test_scheduled_blast_can_be_cancelled(world: World, count: int) -> None:
    """A scheduled blast that is cancelled before its time ends immediately."""
    blast = await world.given(count, "bulk", scheduled_at_ms=4_000_000_000_000)
    assert await world.control.cancel_blast(blast.blast_id)
    progress = await world.progress(blast)
    assert progress.counts["cancelled"] == count
    assert progress.counts["scheduled"] == 0
    await world.check_balance(blast)


@pytest.mark.parametrize("count", [5, 150])
async def test_one_job_of_a_scheduled_blast_can_be_cancelled(world: World, count: int) -> None:
    """It no longer counts as scheduled; the others keep their time."""
    blast = await world.given(count, "bulk", scheduled_at_ms=4_000_000_000_000)
    assert await world.control.cancel_job(f"{blast.blast_id}:3:email") == "cancelled"
    counts = (await world.progress(blast)).counts
    assert (counts["scheduled"], counts["cancelled"], counts["queued"]) == (count - 1, 1, 0)
    await world.check_balance(blast)


@pytest.mark.parametrize("lane", ["high", "normal", "bulk"])
async def test_paused_while_coming_due_then_cancelled(world: World, lane: Lane) -> None:
    """A pause shelved some jobs of a scheduled blast, others are not yet added: a cancel keeps the counts right."""
    blast = await world.given(5, lane, scheduled_at_ms=4_000_000_000_000)
    await world.redis.zadd("{email}:later", {f"{blast.blast_id}:{index}:email": 0 for index in (0, 1)})
    sender = await world.sender()
    leases = await sender.fetch()
    assert await world.control.pause_blast(blast.blast_id, "wait")
    assert await sender.obey(leases) == ["paused", "paused"]
    await world.check_balance(blast)
    assert await world.control.resume_blast(blast.blast_id)
    assert len(await sender.fetch()) == 2
    await world.check_balance(blast)
    assert await world.control.cancel_blast(blast.blast_id)
    assert (await world.progress(blast)).counts["cancelled"] == 5
    await world.check_balance(blast)


async def test_cancelling_one_job(world: World) -> None:
    """A waiting job ends; a job in flight finishes, or ends instead of its next attempt; others continue."""
    blast = await world.given(4)
    sender = await world.sender()
    flying, failing = await sender.take(2)
    control = world.control
    assert await control.cancel_job(f"{blast.blast_id}:3:email") == "cancelled"
    assert await control.cancel_job(f"{blast.blast_id}:3:email") == "unknown"
    assert await control.cancel_job(flying.job_id) == "processing"
    assert await world.redis.pttl("{email}:cancels") > 0, "marks of jobs that do not exist expire"
    assert await control.cancel_job(failing.job_id) == "processing"
    assert await sender.finish(flying) == [True]
    assert await sender.retry(failing, 300)
    (last,) = await sender.fetch(1)
    again = await eventually(lambda: sender.fetch(1), "the retry")
    assert await sender.obey([last, *again]) == ["granted", "cancelled"]
    assert await sender.finish(last) == [True]
    counts = (await world.progress(blast)).counts
    assert (counts["sent"], counts["cancelled"]) == (2, 2)
    assert await world.redis.exists("{email}:cancels") == 0
    await world.check_balance(blast)


async def test_blast_whose_client_disappeared_ends_with_its_enqueued_jobs(world: World) -> None:
    """A truncated blast accepts no more jobs, its total is the number of enqueued jobs, and these are sent."""
    blast = await world.blast(10)
    await world.enqueue(blast, 0, 2)
    await world.blasts.truncate(blast.blast_id)
    assert (await world.enqueue(blast, 2, 8)).cancelled
    sender = await world.sender()
    assert all(await sender.finish(*await sender.take()))
    progress = await world.progress(blast)
    assert (progress.total, progress.counts["sent"], progress.incomplete) == (2, 2, True)
    assert progress.ended_at_ms > 0
    await world.check_balance(blast)


CHANGES: dict[str, Callable[[World, str], Awaitable[object]]] = {
    "paused": lambda world, blast_id: world.control.pause_blast(blast_id, "wait"),
    "resumed": lambda world, blast_id: world.control.resume_blast(blast_id),
    "cancelled": lambda world, blast_id: world.control.cancel_blast(blast_id),
    "incomplete": lambda world, blast_id: world.blasts.truncate(blast_id),
}


async def changes(world: World) -> list[str]:
    """Return the events about whole blasts."""
    return [event.change for event in await world.written() if isinstance(event, BlastChanged)]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_reported_even_if_its_caller_dies(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The caller is killed after its first script, or loses the answer: one event reports the change."""

    call = Partition.call

    async def lost(*args: Any) -> None:
        await call(*args)
        raise QueueUnavailableError("the answer is lost")

    blast = await world.blast(3)
    await world.enqueue(blast, 0, 2)
    before = ["paused"] if change == "resumed" else []
    assert not before or await world.control.pause_blast(blast.blast_id, "wait")
    with monkeypatch.context() as patched:
        patched.setattr(Partition, "call", lost)
        with pytest.raises(QueueUnavailableError):
            await CHANGES[change](world, blast.blast_id)
    assert await changes(world) == [*before, change]
    await CHANGES[change](world, blast.blast_id)
    assert await changes(world) == [*before, change]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_reported_by_each_channel_that_it_changes(world: World, change: str) -> None:
    """This holds also if the blast has ended on its other channel; a repeated call adds no event."""
    ended = await world.blast(0, channels=["email", "whatsapp"], totals={"email": 0, "whatsapp": 3})
    both = await world.blast(3, channels=["email", "whatsapp"], totals={"email": 3, "whatsapp": 3})
    await world.redis.hset("{email}:blast:" + ended.blast_id, "ended_at", 1)
    for blast in (ended, both):
        assert change != "resumed" or await world.control.pause_blast(blast.blast_id, "wait")
    already = len(await changes(world))
    for blast in (ended, both, ended, both):
        await CHANGES[change](world, blast.blast_id)
    assert (await changes(world))[already:] == [change] * 3


async def test_a_pause_for_another_reason_is_reported(world: World) -> None:
    """The last reason stays, in Redis and in the log."""
    blast = await world.given(3)
    for reason in ("lunch", "lunch", "night"):
        assert await world.control.pause_blast(blast.blast_id, reason)
    told = [event.reason for event in await world.written() if isinstance(event, BlastChanged)]
    assert told == ["lunch", "night"]
    assert (await world.progress(blast)).paused == "night"


async def test_a_full_redis_lets_a_job_be_cancelled_and_the_rate_be_changed(world: World) -> None:
    """Both make room, or may be needed to make room: a full Redis refuses neither."""
    blast = await world.given(50)
    await world.redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(QueueFullError):
            await world.enqueue(await world.blast(1))
        assert await world.control.cancel_job(f"{blast.blast_id}:3:email") == "cancelled"
        await world.control.set_rate("email", Rate(5, 1.0))
        assert (await world.control.channel_stats("email")).rate == ("5/1s", "api")
        await world.control.set_rate("email", None)
        assert (await world.control.channel_stats("email")).rate == ("off", "api")
    finally:
        await world.redis.config_set("maxmemory", "0")
    await world.check_balance(blast)


@pytest.mark.parametrize("count", [1, 120])
async def test_blast_that_ended_while_paused_is_no_longer_paused(world: World, count: int) -> None:
    """A blast paused with only jobs in flight ends; when they are sent again, they are served: no pause holds them."""
    blast = await world.given(count, "bulk")
    sender = await world.sender()
    leases = await sender.take(count)
    assert await world.control.pause_blast(blast.blast_id, "wait")
    for lease in leases:
        assert await sender.fail(lease)
    await world.again(blast, range(count), run=2)
    progress = await world.blasts.progress(blast.blast_id)
    assert progress is not None
    assert progress.state == "running"
    assert all(await sender.finish(*await sender.take(count)))
    assert (await world.progress(blast)).counts["sent"] == count
    await world.check_balance(blast)
