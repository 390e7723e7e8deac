"""A sender's record of its jobs, and how far ahead it works."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from shared.sending.holdings import BegunJob, Holdings
from shared.sending.pace import Pace
from tests.unit.sending.leases import lease_of


def test_high_is_taken_first() -> None:
    """The buffer returns jobs by lane, then in order of arrival."""
    holdings = Holdings()
    for index, lane in enumerate(["bulk", "normal", "high", "normal"]):
        holdings.buffer(lease_of(index, lane=lane))
    assert [lease.job.index for lease in holdings.take(4)] == [2, 1, 3, 0]


def test_what_cannot_be_begun_yet_keeps_its_place() -> None:
    """A job refused for now stays before later arrivals, however often it is refused."""
    holdings = Holdings()
    for index in range(5):
        holdings.buffer(lease_of(index))
    first = holdings.take(2)
    for lease in reversed(first):
        holdings.put_back(lease)
    assert [lease.job.index for lease in holdings.take(5)] == [0, 1, 2, 3, 4]


def test_suspects_wait_apart_in_their_order() -> None:
    """A job that must be sent alone is kept apart, keeps its place when refused, and is given back with the others."""
    holdings = Holdings()
    for index, lane in enumerate(["bulk", "normal", "high", "normal"]):
        holdings.buffer(lease_of(index, lane=lane))
    high, one, two, three = holdings.take(4)
    for lease in (three, two, one):
        holdings.add_suspect(lease)
    holdings.put_back(high)
    (first,) = holdings.take_suspect()
    assert first.job.index == 0
    holdings.put_back(first)
    assert [lease.job.index for lease in holdings.take_high(9)] == [2]
    assert [lease.job.index for lease in holdings.take_all()] == [0, 1, 3]
    assert not holdings.waiting


def test_known_entry_is_not_buffered_twice() -> None:
    """A job that a late listing of the queue repeats is held once."""
    holdings = Holdings()
    holdings.buffer(lease_of())
    holdings.buffer(lease_of())
    (lease,) = holdings.take(9)
    holdings.add_begun(BegunJob(lease, 0.0))
    holdings.buffer(lease_of())
    assert holdings.take(9) == []


def test_job_fetched_again_before_its_giving_back_was_answered_is_kept() -> None:
    """Otherwise it would stay in this sender's `:buf` and never be begun."""
    holdings = Holdings()
    lease = lease_of()
    holdings.add_fetched(lease)
    assert holdings.take(1) == [lease]
    again = lease_of()
    holdings.add_fetched(again)
    assert holdings.take(1) == []
    holdings.remove([lease])
    assert holdings.take(1) == [again]


def test_job_in_flight_is_not_begun_from_another_entry() -> None:
    """After a failover a job may be fetched from another entry while it is sent: that entry waits for the first."""
    holdings = Holdings()
    lease, double, other = lease_of(), lease_of(stream="{email}:jobs:due"), lease_of(1, stream="{email}:jobs:due")
    holdings.add_fetched(lease)
    assert holdings.take(1) == [lease]
    holdings.add_begun(BegunJob(lease, 0.0))
    for one in (double, other):
        holdings.add_fetched(one)
    assert holdings.holds(double)
    assert holdings.take(9) == [other]
    holdings.remove([lease])
    assert holdings.take(9) == [double]


def test_double_of_a_job_in_flight_is_given_back_with_the_buffer() -> None:
    """A sender that stops gives back what it did not begin."""
    holdings = Holdings()
    lease, double = lease_of(), lease_of(stream="{email}:jobs:due")
    holdings.add_fetched(lease)
    holdings.take(1)
    holdings.add_begun(BegunJob(lease, 0.0))
    holdings.add_fetched(double)
    assert holdings.take_all() == [double]
    holdings.remove([lease])
    assert not holdings.waiting


def test_removing_a_job_wakes_and_counts_what_was_in_flight() -> None:
    """Only jobs in flight count as finished; the same entry id in another stream is another job."""
    holdings = Holdings()
    here, there = lease_of(), lease_of(stream="{email}:jobs:high")
    for lease in (here, there):
        holdings.add_fetched(lease)
    holdings.add_begun(BegunJob(here, 0.0))
    holdings.remove([here])
    holdings.remove([there])
    assert (holdings.finished, holdings.wake.is_set(), holdings.holds(there)) == (1, True, False)


