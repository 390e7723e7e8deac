"""Entries that went to another sender and came back: earlier leases of them no longer count.

The random mix found this case: a sender that was cut off for a while still had a job in its buffer that another sender
had tried. It fetched the job again and began it as if it had not been tried, so its blast counted it as retrying
forever.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.queue.leases import Lease, Move, awaiting, dropped
from tests.integration.queue.world import HandSender, World, eventually

PARTITIONS = (4,)
CLUSTER = True


async def _reap(world: World, cut_off: HandSender) -> None:
    """Take a sender's entries, as after a lapse of its heartbeat, which it renews immediately."""
    await world.redis.delete(f"{{email}}:sender:{cut_off.name}")
    await world.reaper("other")._take(cut_off.name)
    await cut_off.consumer.heartbeat({})


async def _came_again(world: World) -> tuple[HandSender, Lease, Lease]:
    """A job that a sender fetched, lost to another sender that tried it, and fetched again: its two leases."""
    cut_off, other = await world.sender("cut-off"), await world.sender("other")
    (stale,) = await cut_off.fetch(1)
    await _reap(world, cut_off)
    (tried,) = await eventually(lambda: other.take(1), "the job at the other sender")
    assert await other.retry(tried, 0)
    (fresh,) = await eventually(lambda: cut_off.fetch(1), "the job to come again")
    assert (stale.deliveries, fresh.deliveries) == (1, 2)
    return cut_off, stale, fresh


async def test_answer_of_a_lost_attempt_is_late_if_its_job_came_back(world: World) -> None:
    """The acceptance is of the earlier lease: it counts once, and the buffered job is not sent again."""
    blast = await world.given(1)
    cut_off, _ = await world.sender("cut-off"), await world.sender("other")
    (begun,) = await cut_off.take(1)
    await _reap(world, cut_off)
    (fresh,) = await eventually(lambda: cut_off.fetch(1), "the job to come again")
    assert await cut_off.finish(begun) == [False]
    await world.check_balance(blast)
    assert await cut_off.late(begun)
    assert [grant.kind for grant in await cut_off.begin([fresh])] == ["lost"]
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}
    await world.check_balance(blast)


def beyond_its_limit(lease: Lease) -> Move:
    return awaiting(lease, "example.com 54000 1 n")


async def test_stale_lease_begins_nothing(world: World) -> None:
    """Only the lease of the second attempt is begun, and the counts are right at the end."""
    blast = await world.given(1)
    cut_off, stale, fresh = await _came_again(world)
    assert [grant.kind for grant in await cut_off.begin([stale])] == ["lost"]
    assert [grant.kind for grant in await cut_off.begin([fresh])] == ["granted"]
    assert await cut_off.finish(fresh) == [True]
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}


async def test_stale_lease_is_given_back_with_the_attempts_that_were_made(world: World) -> None:
    """The next sender makes the second attempt, not another first one."""
    blast = await world.given(1)
    cut_off, stale, _ = await _came_again(world)
    assert await cut_off.give_back(stale)
    next_sender = await world.sender("next")
    (lease,) = await eventually(lambda: next_sender.take(1), "the job given back")
    assert lease.attempt == 2
    assert await next_sender.finish(lease) == [True]
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}


async def test_stale_lease_ends_nothing(world: World) -> None:
    """A late settle of a refused begin must not end the job, which now waits for its second attempt."""
    blast = await world.given(1)
    cut_off, stale, fresh = await _came_again(world)
    assert not await cut_off.end(stale, "expired", "expired")
    await world.check_balance(blast)
    assert await cut_off.end(fresh, "expired", "expired")
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"expired": 1}
    await world.check_balance(blast)


@pytest.mark.parametrize("move", [beyond_its_limit, dropped], ids=["beyond its limit", "dropped"])
async def test_stale_lease_moves_nothing(world: World, move: Callable[[Lease], Move]) -> None:
    """A late move to a limit's list, or a late drop, leaves the returned entry in place, with its attempts."""
    blast = await world.given(1)
    cut_off, stale, fresh = await _came_again(world)
    assert await cut_off.consumer.settle([move(stale)]) == [False]
    await world.check_balance(blast)
    assert [grant.kind for grant in await cut_off.begin([fresh])] == ["granted"]
    assert await cut_off.finish(fresh) == [True]
    await world.check_balance(blast)


@pytest.mark.parametrize("how", ["ended", "retried", "given back"])
async def test_stale_lease_leaves_a_job_that_was_begun_again(world: World, how: str) -> None:
    """A late outcome of an earlier attempt does not take the job from the task that sends it now."""
    blast = await world.given(1)
    cut_off, stale, fresh = await _came_again(world)
    assert [grant.kind for grant in await cut_off.begin([fresh])] == ["granted"]
    if how == "ended":
        assert not await cut_off.end(stale, "expired", "expired")
    elif how == "retried":
        assert not await cut_off.retry(stale, 0)
    else:
        assert not await cut_off.give_back(stale)
    await world.check_balance(blast)
    assert await cut_off.finish(fresh) == [True]
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}
