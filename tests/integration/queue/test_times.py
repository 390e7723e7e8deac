"""Times: retries when they are due, schedules, expiry."""

from __future__ import annotations

import time

import msgspec
import pytest

from shared.blasts import Blast
from shared.events import Queued
from shared.jobs import Recipient
from shared.queue.doctor import Doctor
from shared.queue.leases import Lease, parked
from shared.sending.job_limits import JobLimit
from tests.integration.queue.world import HandSender, World, eventually, in_time, now_ms


@pytest.mark.timing
async def test_retry_is_due_exactly_after_its_delay(world: World) -> None:
    """With 100 other blasts that have work, a retry follows its delay within 250 ms, and never comes early."""
    for _ in range(100):
        await world.given(100, "bulk")
    sender = await world.sender()
    leases = await sender.take(40)
    parked_at = time.monotonic()
    assert all(await sender.consumer.settle([parked(lease, b"", 1000) for lease in leases]))
    gaps: list[float] = []
    while len(gaps) < 40:
        fetched = await sender.fetch(100)
        gaps += [time.monotonic() - parked_at for lease in fetched if lease.attempt == 2]
    assert min(gaps) >= 0.998
    assert max(gaps) <= 1.25


def an_hour_ahead() -> int:
    """A time in µs that a clock wrote before it was set back."""
    return int((time.time() + 3600) * 1e6)


async def test_clock_that_is_set_back_holds_up_no_retry(world: World) -> None:
    """A retry that is farther ahead than any delay is due now; others keep their times."""
    await world.given(2)
    sender = await world.sender()
    one, other = await sender.take(2)
    assert await sender.retry(one, 60_000)
    assert await sender.retry(other, 60_000)
    await world.redis.zadd("{email}:parked", {f"{one.stream} {one.entry_id}": an_hour_ahead()})
    await world.reaper(sender.name).reap_dead()
    assert [lease.job_id for lease in await sender.fetch()] == [one.job_id]


async def test_clock_that_is_set_back_holds_up_no_limit(world: World) -> None:
    """A limit whose next start is farther ahead than its gap gets another; one with a long gap keeps its own."""
    sender = await world.sender()
    limits = {"quick": JobLimit("quick", 60_000_000), "slow": JobLimit("slow", 7_200_000_000)}
    sender.limit_of = lambda job: limits[job.recipient.name]
    for name in limits:
        for word in ("granted", "beyond"):
            await world.given_with(Recipient("r@example.com", name))
            assert await sender.obey(await sender.fetch(1)) == [word]
    slow_at = await world.redis.zscore("{email}:limits:due", "slow")
    await world.redis.zadd("{email}:limits:due", {"quick": an_hour_ahead()})
    await world.redis.set("{email}:limit:quick", an_hour_ahead())
    await world.reaper(sender.name).reap_dead()
    quick_at = await world.redis.zscore("{email}:limits:due", "quick")
    assert (quick_at or 0) <= (time.time() + 61) * 1e6
    await world.redis.delete("{email}:limit:quick")
    await world.redis.zadd("{email}:limits:due", {"quick": 1})
    (lease,) = await sender.fetch(1)
    assert lease.job.recipient.name == "quick"
    assert await world.redis.zscore("{email}:limits:due", "slow") == slow_at


async def test_limit_whose_start_is_as_far_ahead_as_it_may_be_keeps_it(world: World) -> None:
    """The next start is at most a gap and twelve seconds ahead, because starts may be granted ahead and be late."""
    sender = await world.sender()
    sender.limit_of = lambda _job: JobLimit("slow", 60_000_000)
    for word in ("granted", "beyond"):
        await world.given(1)
        assert await sender.obey(await sender.fetch(1)) == [word]
    start_us = int((time.time() + 60 + 12) * 1e6)
    await world.redis.zadd("{email}:limits:due", {"slow": start_us})
    await world.reaper(sender.name).reap_dead()
    assert await world.redis.zscore("{email}:limits:due", "slow") == start_us


