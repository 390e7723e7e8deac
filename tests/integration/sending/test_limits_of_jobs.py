"""Limits of a domain or a recipient: their lists, their order and their bursts, on both servers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from shared.blasts import Blast
from shared.jobs import Job, Lane, Recipient
from shared.queue.consumer import BeginRequest
from shared.queue.leases import Grant, Lease, parked
from shared.sending.job_limits import JobLimit
from shared.settings import Rate
from tests.integration.queue.world import HandSender, World, eventually, in_time, now_ms
from tests.integration.sending.fakes import FakeProvider
from tests.integration.sending.running import SETTINGS, sending, slow_answers
from tests.integration.sending.test_rate import most_in_any_second
from tests.servers import wait_for

GAP_US = 600_000_000  # no start is free before a test says so (`is_free`)
SHORT_US = 300_000
LIMIT = "62812"
TWENTY_A_SECOND = replace(SETTINGS, domain_rates={"example.com": Rate(20, 1.0)})


async def begin_limited(
    sender: HandSender, leases: Sequence[Lease], gap_us: int, burst: int = 1, *, limit: str = LIMIT
) -> list[Grant]:
    """Begin jobs of one limit, and settle every refusal as the sending loop does."""
    grants = await sender.consumer.begin(
        [BeginRequest(lease, limit=limit, limit_gap_us=gap_us, limit_burst=burst) for lease in leases], 0
    )
    await sender.settle_refusals(leases, grants)
    return grants


def kinds(grants: Sequence[Grant]) -> list[str]:
    return [grant.kind for grant in grants]


def indexes(leases: Sequence[Lease]) -> list[int]:
    return [lease.job.index for lease in leases]


async def is_free(world: World, limit: str = LIMIT) -> None:
    """Let the limit's next start be free now, as if its time had passed."""
    redis: Any = world.redis
    await redis.delete(f"{{email}}:limit:{limit}")
    for index in ("{email}:limits:high", "{email}:limits:due"):
        await redis.zadd(index, {limit: 0}, xx=True)


async def started(providers: Sequence[FakeProvider], blast: Blast, within_s: float) -> None:
    """Wait until one of the providers was handed this blast's message."""
    job_id = f"{blast.blast_id}:0:email"

    def was_handed_over() -> bool:
        return any(called == job_id for provider in providers for called, _ in provider.calls)

    await wait_for(was_handed_over, within_s, "the one-time password")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_password_behind_a_domains_bulk_starts_within_a_second(both: World, cancelled: bool) -> None:
    """Behind 3,000 bulk mails to one domain at 20 a second, a message of `high` gets a start of the next second, even
    if the bulk was cancelled just before; the domain sees at most its limit in any sliding second."""
    bulk = await both.given(3000, "bulk")
    provider = FakeProvider()
    async with sending(both, provider, TWENTY_A_SECOND):
        await wait_for(lambda: len(provider.calls) >= 30, what="thirty of the bulk mails")
        if cancelled:
            assert await both.control.cancel_blast(bulk.blast_id)
        for _ in range(3):
            before = len(provider.calls)
            await started([provider], await both.given(1, "high"), 10.0)
            # not by the clock: a busy machine makes fewer starts in a second
            assert len(provider.calls) - before <= 22
    await both.check_balance(bulk)
    assert most_in_any_second([at for _, at in provider.calls]) <= 20


@pytest.mark.timing
async def test_limit_holds_over_all_senders_and_is_used(both: World) -> None:
    """Three senders of mail to one domain keep its rate in any sliding second together, and use it."""
    await both.given(200, "bulk")
    providers = [FakeProvider() for _ in range(3)]

    def times() -> list[float]:
        return sorted(at for provider in providers for _, at in provider.calls)

    async with AsyncExitStack() as stack:
        for provider in providers:
            await stack.enter_async_context(sending(both, provider, TWENTY_A_SECOND))
        await wait_for(lambda: len(times()) >= 60, 10, "sixty mails")
    assert most_in_any_second(times()) <= 20
    assert 59 / (times()[59] - times()[0]) > 10


def now_and_then() -> float:
    return 0.4 if _random.random() < 0.2 else 0.0


_random = random.Random(11)
DELAYS: dict[str, Callable[[], float]] = {
    "by 150 ms": lambda: 0.15,
    "by 300 ms": lambda: 0.3,
    "by anything up to 400 ms": lambda: _random.uniform(0, 0.4),
    "by 400 ms now and then": now_and_then,
}


