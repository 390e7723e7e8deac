"""Runs of refusals: a server that refuses every recipient pauses the channel, and an operator's resume ends its run."""

from __future__ import annotations

import pytest

from shared.queue.refusals import Refusals, Refused
from tests.integration.queue.world import World

PARTITIONS = (4,)

MOST = 3


def refused(number: int, server: str = "mx") -> Refused:
    """Return the refusal of one of a server's recipients, which does not suppress its address."""
    return Refused(server, "550", f"r{number}@example.com", "", "everybody is refused")


@pytest.fixture
def refusals(world: World) -> Refusals:
    return Refusals(world.partition, "s")


async def complete_a_run(refusals: Refusals) -> None:
    """Let a server refuse recipients until the channel is paused."""
    words = [await refusals.count(refused(number), MOST, alone=True) for number in range(MOST)]
    assert words == ["hold"] * (MOST - 1) + ["stop"]


async def test_a_run_keeps_its_recipients_until_the_resume(world: World, refusals: Refusals) -> None:
    """While it pauses the channel, refused messages are given back; after the resume these verdicts count."""
    await complete_a_run(refusals)
    assert (await world.control.channel_stats("email")).pause_reason == "everybody is refused"
    assert await refusals.count(refused(7), MOST, alone=True) == "back"
    assert await refusals.check(refused(0), 60.0) == "back"
    await world.control.resume_channel("email")
    assert await refusals.count(refused(7), MOST, alone=True) == "final"
    assert await refusals.check(refused(0), 60.0) == "final"


async def test_after_a_resume_other_recipients_make_a_run_again(world: World, refusals: Refusals) -> None:
    """A server that still refuses everyone pauses the channel again."""
    await complete_a_run(refusals)
    await world.control.resume_channel("email")
    words = [await refusals.count(refused(10 + number), MOST, alone=True) for number in range(MOST)]
    assert words == ["hold"] * (MOST - 1) + ["stop"]
    assert (await world.control.channel_stats("email")).pause_reason


async def test_a_pause_by_hand_ends_no_count(world: World, refusals: Refusals) -> None:
    """Refusals of messages in flight at a pause count towards the run, as those before and after it."""
    assert await refusals.count(refused(0), MOST, alone=True) == "hold"
    await world.control.pause_channel("email", "by hand")
    assert await refusals.count(refused(1), MOST, alone=True) == "hold"
    await world.control.resume_channel("email")
    assert await refusals.count(refused(2), MOST, alone=True) == "stop"


async def test_a_server_set_aside_keeps_only_its_own(world: World, refusals: Refusals) -> None:
    """While other servers are left, a run sets its server aside and pauses nothing; another server's refusals count."""
    words = [await refusals.count(refused(number), MOST, alone=False) for number in range(MOST)]
    assert words == ["hold"] * (MOST - 1) + ["stop"]
    assert not (await world.control.channel_stats("email")).pause_reason
    assert await refusals.count(refused(7), MOST, alone=False) == "aside"
    assert await refusals.count(refused(8, "other"), MOST, alone=False) == "hold"


async def test_fewer_recipients_pause_nothing(world: World, refusals: Refusals) -> None:
    """A recipient counts once, however often it is refused; the only server that is left continues meanwhile."""
    for number in (0, 1, 0, 1, 0):
        assert await refusals.count(refused(number), MOST, alone=True) == "hold"
        assert not (await world.control.channel_stats("email")).pause_reason
    assert await refusals.check(refused(0), 60.0) == "hold"
    assert await refusals.check(refused(0), 0.0) == "final"


async def test_a_server_set_aside_pauses_once_it_is_the_last(world: World, refusals: Refusals) -> None:
    """When no other server is left, its run pauses the channel, and its recipients are given back until the resume."""
    for number in range(MOST):
        await refusals.count(refused(number), MOST, alone=False)
    assert await refusals.count(refused(7), MOST, alone=True) == "back"
    assert (await world.control.channel_stats("email")).pause_reason == "everybody is refused"
    await world.control.resume_channel("email")
    assert await refusals.count(refused(7), MOST, alone=True) == "final"
    assert not (await world.control.channel_stats("email")).pause_reason
