"""The witness of the fault tests counts jobs, and does not rely on counters."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.faults.checks import Checks
from tests.faults.queue_view import QueueView
from tests.integration.queue.world import World


@pytest.fixture
async def view(world: World, redis_url: str) -> AsyncIterator[QueueView]:
    """The witness counts a queue of 150 jobs, of which two are being sent and one waits for a retry."""
    await world.given(20)
    await world.given(130, "bulk")
    sender = await world.sender()
    first, _, _ = await sender.take(3)
    assert await sender.retry(first, 60_000)
    looking = QueueView(redis_url)
    yield looking
    await looking.close()


async def violations(view: QueueView) -> int:
    checks = Checks()
    await view.check_balance(checks)
    assert checks.done["G4"] == 6
    return len(checks.violations)


async def test_a_sound_queue_is_sound(view: QueueView) -> None:
    """The queue is consistent, and the doctor agrees."""
    assert await violations(view) == 0
    assert await view.findings() == []


@pytest.mark.parametrize(
    "harm",
    [
        ["DEL", "{email}:jobs:normal"],
        ["HINCRBY", "{email}:counters", "sent", "7"],
        ["HINCRBY", "{email}:gauges", "processing", "1"],
        ["DEL", "{email}:parked"],
    ],
)
async def test_every_harm_is_seen(view: QueueView, harm: list[str]) -> None:
    """The witness finds vanished jobs, false ends, a wrong gauge, and a retry that no sender would take."""
    await view.redis.execute_command(*harm)  # type: ignore[no-untyped-call]
    assert await violations(view) > 0
    assert await view.findings() != []
