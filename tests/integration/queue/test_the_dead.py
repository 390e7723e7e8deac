"""Dead, frozen and late senders: their jobs are taken over, and their late answers still count."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from services.logger.folding import fold
from shared.blasts import Blast
from shared.events import BlastChannelEnded, Queued, Retrying, Sent
from shared.queue.consumer import BeginPolicy, BeginRequest
from shared.queue.leases import Lease
from shared.queue.reaper import Reaper
from shared.sending.job_limits import JobLimit
from tests.clocks import HandClock
from tests.integration.queue.world import AT_ONCE, WITH_FILES, HandSender, World, ends, eventually


async def bury(world: World, dead: HandSender, by: HandSender) -> tuple[int, int]:
    """Let a sender's heartbeat lapse and a reaper take over; return what was taken from buffer and flight."""
    await world.redis.delete(f"{{email}}:sender:{dead.name}")
    reaper = Reaper(world.partition, by.name, AT_ONCE)
    (taken,) = await reaper.reap_dead()
    assert taken.sender_id == dead.name
    return taken.from_buffer, taken.in_flight


async def abandon(world: World, by: HandSender, policy: BeginPolicy | None = None) -> Lease:
    """Let a new sender die with the next job in flight; return its lease."""
    dead = await world.sender(policy=policy)
    (lease,) = await dead.take(1)
    assert await bury(world, dead, by) == (0, 1)
    return lease


async def copied(world: World, *, begun: bool) -> tuple[HandSender, Lease, HandSender, Lease]:
    """Let a sender freeze in mid-send and another defer its job; return each with its lease, of two entries.

    The other one has fetched the second entry, and has begun it if `begun`.
    """
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.take()
    await bury(world, frozen, alive)
    assert await alive.defer((await alive.take())[0], 1)
    (copy,) = await eventually(lambda: alive.fetch(1), "the deferral")
    if begun:
        assert await alive.obey([copy]) == ["alone"]
    return frozen, lease, alive, copy


async def test_a_dead_sender_with_many_streams_is_taken_over_completely(world: World) -> None:
    """Its entries in the own streams of 150 blasts are found page by page, and its consumers are deleted."""
    blasts = [await world.given(100, "bulk") for _ in range(150)]
    dead, alive = await world.sender(), await world.sender()
    begun = [lease for _ in range(40) for lease in await dead.take(16)]
    buffered = [lease for _ in range(20) for lease in await dead.fetch(16)]
    assert len({lease.stream for lease in begun + buffered}) == 150
    assert await bury(world, dead, alive) == (len(buffered), len(begun))
    truth = await world.check_balance(*blasts)
    assert not {name for name in truth.consumers if name.startswith(dead.name)}
    assert await world.redis.exists(f"{{email}}:held:{dead.name}") == 0


async def test_one_call_takes_over_a_bounded_number_of_entries(world: World) -> None:
    """The bound holds over all streams together, because Redis is blocked meanwhile; further calls take the rest."""
    blasts = [await world.given(6, "high"), await world.given(6), await world.given(100, "bulk")]
    dead = await world.sender()
    await dead.take(14)
    assert len(await dead.fetch(10)) == 10
    await world.redis.delete(f"{{email}}:sender:{dead.name}")
    taken = []
    clear = 0
    while not clear:
        args = (dead.name, world.partition.numbered("r", "reap").next()[1], 5, "lost", "all", "0", 64)
        from_buf, from_tx, clear, *_ = await world.partition.call("reap", args)
        taken.append(from_buf + from_tx)
    assert sum(taken) == 24
    assert max(taken) == 5
    await world.check_balance(*blasts)


async def test_a_dead_sender_of_an_earlier_version_is_taken_over(world: World) -> None:
    """All streams are searched for a sender that kept no list of its streams."""
    blasts = [await world.given(100, "bulk") for _ in range(5)]
    dead, alive = await world.sender(), await world.sender()
    begun = await dead.take(20)
    assert len({lease.stream for lease in begun}) == 5
    await world.redis.delete(f"{{email}}:held:{dead.name}")
    assert await bury(world, dead, alive) == (0, 20)
    await world.check_balance(*blasts)


async def test_a_frozen_buffer_among_many_streams_is_found_at_once(world: World) -> None:
    """A check finds the stream with a frozen sender's job without a walk over all streams."""
    for _ in range(300):
        await world.given(100, "bulk")
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.fetch(1)
    await Reaper(world.partition, alive.name, replace(AT_ONCE, buffer_idle_ms=0)).reap_dead()
    held: Any = await world.redis.xpending_range(lease.stream, "senders", "-", "+", 10)
    assert [row["consumer"] for row in held] == [b"~back"]