@pytest.mark.parametrize("delay", DELAYS)
async def test_limit_holds_where_answers_are_late(both: World, delay: str) -> None:
    """One of two senders gets its grants late: the provider sees at most the limit in any sliding period, that sender
    also sends, and the limit is used."""
    await both.given(400, "bulk")
    slow_world = replace(both, redis=slow_answers(both.redis, DELAYS[delay]))
    quick, slow = FakeProvider(), FakeProvider()
    five_in_half_a_second = replace(SETTINGS, domain_rates={"example.com": Rate(5, 0.5)})

    def times() -> list[float]:
        return sorted(at for provider in (quick, slow) for _, at in provider.calls)

    async with sending(both, quick, five_in_half_a_second), sending(slow_world, slow, five_in_half_a_second):
        await wait_for(lambda: len(times()) >= 40 and len(slow.calls) >= 3, what="forty mails, some of the slow one")
    seen = times()
    assert min(late - early for early, late in zip(seen, seen[5:], strict=False)) >= 0.5
    assert (len(seen) - 1) / (seen[-1] - seen[0]) > 2


async def test_only_starts_that_may_be_late_cost_their_limit_more(both: World) -> None:
    """A start that may be 8 s late charges its limit more, and so do those after it, but not those before it."""
    sender, gap_us, late_ms = await both.sender(), 60_000_000, 8000
    share_us = late_ms * 1000 // 20
    await both.given(3)
    leases = await sender.fetch(3)

    async def charges_us(lease: Lease, late_ms: int, expected_us: int) -> bool:
        await both.redis.delete(f"{{email}}:limit:{LIMIT}")
        request = BeginRequest(lease, limit=LIMIT, limit_gap_us=gap_us, limit_starts=20, late_ms=late_ms)
        before = time.time_ns() // 1000
        (grant,) = await sender.consumer.begin([request], 0)
        after = time.time_ns() // 1000
        assert (grant.kind, grant.spaced) == ("granted", "own")
        charged: Any = await both.redis.get(f"{{email}}:limit:{LIMIT}")
        return before + expected_us <= int(charged) <= after + expected_us

    before_s = time.time()
    assert await charges_us(leases[0], 0, gap_us)
    assert await charges_us(leases[1], late_ms, gap_us + share_us)
    assert await charges_us(leases[2], 0, gap_us + share_us)
    known: Any = await both.redis.zrange(f"{{email}}:limits:late:{LIMIT}", 0, -1, withscores=True)
    assert [float(late) for late, _ in known] == [late_ms * 1000]
    until_us: Any = known[0][1]
    matters_s = 20 * gap_us / 1e6 + late_ms / 1000
    assert before_s + matters_s - 5 <= until_us / 1e6 <= time.time() + matters_s + 5


async def test_a_burst_counts_from_its_latest_starts(both: World) -> None:
    """With a burst, a start that may be 2 s late delays the next ones as if it were that late."""
    sender = await both.sender()
    await both.given(3)
    requests = [
        BeginRequest(lease, limit=LIMIT, limit_gap_us=GAP_US, limit_burst=2, late_ms=2000)
        for lease in await sender.fetch(3)
    ]
    before_us = time.time_ns() // 1000
    grants = await sender.consumer.begin(requests, 0)
    after_us = time.time_ns() // 1000
    assert kinds(grants) == ["granted", "beyond", "beyond"]
    charged: Any = await both.redis.get(f"{{email}}:limit:{LIMIT}")
    assert before_us - 200_000 <= int(charged) - 2_000_000 - GAP_US <= after_us + 200_000


async def test_a_burst_goes_at_once_and_the_rest_waits(both: World) -> None:
    """Of ten messages to one recipient four start immediately; the others wait, are counted, and hold no start."""
    blast = await both.given(10)
    sender = await both.sender()
    grants = await begin_limited(sender, await sender.fetch(10), GAP_US, 4)
    assert kinds(grants) == ["granted"] * 4 + ["beyond"] * 6
    assert [grant.spaced for grant in grants[:4]] == ["own"] * 4
    truth = await both.check_balance(blast)
    assert truth.delayed == 6
    fetched = await sender.consumer.fetch(10)
    assert fetched.leases == []
    assert fetched.due_in_s == pytest.approx(GAP_US / 1e6, abs=60)