async def test_clock_that_is_set_back_holds_up_no_resting_blast(world: World) -> None:
    """A stream that rests far longer than any rest gets turns; a scheduled blast keeps its time."""
    resting = await world.given(100, "bulk")
    scheduled = await world.given(100, "bulk", scheduled_at_ms=4_000_000_000_000)
    sender = await world.sender()
    stream, later = (f"{{email}}:jobs:bulk:{blast.blast_id}" for blast in (resting, scheduled))
    await world.redis.hset("{email}:limits:runs", mapping={stream: 60, later: 60})
    await world.redis.zrem("{email}:ring", stream)
    await world.redis.zadd("{email}:starts", {stream: an_hour_ahead()})
    await world.reaper(sender.name).reap_dead()
    assert await world.redis.zrange("{email}:ring", 0, -1) == [stream.encode()]
    assert await world.redis.zrange("{email}:starts", 0, -1) == [later.encode()]
    assert {lease.stream for lease in await sender.fetch()} == {stream}


async def test_many_blasts_that_rest_too_long_get_turns(world: World) -> None:
    """Each check continues where the previous one stopped."""
    sender = await world.sender()
    streams = [f"{{email}}:jobs:bulk:resting{number}" for number in range(1000)]
    await world.redis.hset("{email}:limits:runs", mapping=dict.fromkeys(streams, 60))
    await world.redis.zadd("{email}:starts", dict.fromkeys(streams, an_hour_ahead()))
    for _ in range(40):
        await world.reaper(sender.name).reap_dead()
    assert await world.redis.zcard("{email}:starts") == 0
    assert await world.redis.zcard("{email}:ring") == 1000


async def test_stream_that_rests_as_long_as_it_may_keeps_its_time(world: World) -> None:
    """Ten seconds are the longest rest."""
    resting = await world.given(100, "bulk")
    sender = await world.sender()
    stream = f"{{email}}:jobs:bulk:{resting.blast_id}"
    await world.redis.hset("{email}:limits:runs", stream, 60)
    await world.redis.zrem("{email}:ring", stream)
    await world.redis.zadd("{email}:starts", {stream: int((time.time() + 10) * 1e6)})
    await world.reaper(sender.name).reap_dead()
    assert await sender.fetch() == []


async def test_fetch_returns_when_the_next_job_is_due(world: World) -> None:
    """A fetch reports the time until the next retry, deferral or schedule."""
    await world.given(2)
    sender = await world.sender()
    first, second = await sender.take()
    assert (await sender.consumer.fetch(1)).due_in_s is None
    for lease, put_off, delay_s in ((second, sender.defer, 60.0), (first, sender.retry, 30.0)):
        began = time.monotonic()
        await put_off(lease, int(delay_s * 1000))
        due_in_s = (await sender.consumer.fetch(1)).due_in_s
        assert due_in_s is not None
        assert delay_s - (time.monotonic() - began) - 0.1 < due_in_s < delay_s + 0.1


async def test_parked_job_wakes_the_other_senders(world: World) -> None:
    """Parking a job wakes the other senders, so that its retry is on time even if its sender dies."""
    await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await world.wakes(lambda: sender.retry(lease, 1000))


@pytest.mark.parametrize(("count", "lane"), [(3, "high"), (3, "normal"), (3, "bulk"), (150, "bulk")])
async def test_scheduled_blast_waits_for_its_time(world: World, count: int, lane: str) -> None:
    """A scheduled blast, small or large, counts as scheduled, is not fetched before its time, and then is."""

    async def waits(at_ms: int) -> tuple[Blast, HandSender]:
        blast = await world.given(count, lane, scheduled_at_ms=at_ms)  # type: ignore[arg-type]
        sender = await world.sender()
        assert await sender.fetch() == []
        assert (await world.progress(blast)).counts["scheduled"] == count
        assert (await world.control.channel_stats("email")).scheduled == count
        await world.check_balance(blast)
        return blast, sender

    at_ms, (blast, sender) = await in_time(world, waits)
    leases = await eventually(lambda: sender.take(count), "the time to come")
    assert now_ms() >= at_ms
    assert (await world.progress(blast)).counts["scheduled"] == 0
    assert {event.status for event in await world.written() if isinstance(event, Queued)} == {"scheduled"}
    assert await sender.finish(*leases)
    await world.check_balance(blast)


