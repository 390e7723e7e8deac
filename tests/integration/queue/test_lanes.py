"""Lanes: strict `high`, 4:1 between `normal` and `bulk`, and bulk blasts that share the channel in turn."""

from __future__ import annotations

import time
from collections import Counter

from shared.blasts import Blast
from shared.queue.leases import Lease, parked
from tests.integration.queue.world import HandSender, World, eventually, in_time, now_ms


def blasts_of(leases: list[Lease]) -> list[str]:
    return [lease.job.blast_id for lease in leases]


async def finish_all(sender: HandSender, want: int) -> list[str]:
    """Fetch and finish up to `want` jobs; return their blasts."""
    leases = await sender.take(want)
    if leases:
        assert all(await sender.finish(*leases))
    return blasts_of(leases)


async def test_high_comes_before_everything(world: World) -> None:
    """A `high` job enqueued last is fetched first."""
    await world.given(50, "normal")
    await world.given(150, "bulk")
    urgent = await world.given(3, "high")
    leases = await (await world.sender()).fetch(5)
    assert blasts_of(leases)[:3] == [urgent.blast_id] * 3


async def test_normal_and_bulk_share_four_to_one(world: World) -> None:
    """While both have work, one job in five is from the ring, whether jobs are fetched one by one or in batches."""
    normal = await world.given(200, "normal")
    bulk = await world.given(200, "bulk")
    sender = await world.sender()
    singly = Counter([(await finish_all(sender, 1))[0] for _ in range(50)])
    assert singly == {normal.blast_id: 40, bulk.blast_id: 10}
    batches = Counter([blast_id for _ in range(5) for blast_id in await finish_all(sender, 20)])
    assert batches == {normal.blast_id: 80, bulk.blast_id: 20}


async def test_a_lane_alone_gets_everything(world: World) -> None:
    """The ratio 4:1 holds only while both have work: one of them can fill the batch."""
    await world.given(100, "bulk")
    sender = await world.sender()
    assert len(await sender.take(100)) == 100
    await world.given(100, "normal")
    assert len(await sender.take(100)) == 100


async def test_small_blast_is_finished_long_before_the_large_one_in_front(world: World) -> None:
    """Two bulk blasts start in turn: 300 jobs enqueued after 3,000 end after about 600 starts."""
    large = await world.given(3000, "bulk")
    small = await world.given(300, "bulk")
    sender = await world.sender()
    served: list[str] = []
    while (await world.progress(small)).ended_at_ms == 0:
        served += await finish_all(sender, 50)
    assert Counter(served)[small.blast_id] == 300
    assert Counter(served)[large.blast_id] <= 350


async def test_each_of_twenty_bulk_blasts_gets_turns(world: World) -> None:
    """With more blasts than one fetch reads, each is served before any has its third turn."""
    blasts = [await world.given(100, "bulk") for _ in range(20)]
    sender = await world.sender()
    served = Counter([blast_id for _ in range(5) for blast_id in await finish_all(sender, 16)])
    assert set(served) == {blast.blast_id for blast in blasts}
    assert max(served.values()) <= 8


async def test_a_clock_that_is_set_back_costs_no_turn(world: World) -> None:
    """Turns are counted, not timed: a stream put into the ring by a clock an hour ahead is served like the others."""
    ahead = await world.given(200, "bulk")
    hour_ahead_us = (time.time() + 3600) * 1e6
    await world.redis.zadd("{email}:ring", {f"{{email}}:jobs:bulk:{ahead.blast_id}": hour_ahead_us})
    behind = await world.given(200, "bulk")
    sender = await world.sender()
    served = Counter([blast_id for _ in range(10) for blast_id in await finish_all(sender, 20)])
    assert served == {ahead.blast_id: 100, behind.blast_id: 100}


async def test_a_turn_lasts_over_several_fetches(world: World) -> None:
    """Single fetches return four jobs of a blast in a row, so that a sender uses a template several times."""
    blasts = [await world.given(100, "bulk") for _ in range(3)]
    sender = await world.sender()
    served = [(await finish_all(sender, 1))[0] for _ in range(12)]
    assert served == [blast.blast_id for blast in blasts for _ in range(4)]


async def test_turns_add_up_to_what_a_sender_asks_for(world: World) -> None:
    """A turn lasts for four jobs, but a fetch of six takes six: four of one blast, and two of the next."""
    first, second = [await world.given(100, "bulk") for _ in range(2)]
    leases = await (await world.sender()).fetch(6)
    assert Counter(blasts_of(leases)) == {first.blast_id: 4, second.blast_id: 2}