async def test_finished_streams_are_forgotten(world: World) -> None:
    """A sender that serves thousands of blasts lists only those in whose streams it holds something."""
    paused = [await world.given(100, "bulk") for _ in range(10)]
    sender = await world.sender()
    for lease in await sender.fetch(40):
        assert await sender.give_back(lease)
    for blast in paused:
        assert await world.control.pause_blast(blast.blast_id, "wait")
    held = await world.given(100, "bulk")
    await sender.take(1)
    assert await world.redis.scard(f"{{email}}:held:{sender.name}") == 12
    assert await sender.consumer.list_held("buf") == []
    assert await world.redis.smembers(f"{{email}}:held:{sender.name}") == {b"", held.blast_id.encode()}
    await world.check_balance(held, *paused)


async def test_buffered_jobs_of_a_dead_sender_use_no_attempt(world: World) -> None:
    """Jobs that were surely not sent are taken over from every stream as if they had not been fetched."""
    blasts = [await world.given(3, "high"), await world.given(3), await world.given(120, "bulk")]
    dead, alive = await world.sender(), await world.sender()
    assert len(await dead.fetch(50)) == 50
    assert await bury(world, dead, alive) == (50, 0)
    await world.check_balance(*blasts)
    leases = await alive.take(200)
    assert len(leases) == 126
    assert {lease.attempt for lease in leases} == {1}


async def test_job_abandoned_in_mid_send_uses_an_attempt_and_is_sent_alone(world: World) -> None:
    """It is uncertain, is reported so, and is sent again alone: no other job is in flight with it."""
    blast = await world.given(3)
    alive = await world.sender()
    lost = await abandon(world, alive)
    assert [event.error_class for event in await world.written() if isinstance(event, Retrying)] == ["uncertain"]
    await world.check_balance(blast)
    leases = await alive.fetch(3)
    again = next(lease for lease in leases if lease.job_id == lost.job_id)
    assert again.attempt == 2
    others = [lease for lease in leases if lease is not again]
    assert [grant.kind for grant in await alive.begin([others[0], again])] == ["granted", "wait"]
    assert await alive.finish(others[0]) == [True]
    assert [grant.kind for grant in await alive.begin([again, others[1]])] == ["alone", "wait"]
    assert await alive.finish(again) == [True]
    assert (await world.progress(blast)).counts["sent"] == 2
    await world.check_balance(blast)


async def test_hold_ends_abandoned_jobs(world: World) -> None:
    """With the policy `hold` an uncertain job is not sent again."""
    blast = await world.given(1)
    alive = await world.sender(policy=BeginPolicy(on_uncertain="hold", concurrency=10))
    await abandon(world, alive)
    assert await alive.obey(await alive.fetch()) == ["uncertain"]
    assert (await world.progress(blast)).counts["failed"] == 1
    await world.check_balance(blast)


async def test_repeat_ends_no_abandoned_job(world: World) -> None:
    """With the policy `repeat` a job is begun again after any number of lost senders and answers, beside others."""
    blast = await world.given(2)
    policy = BeginPolicy(on_uncertain="repeat", concurrency=10)
    alive = await world.sender(policy=policy)
    for _ in range(8):
        await abandon(world, alive, policy)
    first, second = leases = await alive.fetch()
    assert [grant.kind for grant in await alive.begin(leases)] == ["granted", "granted"]
    for _ in range(3):
        assert await alive.uncertain(first, 0)
        (first,) = await eventually(alive.fetch, "the retry")
        assert [grant.kind for grant in await alive.begin([first])] == ["granted"]
    assert await alive.finish(first, second) == [True, True]
    assert (await world.progress(blast)).counts["sent"] == 2
    await world.check_balance(blast)


async def test_abandoned_last_attempt_is_not_repeated(world: World) -> None:
    """G2: a job that was abandoned in its last attempt may have been sent, and has no attempt left: it ends."""
    blast = await world.given(1)
    alive = await world.sender()
    await abandon(world, alive)
    leases = await alive.fetch()
    grants = await alive.consumer.begin([BeginRequest(leases[0], exhausted=True)], 0)
    assert await alive.settle_refusals(leases, grants) == ["uncertain"]
    assert (await world.progress(blast)).counts["failed"] == 1
    await world.check_balance(blast)


async def test_job_that_kills_its_senders_is_poison(world: World) -> None:
    """A job that was abandoned three times is not begun again."""
    blast = await world.given(1)
    alive = await world.sender()
    for _ in range(3):
        await abandon(world, alive)
    assert await alive.obey(await alive.fetch()) == ["poison"]
    assert (await world.progress(blast)).counts["failed"] == 1
    await world.check_balance(blast)