async def test_scheduled_blast_that_is_paused_waits_for_both(world: World) -> None:
    """A scheduled blast that is resumed before its time still waits for it."""

    async def waits(at_ms: int) -> tuple[Blast, HandSender]:
        blast = await world.given(150, "bulk", scheduled_at_ms=at_ms)
        sender = await world.sender()
        assert await world.control.pause_blast(blast.blast_id, "wait")
        assert await sender.fetch() == []
        assert await world.control.resume_blast(blast.blast_id)
        assert await sender.fetch() == []
        return blast, sender

    at_ms, (blast, sender) = await in_time(world, waits)
    await eventually(lambda: sender.take(10), "its time")
    assert now_ms() >= at_ms
    await world.check_balance(blast)


async def test_expired_job_is_not_begun(world: World) -> None:
    """A job past its expiry ends as expired when a sender reaches it, at no cost (G3)."""
    blast = await world.given(2, expires_at_ms=1)
    await world.redis.flushdb()
    blast = await world.blast(2)
    await world.enqueue(blast, expires_at_ms=now_ms() - 1)
    sender = await world.sender()
    assert await sender.obey(await sender.fetch()) == ["expired", "expired"]
    progress = await world.progress(blast)
    assert progress.counts["expired"] == 2
    assert progress.ended_at_ms > 0
    await world.check_balance(blast)


async def test_parked_job_that_expires_meanwhile_ends(world: World) -> None:
    """A retry or a deferral that becomes due after the job's expiry is not begun."""

    async def begun(at_ms: int) -> tuple[Blast, HandSender, list[Lease]]:
        blast, sender = await world.blast(2), await world.sender()
        await world.enqueue(blast, expires_at_ms=at_ms)
        return blast, sender, await sender.take()

    at_ms, (blast, sender, (later, put_off)) = await in_time(world, begun)
    assert await sender.retry(later, at_ms + 100 - now_ms())
    assert await sender.defer(put_off, at_ms + 100 - now_ms())
    words: list[str] = []
    while len(words) < 2:
        words += await sender.obey(await eventually(lambda: sender.fetch(2), "the parked ones"))
    assert words == ["expired", "expired"]
    assert (await world.progress(blast)).counts["expired"] == 2
    await world.check_balance(blast)


@pytest.mark.parametrize("then", ["cancelled", "sent"])
async def test_scheduled_blast_that_is_still_enqueued_when_its_time_comes(world: World, then: str) -> None:
    """Jobs added to its stream before the first turn count like the others, and the counts are right at the end."""
    blast = await world.blast(600, "bulk", scheduled_at_ms=4_000_000_000_000)
    await world.enqueue(blast, 0, 200)
    come = msgspec.structs.replace(blast, scheduled_at_ms=1)
    await world.enqueue(come, 200, 400)
    await world.check_balance(blast)
    assert await Doctor(world.partition, "doctor", repair=False).examine() == []
    if then == "cancelled":
        assert await world.control.cancel_blast(blast.blast_id)
    else:
        await world.redis.zadd("{email}:starts", {f"{{email}}:jobs:bulk:{blast.blast_id}": 1})
        sender = await world.sender()
        assert all(await sender.finish(*await sender.take(600)))
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {then: 600}
    assert (await world.control.channel_stats("email")).scheduled == 0
    await world.check_balance(blast)
