"""Entries that went to another sender and came again: what was known of them before counts no more.

Found by the random mix: a sender cut off for a while still had a job in its buffer that another had tried meanwhile,
fetched it again, and began it as if it had never been tried, so that its blast counted it as retrying for ever.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.queue.leases import Lease, Move, awaiting, dropped
from tests.integration.queue.world import HandSender, World, eventually


async def _reap(world: World, cut_off: HandSender) -> None:
    """Take from a sender what it holds, as after a lapse of its lease, which it renews at once."""
    await world.redis.delete(f"{{email}}:sender:{cut_off.name}")
    await world.reaper("other")._take(cut_off.name)
    await cut_off.consumer.heartbeat({})


async def _came_again(world: World) -> tuple[HandSender, Lease, Lease]:
    """A sender with a job that it fetched, lost to another who tried it, and fetched again: both leases of it."""
    cut_off, other = await world.sender("cut-off"), await world.sender("other")
    (stale,) = await cut_off.fetch(1)
    await _reap(world, cut_off)
    (tried,) = await eventually(lambda: other.take(1), "the job at the other sender")
    assert await other.retry(tried, 0)
    (fresh,) = await eventually(lambda: cut_off.fetch(1), "the job to come again")
    assert (stale.deliveries, fresh.deliveries) == (1, 2)
    return cut_off, stale, fresh


async def test_answer_of_a_lost_attempt_is_told_late_where_its_job_came_again(world: World) -> None:
    """What waits in the buffer is not what was accepted: the answer counts once, and the job is not sent again."""
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
    """Only what the sender knows to be the second attempt is begun, and the counts are right at the end."""
    blast = await world.given(1)
    cut_off, stale, fresh = await _came_again(world)
    assert [grant.kind for grant in await cut_off.begin([stale])] == ["lost"]
    assert [grant.kind for grant in await cut_off.begin([fresh])] == ["granted"]
    assert await cut_off.finish(fresh) == [True]
    counts = (await world.progress(blast)).counts
    assert {name: n for name, n in counts.items() if n} == {"sent": 1}


async def test_stale_lease_is_given_back_with_the_attempts_that_were_made(world: World) -> None:
    """Whoever fetches it next makes the second attempt, not another first one."""
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
    """Refused at its first begin and settled late it would end a job that waits for its second attempt by now."""
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
    """A move to a limit's list, or a drop, settled late leaves the entry where it came again, with its attempts."""
    blast = await world.given(1)
    cut_off, stale, fresh = await _came_again(world)
    assert await cut_off.consumer.settle([move(stale)]) == [False]
    await world.check_balance(blast)
    assert [grant.kind for grant in await cut_off.begin([fresh])] == ["granted"]
    assert await cut_off.finish(fresh) == [True]
    await world.check_balance(blast)


@pytest.mark.parametrize("how", ["ended", "retried", "given back"])
async def test_stale_lease_leaves_what_was_begun_anew(world: World, how: str) -> None:
    """What is said late of an attempt that is not the one in flight does not take it from the task that sends it."""
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