async def test_one_missed_heartbeat_does_not_make_a_sender_dead(world: World) -> None:
    """It takes two checks far apart, by a reaper whose own heartbeat held, on a Redis that was up for a while."""
    clock = HandClock()
    await world.given(1)
    dead, alive = await world.sender(), await world.sender()
    await dead.take()
    await world.redis.delete(f"{{email}}:sender:{dead.name}")
    patient = Reaper(world.partition, alive.name, replace(AT_ONCE, checks_apart_ms=8000), clock)
    assert await patient.reap_dead() == []
    clock.now += 7.9
    assert await patient.reap_dead() == []
    await world.redis.delete(f"{{email}}:sender:{alive.name}")
    clock.now += 1
    assert await patient.reap_dead() == [], "its own lease had lapsed"
    await alive.consumer.heartbeat({}, first=True)
    assert await patient.reap_dead() == [], "it starts afresh"
    clock.now += 8
    young = Reaper(world.partition, alive.name, replace(AT_ONCE, redis_up_ms=10**9), clock)
    assert await young.reap_dead() == [], "Redis has just started"
    (taken,) = await patient.reap_dead()
    assert (taken.sender_id, taken.in_flight) == (dead.name, 1)


async def test_sender_whose_heartbeat_came_back_is_spared(world: World) -> None:
    """A sender that is missing at one check and present at the next is alive."""
    clock = HandClock()
    await world.given(1)
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.take()
    reaper = Reaper(world.partition, alive.name, replace(AT_ONCE, checks_apart_ms=8000), clock)
    await world.redis.delete(f"{{email}}:sender:{frozen.name}")
    assert await reaper.reap_dead() == []
    assert not await frozen.consumer.heartbeat({})
    clock.now += 9
    assert await reaper.reap_dead() == []
    assert await frozen.finish(lease) == [True]


async def test_a_heartbeat_returns_whether_the_last_one_had_held(world: World) -> None:
    """A sender whose heartbeat held may go on with what it holds; after a lapse its jobs may be another's."""
    sender = await world.sender()
    assert await sender.consumer.heartbeat({})
    await world.redis.delete(f"{{email}}:sender:{sender.name}")
    assert not await sender.consumer.heartbeat({})
    assert await sender.consumer.heartbeat({}), "from then on it holds again"


async def test_the_first_heartbeat_reports_no_lapse(world: World) -> None:
    """A sender that starts has held nothing that a lapse could have lost."""
    sender = await world.sender()
    await world.redis.delete(f"{{email}}:sender:{sender.name}")
    assert await sender.consumer.heartbeat({}, first=True)


async def test_consumers_of_dead_and_departed_senders_are_deleted(world: World) -> None:
    """No consumer, heartbeat or stored answer is left."""
    await world.given(5)
    await world.given(120, "bulk")
    dead, leaving, alive = await world.sender(), await world.sender(), await world.sender()
    await dead.fetch(20)
    await bury(world, dead, alive)
    leases = await leaving.take(20)
    assert await leaving.consumer.leave() > 0, "it still holds jobs"
    assert all(await leaving.finish(*leases))
    assert await leaving.consumer.leave() == 0
    truth = await world.check_balance()
    assert not [name for name in truth.consumers if name.startswith((dead.name, leaving.name))]
    assert await world.redis.hkeys("{email}:senders") == [alive.name.encode()]
    assert await world.redis.exists(f"{{email}}:once:{leaving.name}") == 0


async def test_stale_buffer_is_freed_at_no_cost(world: World) -> None:
    """A job that was too long in a frozen sender's buffer goes to another sender; the frozen one has lost it."""
    blast = await world.given(2)
    frozen, alive = await world.sender(), await world.sender()
    leases = await frozen.fetch()
    await Reaper(world.partition, alive.name, replace(AT_ONCE, buffer_idle_ms=0)).reap_dead()
    again = await alive.take()
    assert [lease.attempt for lease in again] == [1, 1]
    assert [grant.kind for grant in await frozen.begin(leases)] == ["lost", "lost"]
    assert await alive.finish(*again) == [True, True]
    await world.check_balance(blast)


async def test_jobs_of_a_frozen_buffer_wake_the_idle(world: World) -> None:
    """Senders that wait for work hear of jobs that were freed; a check that frees nothing wakes nobody."""
    await world.given(2)
    frozen, alive = await world.sender(), await world.sender()
    await frozen.fetch()
    reaper = Reaper(world.partition, alive.name, replace(AT_ONCE, buffer_idle_ms=0))
    assert await world.wakes(reaper.reap_dead)
    assert not await world.wakes(reaper.reap_dead)


