"""A rate that is set at run time while several senders send from several partitions at full speed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from shared.queue.batches import boot_name
from shared.queue.consumer import BeginRequest
from shared.queue.consumers import Consumers
from shared.queue.leases import Grant
from shared.settings import Rate
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider
from tests.integration.sending.running import SETTINGS, sending
from tests.integration.sending.test_partitions import spread
from tests.integration.sending.test_rate import most_in_any_second
from tests.servers import wait_for

__all__ = ["spread"]

FULL_SPEED = 400


@dataclass
class Begun:
    """Starts that senders were granted: by sender and job, when the begin was asked for, and what spaces the start."""

    starts: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """What the senders of a test were granted."""
    found = Begun()
    begin = Consumers.begin

    async def noted(
        self: Consumers, requests: Sequence[BeginRequest], now_ms: int, in_flight: int = 0, late_ms: int = 0
    ) -> list[Grant]:
        asked_at = asyncio.get_running_loop().time()
        grants = await begin(self, requests, now_ms, in_flight, late_ms)
        for request, grant in zip(requests, grants, strict=True):
            if grant.starts:
                found.starts[self.sender_id, request.lease.job_id] = (asked_at, grant.spaced)
        return grants

    monkeypatch.setattr(Consumers, "begin", noted)
    return found


@pytest.mark.timing
async def test_rate_set_at_full_speed_holds_once_it_is_set(spread: World, begun: Begun) -> None:
    """Four senders, four partitions: no sliding second sees more than ten of the jobs begun since, again and again."""
    await spread.given(6000)
    providers = {boot_name("email", f"s{number}"): FakeProvider() for number in range(4)}

    def count() -> int:
        return sum(len(provider.calls) for provider in providers.values())

    def since(moment: float) -> list[float]:
        """Return when jobs were sent whose begin was asked for after a moment."""
        calls = ((sender, job_id, at) for sender, provider in providers.items() for job_id, at in provider.calls)
        never = (0.0, "")
        return sorted(at for sender, job_id, at in calls if begun.starts.get((sender, job_id), never)[0] > moment)

    def count_since(moment: float) -> int:
        return len(since(moment))

    async with AsyncExitStack() as stack:
        for sender, provider in providers.items():
            await stack.enter_async_context(sending(spread, provider, replace(SETTINGS, sender_id=sender)))
        for _ in range(3):
            before = count()
            await wait_for(partial(has_sent, count, before + FULL_SPEED), 60, "full speed")
            await spread.control.set_rate("email", Rate(10, 1.0))
            answered = asyncio.get_running_loop().time()
            await wait_for(partial(has_sent, partial(count_since, answered), 12), 60, "messages in time")
            assert {how for asked_at, how in begun.starts.values() if asked_at > answered} == {"channel"}
            assert most_in_any_second(since(answered)) <= 10
            await spread.control.clear_rate("email")


def has_sent(count: Callable[[], int], least: int) -> bool:
    return count() >= least