async def test_a_burst_is_shared_by_all_senders(both: World) -> None:
    """Two senders share one burst."""
    await both.given(4)
    one, two = await both.sender(), await both.sender()
    grants = await begin_limited(one, await one.fetch(2), GAP_US, 3)
    grants += await begin_limited(two, await two.fetch(2), GAP_US, 3)
    assert kinds(grants) == ["granted", "granted", "granted", "beyond"]


async def test_a_free_start_is_given_to_one_sender(both: World) -> None:
    """Once a sender has fetched the job for a free start, the others get no job for it, even before it is begun."""
    await both.given(3)
    one, two = await both.sender(), await both.sender()
    assert kinds(await begin_limited(one, await one.fetch(3), GAP_US)) == ["granted", "beyond", "beyond"]
    await is_free(both)
    (lease,) = await one.fetch(10)
    fetched = await two.consumer.fetch(10)
    assert fetched.leases == []
    assert fetched.due_in_s == pytest.approx(GAP_US / 1e6, abs=60)
    assert kinds(await begin_limited(one, [lease], GAP_US)) == ["granted"]
    await both.check_balance()


async def test_lists_release_by_lane_then_in_order(both: World) -> None:
    """Jobs that wait for a limit are released when a start is free: `high`, `normal`, `bulk`, each in its order."""
    sender = await both.sender()
    lanes: tuple[Lane, ...] = ("bulk", "normal", "high")
    await both.given(1)
    assert kinds(await begin_limited(sender, await sender.fetch(1), GAP_US)) == ["granted"]
    for lane in lanes:
        await both.given(3, lane)
        assert kinds(await begin_limited(sender, await sender.fetch(3), GAP_US)) == ["beyond"] * 3
    came: list[tuple[str, int]] = []
    for _ in range(9):
        assert await sender.fetch(10) == []
        await is_free(both)
        (lease,) = await sender.fetch(10)
        came.append((lease.job.lane, lease.job.index))
        assert kinds(await begin_limited(sender, [lease], GAP_US)) == ["granted"]
    assert came == [(lane, index) for lane in reversed(lanes) for index in range(3)]
    await both.check_balance()


@pytest.mark.parametrize("lane", ["high", "normal"])
async def test_released_jobs_count_among_those_asked_for(both: World, lane: Lane) -> None:
    """A sender that asks for three jobs gets three, also if one of them is from a limit's list."""
    sender = await both.sender()
    await both.given(2, lane)
    assert kinds(await begin_limited(sender, await sender.fetch(2), GAP_US)) == ["granted", "beyond"]
    blast = await both.given(9, lane)
    await is_free(both)
    fetched = [len(await sender.fetch(3)) for _ in range(4)]
    assert fetched == [3, 3, 3, 1]
    await both.check_balance(blast)


async def test_fresh_job_does_not_overtake_what_waits_of_its_lane(both: World) -> None:
    """A free start belongs to the first waiting job; only a job of a higher lane takes precedence."""
    sender = await both.sender()
    await both.given(2)
    assert kinds(await begin_limited(sender, await sender.fetch(2), GAP_US)) == ["granted", "beyond"]
    await both.given(1)
    urgent = await both.given(1, "high")
    first, fresh = await sender.fetch(2)
    assert first.job.blast_id == urgent.blast_id
    await is_free(both)
    assert kinds(await begin_limited(sender, [fresh, first], GAP_US)) == ["beyond", "granted"]


async def test_released_job_that_lost_its_start_keeps_its_place(both: World) -> None:
    """A job that `high` overtakes at the last moment waits again, before those that waited behind it."""
    sender = await both.sender()
    await both.given(4)
    assert kinds(await begin_limited(sender, await sender.fetch(4), GAP_US)) == ["granted"] + ["beyond"] * 3
    await is_free(both)
    (released,) = await sender.fetch(10)
    await both.given(1, "high")
    (urgent,) = await sender.fetch(10)
    assert kinds(await begin_limited(sender, [urgent], GAP_US)) == ["granted"]
    assert kinds(await begin_limited(sender, [released], GAP_US)) == ["beyond"]
    await is_free(both)
    (again,) = await sender.fetch(10)
    assert again.job_id == released.job_id
    assert again.attempt == 1
    await both.check_balance()