async def test_entries_without_a_task_are_given_up_by_stream_and_id(world: World) -> None:
    """Entries of two streams may have the same id: only the right one is given up."""
    blasts = [await world.given(1, lane) for lane in ("high", "normal")]
    for stream in ("{email}:jobs:high", "{email}:jobs:normal"):
        rows: Any = await world.redis.xrange(stream)
        await world.redis.delete(stream)
        await world.redis.xadd(stream, rows[0][1], id="7-0")
    sender = await world.sender()
    high, normal = await sender.take()
    assert await world.reaper(sender.name).give_up([high]) == 1
    assert await sender.finish(normal) == [True]
    assert await sender.finish(high) == [False]
    await world.check_balance(*blasts)


@pytest.mark.parametrize(
    "meanwhile", ["waiting", "begun again", "sent again", "deferred", "retried", "failed", "cancelled"]
)
async def test_late_acceptance_outranks_everything(world: World, meanwhile: str) -> None:
    """A frozen sender's message had been accepted: the job is `sent` once, whatever happened to it since."""
    blast = await world.given(1)
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.take()
    await bury(world, frozen, alive)
    again = await alive.take() if meanwhile != "waiting" else []
    if meanwhile == "sent again":
        assert await alive.finish(*again) == [True]
    elif meanwhile == "deferred":
        assert await alive.defer(again[0], 60_000)
    elif meanwhile == "retried":
        assert await alive.retry(again[0], 2_000)
    elif meanwhile == "failed":
        assert await alive.fail(again[0])
    elif meanwhile == "cancelled":
        assert await alive.retry(again[0], 60_000)
        assert await world.control.cancel_blast(blast.blast_id)
    assert await frozen.finish(lease) == [False]
    assert await frozen.late(lease) == (meanwhile != "sent again")
    assert not await frozen.late(lease)
    counts = (await world.progress(blast)).counts
    assert counts["sent"] == 1
    assert sum(counts.values()) == 1
    if meanwhile == "begun again":
        assert await alive.finish(*again) == [False], "its entry is gone"
        assert not await alive.late(again[0])
    await world.check_balance(blast)
    assert await alive.fetch() == []
    assert (await world.progress(blast)).ended_at_ms > 0
    assert [event.late for event in await world.written() if isinstance(event, Sent)].count(True) >= 2


@pytest.mark.parametrize("begun", [False, True])
async def test_late_acceptance_finds_the_copy_under_another_entry(world: World, begun: bool) -> None:
    """After a deferral the copy is in another entry: it is removed, or it could be counted twice."""
    blast = await world.given(1)
    frozen, lease, alive, copy = await copied(world, begun=begun)
    assert await frozen.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)
    if begun:
        assert await alive.finish(copy) == [False]
        assert not await alive.late(copy)
    else:
        assert await alive.obey([copy]) == ["lost"]
    assert await world.redis.exists("{email}:places") == 0
    await world.check_balance(blast)


@pytest.mark.parametrize("begun", [False, True])
async def test_copy_that_a_late_answer_could_not_find_counts_no_more(world: World, begun: bool) -> None:
    """An earlier version did not record the copy's entry: the copy is not begun, or its own acceptance adds nothing."""
    blast = await world.given(1)
    frozen, lease, alive, copy = await copied(world, begun=begun)
    await world.redis.delete("{email}:places")
    assert await frozen.late(lease)
    if begun:
        assert await alive.finish(copy) == [True]
    else:
        assert await alive.obey([copy]) == ["sent"]
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}
    await world.check_balance(blast)


async def test_late_acceptance_of_a_job_with_a_long_past(world: World) -> None:
    """A job that was abandoned once, whose answer was lost once, and that came due again still ends as `sent` once."""
    blast = await world.given(1)
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.take()
    await bury(world, frozen, alive)
    (again,) = await alive.take()
    assert await alive.uncertain(again, 0)
    (third,) = await eventually(alive.take, "the further attempt")
    assert await alive.defer(third, 1)
    await eventually(lambda: alive.fetch(1), "the deferral")
    assert await frozen.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)