async def test_scheduled_blast_that_an_earlier_version_put_into_the_ring_waits(world: World) -> None:
    """A stream that an earlier version put into the ring before its time is not begun before that time."""

    async def waits(at_ms: int) -> HandSender:
        blast = await world.given(150, "bulk", scheduled_at_ms=at_ms)
        stream = f"{{email}}:jobs:bulk:{blast.blast_id}"
        await world.redis.zrem("{email}:starts", stream)
        await world.redis.zadd("{email}:ring", {stream: at_ms * 1000})
        sender = await world.sender()
        assert await sender.fetch() == []
        await world.check_balance(blast)
        return sender

    at_ms, sender = await in_time(world, waits)
    assert await eventually(lambda: sender.fetch(10), "its time")
    assert now_ms() >= at_ms


async def test_small_bulk_blasts_share_one_stream(world: World) -> None:
    """A single message in `bulk` has no stream of its own, and gets its turn among the due jobs."""
    blasts = [await world.given(1, "bulk") for _ in range(5)]
    assert await world.redis.exists("{email}:streams") == 0
    assert len(await (await world.sender()).take(10)) == 5
    assert (await world.control.channel_stats("email")).active == 5
    await world.check_balance(*blasts)


async def test_bulk_stream_is_deleted_with_its_last_job(world: World) -> None:
    """Only the counts are left of a finished bulk blast."""
    blast = await world.given(150, "bulk")
    sender = await world.sender()
    while await finish_all(sender, 100):
        pass
    truth = await world.check_balance(blast)
    assert not truth.jobs
    assert not truth.bulk_streams
    assert await world.redis.exists("{email}:ring", "{email}:streams") == 0
    assert (await world.progress(blast)).ended_at_ms > 0


async def test_stream_without_work_leaves_the_ring(world: World) -> None:
    """A blast whose jobs all wait for their next attempt gets no turns until they are due."""
    blast = await world.given(100, "bulk")
    sender = await world.sender()
    leases = await sender.take(100)
    assert all(await sender.consumer.settle([parked(lease, b"", 50_000) for lease in leases]))
    assert await sender.fetch() == []
    assert await world.redis.zcard("{email}:ring") == 0
    await world.check_balance(blast)
    await world.make_due()
    again = await eventually(lambda: sender.fetch(200), "the retries")
    assert again[0].attempt == 2


async def test_deferred_jobs_keep_their_lane(world: World) -> None:
    """A deferred `high` job that is due is `high` again; other due jobs take turns in the ring."""
    blasts: list[Blast] = [await world.given(1, lane) for lane in ("high", "normal", "bulk")]
    sender = await world.sender()
    for lease in await sender.take(3):
        assert await sender.defer(lease, 20)
    await world.check_balance(*blasts)
    leases = await eventually(lambda: sender.fetch(3), "the deferrals")
    while len(leases) < 3:
        leases += await sender.fetch(3)
    streams = {lease.job.lane: lease.stream.rpartition(":")[2] for lease in leases}
    assert streams == {"high": "high", "normal": "due", "bulk": "due"}
    assert [lease.attempt for lease in leases] == [1, 1, 1]
    await world.check_balance(*blasts)


async def test_large_bulk_blast_shows_the_age_of_its_oldest_job(world: World) -> None:
    """Its jobs are in a stream of its own."""
    await world.given(100, "bulk")
    assert list((await world.control.channel_stats("email")).oldest_age_s) == ["bulk"]


async def test_a_job_that_came_due_shows_its_age_while_a_sender_has_it(world: World) -> None:
    """A deferred job that is due is shown as the oldest of its lane, also once it is in a sender's buffer."""
    await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take(1)
    assert await sender.defer(lease, 20)
    (due,) = await eventually(lambda: sender.fetch(2), "the deferral")
    stats = await world.control.channel_stats("email")
    assert (stats.waiting_by_lane["bulk"], list(stats.oldest_age_s)) == (1, ["bulk"])
    assert due.job_id == lease.job_id


async def test_every_job_is_fetched_one_at_a_time(world: World) -> None:
    """A probing sender does this; the turn of an empty ring is given to `normal`, which once stopped all fetching."""
    await world.given(12)
    sender = await world.sender()
    fetched = [lease.job.index for _ in range(12) for lease in await sender.fetch(1)]
    assert fetched == list(range(12))