async def test_retry_is_held_to_the_limit_again(both: World) -> None:
    """A start serves one attempt; the next attempt waits for its own."""
    sender = await both.sender()
    await both.given(2)
    assert kinds(await begin_limited(sender, await sender.fetch(2), SHORT_US)) == ["granted", "beyond"]
    (lease,) = await eventually(lambda: sender.fetch(1), "the job to be released")
    assert kinds(await begin_limited(sender, [lease], GAP_US)) == ["granted"]
    assert await sender.consumer.settle([parked(lease, b"", 1)]) == [True]
    (again,) = await eventually(lambda: sender.fetch(1), "the retry")
    assert (again.job_id, again.attempt) == (lease.job_id, 2)
    assert kinds(await begin_limited(sender, [again], GAP_US)) == ["beyond"]
    await is_free(both)
    (last,) = await eventually(lambda: sender.fetch(1), "the retry to be released")
    assert (last.job_id, last.attempt) == (lease.job_id, 2)
    await both.check_balance()


async def test_jobs_kept_by_a_pause_do_not_start_all_at_once(both: World) -> None:
    """After a pause of the channel longer than all jobs needed, starts are spaced as before."""
    sender = await both.sender()
    await both.given(4)
    assert kinds(await begin_limited(sender, await sender.fetch(4), SHORT_US)) == ["granted"] + ["beyond"] * 3
    await both.control.pause_channel("email", "stop")
    await asyncio.sleep(3 * SHORT_US / 1e6)
    assert await sender.fetch(10) == []
    await both.control.resume_channel("email")
    leases = await sender.fetch(10)
    assert len(leases) == 1
    assert kinds(await begin_limited(sender, leases, GAP_US)) == ["granted"]
    assert await sender.fetch(10) == []


@pytest.mark.parametrize("how", ["cancelled", "expired", "suppressed", "paused"])
async def test_what_may_not_be_sent_holds_no_start(both: World, how: str) -> None:
    """If the first of two waiting jobs may not be sent, the second gets its start."""

    async def two_wait(at_ms: int) -> tuple[HandSender, Blast, Blast]:
        sender = await both.sender()
        await both.given(1)
        assert kinds(await begin_limited(sender, await sender.fetch(1), GAP_US)) == ["granted"]
        gone = await both.blast(1, "normal")
        expires_at_ms = at_ms if how == "expired" else 0
        await both.enqueue(gone, expires_at_ms=expires_at_ms, recipient=Recipient("gone@example.com", "G"))
        last = await both.given(1)
        assert kinds(await begin_limited(sender, await sender.fetch(2), GAP_US)) == ["beyond"] * 2
        return sender, gone, last

    at_ms, (sender, gone, last) = await in_time(both, two_wait)
    redis: Any = both.redis
    if how == "cancelled":  # only the mark, as if the sweep was killed
        await redis.hset(f"{{email}}:blast:{gone.blast_id}", "cancelled_at", 1)
    elif how == "paused":
        assert await both.control.pause_blast(gone.blast_id, "wait")
    elif how == "suppressed":
        await redis.hset("{email}:suppressed", "gone@example.com", "hard_bounce")
    else:
        await asyncio.sleep(max(0, at_ms - now_ms()) / 1000 + 0.05)
    await is_free(both)
    (first,) = await sender.fetch(1)
    assert first.job.blast_id == gone.blast_id
    assert kinds(await begin_limited(sender, [first], GAP_US)) == [how]
    (second,) = await sender.fetch(10)
    assert second.job.blast_id == last.blast_id
    assert kinds(await begin_limited(sender, [second], GAP_US)) == ["granted"]
    await both.check_balance(gone, last)


async def test_job_that_begins_to_wait_wakes_the_other_senders(both: World) -> None:
    """They learn when its limit has a free start, so that it starts on time even if its sender dies."""
    sender = await both.sender()
    await both.given(2)
    first, second = await sender.fetch(2)
    assert kinds(await begin_limited(sender, [first], GAP_US)) == ["granted"]
    assert await both.wakes(lambda: begin_limited(sender, [second], GAP_US))


