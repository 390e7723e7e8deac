"""The witness of the fault tests counts jobs, and does not rely on counters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.jobs import unpack_job
from tests.faults.checks import Checks
from tests.faults.queue_view import Holding, QueueView
from tests.integration.queue.world import World


@pytest.fixture
async def view(world: World) -> AsyncIterator[QueueView]:
    """The witness counts a queue of 150 jobs, of which two are being sent and one waits for a retry."""
    await world.given(20)
    await world.given(130, "bulk")
    sender = await world.sender()
    first, _, _ = await sender.take(3)
    assert await sender.retry(first, 60_000)
    looking = QueueView(world.url)
    yield looking
    await looking.close()


async def violations(view: QueueView) -> int:
    checks = Checks()
    await view.check_balance(checks)
    assert checks.done["G4"] == 6
    return len(checks.violations)


async def test_a_consistent_queue_passes(view: QueueView) -> None:
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
async def test_every_inconsistency_is_found(view: QueueView, harm: list[str]) -> None:
    """The witness finds vanished jobs, false ends, a wrong gauge, and a retry that no sender would take."""
    await view.redis.execute_command(*harm)  # type: ignore[no-untyped-call]
    assert await violations(view) > 0
    assert await view.findings() != []


@pytest.mark.parametrize("lane", ["high", "normal", "due", "high:released", "released", "bulk:b"])
async def test_entries_held_in_any_stream_are_found(world: World, lane: str) -> None:
    """The oracle of the fault tests finds a sender's jobs in each stream, those that a limit released included."""
    view = QueueView(world.url)
    await world.given(2)
    redis: Any = world.redis
    packed = [fields[b"d"] for _, fields in await redis.xrange("{email}:jobs:normal")]
    stream = f"{{email}}:jobs:{lane}"
    await redis.delete("{email}:jobs:normal")
    for raw in packed:
        await redis.xadd(stream, {"d": raw})
    await redis.xgroup_create(stream, "senders", "0")
    for kind in ("buf", "tx"):
        await redis.xreadgroup("senders", f"email-vm-77-f:{kind}", {stream: ">"}, count=1)
    held = await view.holding(77)
    ids = [unpack_job(raw).job_id for raw in packed]
    assert held == Holding(frozenset({ids[0]}), frozenset({ids[1]}))
    assert set(await view.runs()) == set(ids)
    await view.close()