async def test_place_of_a_copy_is_forgotten_with_its_end(world: World) -> None:
    """After an ordinary send, no record of the entry is left."""
    blast = await world.given(1)
    frozen, alive = await world.sender(), await world.sender()
    await frozen.take()
    await bury(world, frozen, alive)
    assert await alive.defer((await alive.take())[0], 1)
    (copy,) = await eventually(alive.take, "the deferral")
    assert await world.redis.exists("{email}:places") == 1
    assert await alive.finish(copy) == [True]
    assert await world.redis.exists("{email}:places") == 0
    await world.check_balance(blast)


async def test_late_answer_of_an_earlier_run_leaves_the_next_alone(world: World) -> None:
    """A job that was sent again as run 2 is not changed by a late answer for run 1, except in the log."""
    blast = await world.given(1)
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.take()
    await bury(world, frozen, alive)
    assert await alive.fail((await alive.take())[0])
    await world.again(blast, [0], run=2)
    assert not await frozen.late(lease)
    (second,) = await alive.take()
    assert (second.job.run, second.attempt) == (2, 1)
    assert await alive.finish(second) == [True]
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)


async def test_stalls_of_an_open_job_are_kept(world: World) -> None:
    """The stall of a job that still waits (a long pause) is kept; the stalls of ended jobs are forgotten."""
    await world.given(1)
    alive = await world.sender(policy=BeginPolicy(on_uncertain="hold", concurrency=10))
    kept = await abandon(world, alive)
    stalls = world.redis.hset
    await stalls("{email}:stalls", kept.job_id, "1 0 1 - 1790000000")
    await stalls("{email}:stalls", "ended:0:email", "1 0 1 failed 1790000000")
    fresh = time.time_ns() // 1_000_000_000
    await stalls("{email}:stalls", "recent:0:email", f"1 0 1 failed {fresh}")
    days = replace(AT_ONCE, keep_ended_ms=(fresh - 1790000000) * 500)
    await Reaper(world.partition, alive.name, days).reap_dead()
    known: Any = await world.redis.hkeys("{email}:stalls")
    assert {name.decode() for name in known} == {kept.job_id, "recent:0:email"}
    assert await alive.obey(await alive.fetch(1)) == ["uncertain"]


async def test_stalls_of_many_jobs_are_forgotten_in_turn(world: World) -> None:
    """Each check continues where the previous one stopped."""
    alive = await world.sender()
    redis: Any = world.redis
    fresh = time.time_ns() // 1_000_000_000
    for n in range(1000):
        past = {f"old{n}:0:email": "1 0 1 failed 1790000000", f"recent{n}:0:email": f"1 0 1 failed {fresh}"}
        await redis.hset("{email}:stalls", mapping=past)
    for _ in range(60):
        await world.reaper(alive.name).reap_dead()
    assert {name[:3] for name in await redis.hkeys("{email}:stalls")} == {b"rec"}


async def test_answer_lost_twice_is_not_risked_again(world: World) -> None:
    """A job is sent again after one lost answer, not after two; a late answer still counts."""
    blast = await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await sender.uncertain(lease, 0)
    (again,) = await eventually(sender.take, "the further attempt")
    assert await sender.uncertain(again, 0)
    (third,) = await eventually(sender.fetch, "the job that is not risked")
    assert [grant.kind for grant in await sender.begin([third])] == ["uncertain"]
    assert await sender.late(again)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)


async def forget_begin(world: World, sender: HandSender, lease: Lease) -> None:
    """Put an entry back into its sender's buffer, with its counts, as on a master that lost the begin."""
    redis: Any = world.redis
    buffer = f"{sender.name}:buf"
    await redis.xclaim(lease.stream, "senders", buffer, 0, [lease.entry_id], retrycount=lease.deliveries, justid=True)
    counts = {"processing": -1, "retrying": int(lease.waits_as == "r")}
    for name, by in counts.items():
        await redis.hincrby("{email}:gauges", name, by)
        await redis.hincrby(f"{{email}}:blast:{lease.job.blast_id}", name, by)


async def _fetched_as(world: World, sender: HandSender, waits: str) -> tuple[Blast, Lease]:
    """Let a sender begin a job that is new, was tried before, or was deferred before."""
    blast = await world.given(1)
    (lease,) = await sender.take(1)
    if waits == "retried":
        assert await sender.retry(lease, 0)
        (lease,) = await eventually(lambda: sender.take(1), "the retry")
    elif waits == "deferred":
        assert await sender.defer(lease, 0)
        (lease,) = await eventually(lambda: sender.take(1), "the deferral")
    return blast, lease