async def test_cancelled_jobs_leave_their_lists(both: World) -> None:
    """A cancelled blast's jobs, or one cancelled job, leave the list immediately; the last one deletes the list."""
    sender = await both.sender()
    blasts = [await both.given(2) for _ in range(2)]
    assert kinds(await begin_limited(sender, await sender.fetch(4), GAP_US)) == ["granted"] + ["beyond"] * 3
    assert await both.control.cancel_blast(blasts[1].blast_id)
    await both.check_balance(*blasts)
    assert await both.control.cancel_job(f"{blasts[0].blast_id}:1:email") == "cancelled"
    await both.check_balance(*blasts)
    assert not [key async for key in both.redis.scan_iter("{email}:limits:*") if b"order" not in key]


async def test_late_acceptance_takes_the_job_from_its_list(both: World) -> None:
    """A message accepted before its sender was cut off is not sent again from its limit's list."""
    blast = await both.given(1)
    cut_off, other = await both.sender(), await both.sender()
    (lease,) = await cut_off.fetch(1)
    assert kinds(await begin_limited(cut_off, [lease], GAP_US)) == ["granted"]
    await both.redis.delete(f"{{email}}:sender:{cut_off.name}")
    await both.reaper(other.name)._take(cut_off.name)
    (again,) = await eventually(lambda: other.fetch(1), "the job at the other sender")
    assert kinds(await begin_limited(other, [again], GAP_US)) == ["beyond"]
    await both.check_balance(blast)
    assert await cut_off.late(lease)
    counts = (await both.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}
    await both.check_balance(blast)


@pytest.mark.parametrize("lifted", [False, True])
async def test_changed_limit_holds_for_what_waits(both: World, lifted: bool) -> None:
    """Senders with a higher rate, or none, release at their own rate the jobs that an earlier one put into the list."""
    sender = await both.sender()
    await both.given(4)
    assert kinds(await begin_limited(sender, await sender.fetch(4), 6 * GAP_US)) == ["granted"] + ["beyond"] * 3
    await is_free(both)
    limit = "" if lifted else LIMIT
    (lease,) = await sender.fetch(10)
    assert kinds(await begin_limited(sender, [lease], 1000, limit=limit)) == ["granted"]
    leases: list[Lease] = []

    async def all_came() -> bool:
        leases.extend(await sender.fetch(10))
        return len(leases) == 2

    await wait_for(all_came, what="what waits to be released at the new rate")
    await both.check_balance()


