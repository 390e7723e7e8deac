"""Entries that went to another sender and came again: what was known of them before counts no more.

Found by the random mix: a sender cut off for a while still had a job in its buffer that another had tried meanwhile,
fetched it again, and began it as if it had never been tried, so that its blast counted it as retrying for ever.
"""

from __future__ import annotations

from shared.queue.leases import Lease
from tests.integration.queue.world import HandSender, World, eventually


async def _came_again(world: World) -> tuple[HandSender, Lease, Lease]:
    """A sender with a job that it fetched, lost to another who tried it, and fetched again: both leases of it."""
    cut_off, other = await world.sender("cut-off"), await world.sender("other")
    (stale,) = await cut_off.fetch(1)
    await world.reaper("other")._take("cut-off")
    (tried,) = await eventually(lambda: other.take(1), "the job at the other sender")
    assert await other.retry(tried, 0)
    (fresh,) = await eventually(lambda: cut_off.fetch(1), "the job to come again")
    assert (stale.deliveries, fresh.deliveries) == (1, 2)
    return cut_off, stale, fresh


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