@pytest.mark.parametrize("waits", ["new", "retried", "deferred"])
async def test_acceptance_counts_after_a_failover_lost_the_begin(world: World, waits: str) -> None:
    """G1, G2: a failover lost the begin: the accepted job is `sent`, and is not sent again."""
    sender = await world.sender()
    blast, lease = await _fetched_as(world, sender, waits)
    await forget_begin(world, sender, lease)
    await world.check_balance(blast)
    assert await sender.finish(lease) == [True]
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)
    assert not await sender.fetch()


@pytest.mark.parametrize("holder", ["~back", "~retry", "another:buf", "another:tx", "nobody"])
@pytest.mark.parametrize("waits", ["new", "retried", "deferred"])
async def test_acceptance_counts_after_a_failover_lost_the_fetch(world: World, waits: str, holder: str) -> None:
    """G1, G2: a failover lost the fetch, and another sender may hold the job: the acceptance removes it, and counts."""
    sender, another = await world.sender(), await world.sender("another")
    blast, lease = await _fetched_as(world, sender, waits)
    await _forget_fetch(world, sender, lease)
    if holder == "~retry":
        (again,) = await another.take(1)
        assert await another.retry(again, 60_000)
    elif holder.startswith("another"):
        (again,) = await (another.fetch(1) if holder.endswith("buf") else another.take(1))
    elif holder == "~back":
        (again,) = await another.fetch(1)
        assert await another.give_back(again)
    await world.check_balance(blast)
    assert await sender.finish(lease) == [False]
    assert await sender.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)
    assert not await sender.late(lease)
    if holder == "another:tx":
        assert await another.finish(again) == [False]
        assert not await another.late(again)
    assert not await another.fetch()
    await world.check_balance(blast)


async def _forget_fetch(world: World, sender: HandSender, lease: Lease) -> None:
    """Create the group again, as on a master that lost the fetch: no entry is pending."""
    redis: Any = world.redis
    await forget_begin(world, sender, lease)
    await redis.xgroup_destroy(lease.stream, "senders")
    await redis.xgroup_create(lease.stream, "senders", "0")
    if lease.deliveries > 1:  # given back after an attempt, as it was before the fetch
        await redis.xreadgroup("senders", "~back", {lease.stream: ">"})
        await redis.xclaim(lease.stream, "senders", "~back", 0, [lease.entry_id], retrycount=lease.deliveries - 1)


async def test_acceptance_counts_after_a_failover_lost_the_promotion(world: World) -> None:
    """G1, G2: a failover lost the promotion of a scheduled job: the job that was sent is `sent`."""
    blast = await world.blast(1, scheduled_at_ms=4_000_000_000_000)
    await world.enqueue(blast)
    redis: Any = world.redis
    key = f"{blast.blast_id}:0:email"
    packed = await redis.hget("{email}:later:jobs", key)
    await redis.zadd("{email}:later", {key: 1})
    sender = await world.sender()
    (lease,) = await eventually(lambda: sender.take(1), "the scheduled job")
    await forget_begin(world, sender, lease)
    await redis.xack(lease.stream, "senders", lease.entry_id)
    await redis.xdel(lease.stream, lease.entry_id)
    await redis.hdel("{email}:places", key)
    await redis.zadd("{email}:later", {key: 1})
    await redis.hset("{email}:later:jobs", key, packed)
    for name in ("{email}:gauges", f"{{email}}:blast:{blast.blast_id}"):
        await redis.hincrby(name, "scheduled", 1)
    await redis.hincrby("{email}:gauges", "later_scheduled", 1)
    await world.check_balance(blast)
    assert await sender.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)


async def _copy(world: World) -> dict[bytes, bytes]:
    """Copy the whole queue, as a replica has it at this moment."""
    redis: Any = world.redis
    return {key: await redis.dump(key) async for key in redis.scan_iter("{email}*", count=1000)}


async def _fail_over(world: World, copied: dict[bytes, bytes]) -> None:
    """Let a replica that has only this copy become the master."""
    redis: Any = world.redis
    await redis.delete(*[key async for key in redis.scan_iter("{email}*", count=1000)])
    for key, value in copied.items():
        await redis.restore(key, 0, value)


async def test_late_acceptance_of_the_last_job_deletes_its_blasts_stream(world: World) -> None:
    """The stream of a bulk blast, its turns and its consumers go with its last job, also if that was accepted late."""
    blast = await world.given(100, "bulk")
    sender = await world.sender()
    *others, last = await sender.take(100)
    assert all(await sender.finish(*others))
    await world.reaper(sender.name).give_up([last])
    assert await sender.late(last)
    assert not await world.redis.exists(last.stream, "{email}:ring", "{email}:streams")
    assert (await world.progress(blast)).ended_at_ms > 0