async def test_limit_that_booked_ahead_does_not_hold_up(both: World) -> None:
    """The previous version's bookings, minutes ahead, are void; its jobs become due in time and keep the limit."""
    redis: Any = both.redis
    sender = await both.sender()
    await redis.set(f"{{email}}:limit:{LIMIT}", (time.time_ns() // 1000) + 600_000_000)
    blast = await both.given(2)
    leases = await sender.fetch(2)
    assert kinds(await begin_limited(sender, leases, 50_000)) == ["granted", "granted"]
    await both.check_balance(blast)
    booked = await both.blast(1)
    (job,) = both.jobs(booked, [0], unused_ms=time.time_ns() // 1_000_000)
    await both.enqueue(booked)
    await sender.finish(*leases)
    (lease,) = await sender.fetch(1)
    await redis.zadd("{email}:later", {job.job_id: 1})
    await redis.hset("{email}:later:jobs", job.job_id, b"bn" + msgspec.msgpack.encode(job))
    await redis.xack("{email}:jobs:normal", "senders", lease.entry_id)
    await redis.xdel("{email}:jobs:normal", lease.entry_id)
    await both.check_balance(booked)
    await redis.set(f"{{email}}:limit:{LIMIT}", (time.time_ns() // 1000) + GAP_US)
    (due,) = await sender.fetch(1)
    assert due.job_id == job.job_id
    assert kinds(await begin_limited(sender, [due], GAP_US)) == ["beyond"]
    await both.check_balance(booked)


async def test_blast_far_beyond_its_limit_rests_in_its_stream(both: World) -> None:
    """Few jobs of a bulk blast to one limited domain wait in the limit's list: the others stay in the blast's stream,
    where a cancellation finds them; the blast is fetched from again as the list empties."""
    blast = await both.given(2000, "bulk")
    sender = await both.sender()
    begun = 0
    for _ in range(30):
        begun += kinds(await begin_limited(sender, await sender.fetch(100), 54_000)).count("granted")
    listed = await both.redis.hlen("{email}:later:jobs")
    assert 50 <= listed <= 56 + 50
    assert await both.redis.xlen(f"{{email}}:jobs:bulk:{blast.blast_id}") >= 2000 - begun - listed
    truth = await both.check_balance(blast)
    assert truth.delayed == listed
    came: list[int] = []

    async def is_further() -> bool:
        leases = await sender.fetch(100)
        grants = await begin_limited(sender, leases, 54_000)
        came.extend(lease.job.index for lease, grant in zip(leases, grants, strict=True) if grant.kind == "granted")
        return len(came) >= 50

    await wait_for(is_further, what="fifty further jobs")
    assert came == list(range(begun, begun + len(came)))
    assert await both.redis.hlen("{email}:later:jobs") <= 56 + 50
    await both.check_balance(blast)


async def test_limited_jobs_do_not_hide_others_of_their_blast(both: World) -> None:
    """In a bulk blast to two domains, one of them slow, all jobs of the other are sent immediately."""
    blast = await both.blast(1000, "bulk")
    for first in range(0, 1000, 500):
        await both.enqueue(blast, first, 500)
    provider = FakeProvider()
    slow = JobLimit("slow", 200_000)

    def limit_of(job: Job) -> JobLimit | None:
        return slow if job.index % 10 else None

    async with sending(both, provider, replace(SETTINGS, limit_of=limit_of)):

        def all_quick() -> bool:
            return sum(int(job_id.split(":")[1]) % 10 == 0 for job_id, _ in provider.calls) == 100

        await wait_for(all_quick, what="all that have no limit")
        assert len(provider.calls) < 300
    await both.check_balance(blast)


async def test_large_jobs_are_released_over_several_fetches(both: World) -> None:
    """Thirty jobs of 200 KB whose starts are free together, and others: jobs too many for one fetch follow later."""
    sender = await both.sender()
    large = Recipient("r@example.com", "R", {"x": "y" * 200_000})
    limited, urgent = await both.blast(31), await both.blast(5, "high")
    await both.enqueue(limited, recipient=large)
    begun: list[Grant] = []
    while len(begun) < 31:
        begun += await begin_limited(sender, await sender.fetch(31), GAP_US)
    assert kinds(begun) == ["granted"] + ["beyond"] * 30
    await both.enqueue(urgent, recipient=large)
    await is_free(both)
    await both.redis.hset("{email}:limits", LIMIT, "1 40")
    came = Counter([lease.job.lane for _ in range(8) for lease in await sender.fetch(40)])
    assert came == {"high": 5, "normal": 30}
    await both.check_balance(limited, urgent)


async def test_many_limits_cost_a_fetch_no_more(both: World) -> None:
    """5,000 limits with waiting jobs, a hundred of them with a free start, cost a fetch as little as one limit."""
    sender = await both.sender()
    redis: Any = both.redis
    await both.given(2)
    now_us = time.time_ns() // 1000
    pipe = redis.pipeline(transaction=False)
    blast = await both.blast(5000)
    for job in both.jobs(blast, range(5000)):
        name, packed = f"d{job.index}.example", msgspec.msgpack.encode(job)
        pipe.hset("{email}:later:jobs", job.job_id, f"wn{name} ".encode() + packed)
        pipe.zadd(f"{{email}}:limits:jobs:{name}", {job.job_id: int(1e15) + job.index})
        pipe.hset("{email}:limits", name, "54000 1")
        pipe.zadd("{email}:limits:due", {name: now_us + (0 if job.index < 100 else 10**9)})
    pipe.hset(f"{{email}}:blast:{blast.blast_id}", mapping=dict.fromkeys(("total", "enqueued", "limited"), 5000))
    pipe.hincrby("{email}:counters", "enqueued", 5000)
    await pipe.execute()
    await redis.config_resetstat()
    cpu_s = await cpu_seconds(both)
    leases = [lease for _ in range(20) for lease in await sender.fetch(10)]
    assert sum(lease.job.blast_id == blast.blast_id for lease in leases) == 100
    for _ in range(100):
        assert await sender.fetch(10) == []
    took_s = await cpu_seconds(both) - cpu_s
    stats = await redis.info("commandstats")
    scripts = stats["cmdstat_evalsha"]
    # both are at least the work of the calls, and a busy machine does not make both larger
    assert min(scripts["usec"], took_s * 1e6) / scripts["calls"] < 2000
    assert stats["cmdstat_zrangebyscore"]["calls"] < 120 * 8
    await both.check_balance(blast)


async def cpu_seconds(world: World) -> float:
    """Return how long the server has used a processor."""
    used: Any = await world.redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])
