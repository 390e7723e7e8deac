"""Limits of a domain or a recipient: bookings and bursts, decided by the queue's scripts on both servers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from shared.queue.consumer import BeginRequest
from shared.queue.leases import Grant, Lease, booked, parked
from shared.sending.outcomes import processing_event
from tests.integration.queue.world import HandSender, World, eventually, open_world

GAP_US = 6_000_000


@pytest.fixture
async def both(redis_url: str) -> AsyncIterator[World]:
    """An empty queue, once on Valkey and once on Redis."""
    world = open_world(redis_url)
    yield world
    await world.redis.aclose()


async def begin_limited(sender: HandSender, leases: Sequence[Lease], gap_us: int, burst: int) -> list[Grant]:
    """Begin jobs that all fall under one limit."""
    return await sender.consumer.begin(
        [
            BeginRequest(
                lease, processing_event(lease, 0, sender.name), limit="62812", limit_gap_us=gap_us, limit_burst=burst
            )
            for lease in leases
        ]
    )


async def test_a_burst_goes_at_once_and_the_rest_is_booked(both: World) -> None:
    """Of ten messages to one recipient, four start at once; the others are booked 6 s apart, in their order."""
    await both.given(10)
    sender = await both.sender()
    grants = await begin_limited(sender, await sender.fetch(10), GAP_US, 4)
    now_ms = time.time() * 1000
    assert [grant.kind for grant in grants] == ["granted"] * 4 + ["booked"] * 6
    waits_s = [(grant.until_ms - now_ms) / 1000 for grant in grants[4:]]
    assert waits_s == pytest.approx([6, 12, 18, 24, 30, 36], abs=1)


async def test_a_burst_is_shared_by_all_senders(both: World) -> None:
    """What one sender used of the burst is gone for the other."""
    await both.given(4)
    one, two = await both.sender(), await both.sender()
    grants = await begin_limited(one, await one.fetch(2), GAP_US, 3)
    grants += await begin_limited(two, await two.fetch(2), GAP_US, 3)
    assert [grant.kind for grant in grants] == ["granted", "granted", "granted", "booked"]


async def test_a_booked_start_serves_for_one_attempt(both: World) -> None:
    """A booked job begins without a second booking; its retry is held to the limit again."""
    await both.given(3)
    sender = await both.sender()
    leases = await sender.fetch(3)
    grants = await begin_limited(sender, leases, 500_000, 1)
    assert [grant.kind for grant in grants] == ["granted", "booked", "booked"]
    await sender.consumer.settle([booked(leases[1], grants[1].until_ms)])
    (later,) = await eventually(lambda: sender.fetch(1), "the booked job")
    assert [grant.kind for grant in await begin_limited(sender, [later], 500_000, 1)] == ["granted"]
    assert await sender.consumer.settle([parked(later, b"", 1)]) == [True]
    (again,) = await eventually(lambda: sender.fetch(1), "the retry")
    assert (again.job_id, again.attempt) == (later.job_id, 2)
    assert [grant.kind for grant in await begin_limited(sender, [again], 500_000, 1)] == ["booked"]


async def test_missed_bookings_do_not_start_all_at_once(both: World) -> None:
    """Jobs that a pause kept past their booked starts are booked anew, one behind the other."""
    await both.given(4)
    sender = await both.sender()
    leases = [
        msgspec.structs.replace(lease, job=msgspec.structs.replace(lease.job, booked_for_ms=1))
        for lease in await sender.fetch(4)
    ]
    grants = await begin_limited(sender, leases, 1_000_000, 1)
    assert [grant.kind for grant in grants] == ["granted", "booked", "booked", "booked"]