async def test_acceptance_of_a_further_run_counts_though_its_fetch_was_forgotten(world: World) -> None:
    """G1, G2: a job was abandoned in its first run, and a failover lost that its second was fetched: it waits as
    queued, and the acceptance takes it from there."""
    blast = await world.given(1)
    sender = await world.sender()
    await abandon(world, sender)
    assert await sender.fail((await sender.take())[0])
    await world.again(blast, [0], run=2)
    copied = await _copy(world)
    (lease,) = await sender.take(1)
    await _fail_over(world, copied)
    assert await sender.finish(lease) == [False]
    assert await sender.late(lease)
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}
    await world.check_balance(blast)
    assert not await sender.late(lease)
    assert not await sender.fetch()


async def _waiting_apart(world: World, senders: tuple[HandSender, HandSender], waits: str) -> Blast:
    """Let the only job of a blast be due outside all streams: deferred, beyond its limit, or scheduled."""
    redis: Any = world.redis
    if waits == "limited":
        for sender in senders:
            sender.limit_of = lambda _job: JobLimit("slow", 60_000_000)
        await world.given(1)
        assert await senders[0].finish(*await senders[0].take(1)) == [True]
    if waits == "scheduled":
        blast = await world.given(1, scheduled_at_ms=4_000_000_000_000)
    else:
        blast = await world.given(1)
        leases = await senders[0].fetch(1)
        (word,) = await senders[0].obey(leases)
        assert word == ("beyond" if waits == "limited" else "granted")
        assert word == "beyond" or await senders[0].defer(leases[0], 60_000)
    await redis.delete("{email}:limit:slow")
    await redis.zadd("{email}:limits:due", {"slow": 1}, xx=True)
    await redis.zadd("{email}:later", {f"{blast.blast_id}:0:email": 1}, xx=True)
    return blast


@pytest.mark.parametrize("where", ["waiting", "own buffer", "another's buffer", "given back"])
@pytest.mark.parametrize("waits", ["deferred", "limited", "scheduled"])
async def test_acceptance_counts_though_the_job_has_come_due_once_more(world: World, waits: str, where: str) -> None:
    """G1, G2: a failover lost that a job had come due, or been released by its limit, before it was sent. On the new
    master it did so once more, in another entry: the acceptance removes that entry, and counts."""
    sender, another = await world.sender(), await world.sender("another")
    blast = await _waiting_apart(world, (sender, another), waits)
    copied = await _copy(world)
    (lease,) = await sender.take(1)
    await _fail_over(world, copied)
    holder = sender if where == "own buffer" else another
    fetched = [] if where == "waiting" else await holder.fetch(1)
    assert [one.job_id for one in fetched] == ([] if where == "waiting" else [lease.job_id])
    if where == "given back":
        assert await holder.give_back(fetched[0])
    await world.check_balance(blast)
    assert await sender.finish(lease) == [False]
    assert await sender.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)
    if fetched:
        assert set(await holder.obey(fetched)) == {"lost"}
    assert not await another.fetch()
    assert not await sender.late(lease)
    assert await world.redis.exists("{email}:places") == 0