@pytest.mark.parametrize(("send_s", "most"), [(1.0, 0), (0.1, 0), (0.001, 60)])
def test_only_fast_sends_are_begun_ahead(send_s: float, most: int) -> None:
    """With round trips of 6 ms in all and five workers, the queue is asked ahead only while sends are fast."""
    pace = Pace()
    for _ in range(200):
        pace.sent(send_s)
        pace.begun(0.004)
        pace.settled(0.002)
    assert pace.sends_per_round_trip(5) == pytest.approx(most / 2, abs=1)


def test_pace_follows_what_is_finished() -> None:
    """The measured pace is a hundred per second, however often it is observed."""
    pace = Pace()
    for step in range(1, 100):
        pace.observe(step * 10, 1000.0 + step * 0.1)
    assert pace.per_s == pytest.approx(100, rel=0.01)


async def test_begun_jobs_of_high_are_sent_first() -> None:
    """G6: a one-time password does not wait behind the bulk that was begun before it."""
    holdings = Holdings(pace=Pace(send_s=0.001))
    for index, lane in enumerate(["bulk", "high", "normal", "high"]):
        holdings.add_begun(BegunJob(lease_of(index, lane=lane), 0.0))
    assert holdings.next_begun_that_may_wait() is None  # one of `high` is next
    assert [(await holdings.next_begun()).lease.job.index for _ in range(3)] == [1, 3, 0]
    last = holdings.next_begun_that_may_wait()
    assert last is not None
    assert last.lease.job.index == 2
    assert holdings.ready.empty()
    assert holdings.next_begun_that_may_wait() is None


@pytest.mark.parametrize(
    ("change", "send_s"), [({"alone": True}, 0.001), ({"latest_start": 1.0}, 0.001), ({}, 1.0)],
    ids=["must be sent alone", "its start is spaced", "slow sends"],
)  # fmt: skip
def test_a_job_that_may_not_wait_is_left_to_a_free_worker(change: dict[str, Any], send_s: float) -> None:
    """It does not wait behind another on the same worker."""
    holdings = Holdings(pace=Pace(send_s=send_s))
    holdings.add_begun(BegunJob(lease_of(), 0.0, **change))
    assert holdings.next_begun_that_may_wait() is None
    assert holdings.ready.qsize() == 1


def test_jobs_of_a_partition_that_is_away_are_not_chosen() -> None:
    """Those held before and those that come meanwhile are set aside, and return to their places."""
    holdings = Holdings()
    leases = [lease_of(index) for index in range(6)]
    away = [replace(lease, stream=lease.stream.replace("{email}", "{email.1t}")) for lease in leases[:3]]
    suspect, first, later = away
    for lease in (suspect, first, *leases[3:]):
        holdings.buffer(lease)
    begun = holdings.take(2)
    assert begun == [suspect, first]
    holdings.add_suspect(suspect)
    holdings.set_aside(first)
    holdings.buffer(later)
    assert not holdings.suspects
    assert [lease.job.index for lease in holdings.take(9)] == [3, 4, 5]
    for lease in leases[3:]:
        holdings.put_back(lease)
    holdings.bring_back(first)
    assert not holdings.any_aside
    holdings.put_back(first)
    assert holdings.take_suspect() == [suspect]
    assert [lease.job.index for lease in holdings.take(9)] == [1, 3, 4, 5, 2]


def test_jobs_that_are_set_aside_are_given_back_with_the_others() -> None:
    """So the jobs that come later are set aside too."""
    holdings = Holdings()
    holdings.buffer(lease_of(0))
    holdings.set_aside(lease_of(1))
    assert not holdings.waiting
    assert holdings.take_all() == [lease_of(0)]
    holdings.buffer(lease_of(2))
    assert not holdings.waiting


async def test_job_goes_to_another_worker_if_the_one_that_it_woke_is_cancelled() -> None:
    """A wake-up is passed on: no job waits while a worker does."""
    ready = Holdings().ready
    first, second = (asyncio.create_task(ready.get()) for _ in range(2))
    await asyncio.sleep(0)
    ready.put(BegunJob(lease_of(), 0.0))
    first.cancel()
    assert (await second).lease.job.index == 0
    assert first.cancelled()


def test_a_job_that_is_alone_is_so_until_it_is_undecided_or_removed() -> None:
    """While a job must be sent alone, no other is begun."""
    holdings = Holdings()
    leases = [lease_of(index) for index in range(3)]
    for index, lease in enumerate(leases):
        holdings.add_begun(BegunJob(lease, 0.0, alone=index > 0))
    holdings.remove(leases[:1])
    assert holdings.any_alone()
    holdings.mark_undecided(leases[1])
    assert holdings.any_alone()
    holdings.remove(leases[1:])
    assert not holdings.any_alone()