@pytest.mark.parametrize("how", ["sent", "failed", "cancelled", "paused", "deferred", "limited", "sent from :buf"])
async def test_entry_of_a_job_that_came_due_is_recorded_while_it_exists(world: World, how: str) -> None:
    """Whatever becomes of a job that had been deferred, the record of its entry goes with the entry."""
    blast = await world.given(1)
    sender = await world.sender()
    assert await sender.defer((await sender.take(1))[0], 0)
    (lease,) = await eventually(lambda: sender.fetch(1), "the deferral")
    assert await world.redis.hkeys("{email}:places") == [lease.job_id.encode()]
    await world.check_balance(blast)
    if how == "cancelled":
        assert await world.control.cancel_job(lease.job_id) == "cancelled"
    elif how == "paused":
        assert await world.control.pause_blast(blast.blast_id, "wait")
        assert await sender.obey([lease]) == ["paused"]
    elif how == "limited":
        sender.limit_of = lambda _job: JobLimit("slow", 60_000_000)
        await world.redis.set("{email}:limit:slow", (time.time_ns() // 1000) + 60_000_000)
        assert await sender.obey([lease]) == ["beyond"]
    elif how == "sent from :buf":
        assert await sender.finish(lease) == [True]
    else:
        assert await sender.obey([lease]) == ["granted"]
        if how == "sent":
            assert await sender.finish(lease) == [True]
        else:
            assert await (sender.fail(lease) if how == "failed" else sender.defer(lease, 60_000))
    assert await world.redis.exists("{email}:places") == 0
    await world.check_balance(blast)


@pytest.mark.parametrize("abandoned", [False, True])
async def test_late_answer_spares_the_entry_in_its_place(world: World, abandoned: bool) -> None:
    """A new master may assign an entry's id again: a late answer removes only its own job."""
    sender = await world.sender()
    blast = await world.given(1)
    if abandoned:
        await abandon(world, sender)
    (lease,) = await sender.take(1)
    other = await world.given(1)
    (taken,) = await sender.fetch(1)
    misplaced = msgspec.structs.replace(taken, job=lease.job)
    assert await sender.late(misplaced) == abandoned
    assert await sender.obey([taken]) == ["granted"]
    assert await sender.finish(taken) == [True]
    assert await sender.finish(lease) == [True]
    assert (await world.progress(other)).counts["sent"] == 1
    await world.check_balance(blast, other)


async def test_acceptance_spares_the_entry_in_its_place_in_the_buffer(world: World) -> None:
    """The same while the sender holds the other job: the acceptance of the first does not end the other."""
    sender = await world.sender()
    await world.given(1)
    (lease,) = await sender.take(1)
    other = await world.given(1)
    (taken,) = await sender.fetch(1)
    assert await sender.finish(msgspec.structs.replace(taken, job=lease.job)) == [False]
    assert await sender.obey([taken]) == ["granted"]
    assert await sender.finish(taken) == [True]
    assert (await world.progress(other)).counts["sent"] == 1


async def test_late_reap_takes_nothing_from_a_live_sender(world: World) -> None:
    """Between a reaper's check and its reap the sender thawed and began: it keeps the job, which is sent once."""
    blast = await world.given(2)
    thawed, alive = await world.sender(), await world.sender()
    reaper = Reaper(world.partition, alive.name, AT_ONCE)
    await world.redis.delete(f"{{email}}:sender:{thawed.name}")
    assert not await thawed.consumer.heartbeat({})
    flying, buffered = await thawed.fetch(2)
    assert [grant.kind for grant in await thawed.begin([flying])] == ["granted"]
    taken = await reaper._take(thawed.name)
    assert (taken.from_buffer, taken.in_flight) == (0, 0)
    assert await alive.fetch() == []
    assert await thawed.finish(flying) == [True]
    assert [grant.kind for grant in await thawed.begin([buffered])] == ["granted"]
    assert thawed.name.encode() in await world.redis.hkeys("{email}:senders")
    await world.check_balance(blast)


@pytest.mark.parametrize("others", [0, 1, 120])
async def test_job_accepted_late_is_not_sent_again(world: World, others: int) -> None:
    """A failed job was accepted by a late answer that the log had not read when it opened the next run: the job is not
    added, the counts add up, and events report that this run ended as sent, and that the blast has ended."""
    blast = await world.given(1 + others, "bulk")
    frozen, alive = await world.sender(), await world.sender()
    (lease,) = await frozen.take(1)
    await bury(world, frozen, alive)
    for one in await alive.fetch(200):
        assert [grant.kind in {"granted", "alone"} for grant in await alive.begin([one])] == [True]
        assert await alive.fail(one)
    assert await frozen.late(lease)
    every = range(1 + others)
    added = await world.again(blast, every, run=2)
    assert (added.added, added.watermark) == (others, 1 + others)
    await world.check_balance(blast)
    assert (await world.again(blast, every, run=2)).watermark == 1 + others
    second = await alive.take(200)
    assert lease.job_id not in {one.job_id for one in second}
    assert all(await alive.finish(*second))
    progress = await world.progress(blast)
    assert {name: n for name, n in progress.counts.items() if n} == {"sent": 1 + others}
    assert progress.ended_at_ms > 0
    await world.check_balance(blast)
    told = await world.written()
    assert ends(told)[lease.job_id, 2] == 1
    assert fold(told).jobs[lease.job_id].status == "sent"
    last = [event for event in told if isinstance(event, BlastChannelEnded | Queued)][-1]
    assert isinstance(last, BlastChannelEnded)
    assert last.counts["sent"] == 1 + others


async def test_abandoned_job_with_an_attachment_is_taken_over(world: World) -> None:
    """Scripts must read a job whatever its files contain: the server's msgpack does not support binary values."""
    blast = await world.blast(1)
    await world.enqueue(blast, recipient=WITH_FILES)
    alive = await world.sender()
    await abandon(world, alive)
    (again,) = await alive.take()
    assert (again.attempt, (await world.whole(again.job)).recipient) == (2, WITH_FILES)
    assert await alive.finish(again) == [True]
    await world.check_balance(blast)
