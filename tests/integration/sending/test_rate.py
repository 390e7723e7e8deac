"""The channel's rate, over all senders together, as the provider sees it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from shared.sending.provider import Receipt, RenderedMessage
from shared.settings import Rate
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, accept
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import wait_for

TEN_A_SECOND = replace(SETTINGS, rate=Rate(10, 1.0))


def most_in_any_second(times: Sequence[float]) -> int:
    """Return the largest number within one sliding second."""
    ordered = sorted(times)
    return max(sum(1 for later in ordered[at:] if later - first < 1.0) for at, first in enumerate(ordered))


@pytest.mark.timing
async def test_never_more_than_ten_in_any_second_at_the_provider(world: World) -> None:
    """Four senders, each start delayed by 0 to 40 ms: at most ten in any sliding second, and not many fewer."""
    jitter = random.Random(7)
    arrivals: list[float] = []

    async def behave(message: RenderedMessage) -> Receipt:
        arrivals.append(time.monotonic() + jitter.uniform(0, 0.040))
        return await accept(message)

    await world.given(500)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(sending(world, FakeProvider(behave), TEN_A_SECOND))
        await wait_for(lambda: len(arrivals) >= 50, 12, "50 messages")
    assert most_in_any_second(arrivals) <= 10
    assert 49 / (arrivals[49] - arrivals[0]) > 7.5


async def test_rate_changes_at_once_for_all_senders(world: World) -> None:
    """From one in ten minutes to a thousand a second: the next message does not wait for the old rate."""
    await world.control.set_rate("email", Rate(1, 600.0))
    await world.given(100)
    provider = FakeProvider()
    async with sending(world, provider):
        await wait_for(lambda: len(provider.calls) == 1, 5, "the first")
        await world.control.set_rate("email", Rate(1000, 1.0))
        await wait_for(lambda: len(provider.calls) == 100, 5, "all others")
        assert (await world.control.channel_stats("email")).rate == ("1000/1s", "api")


async def test_start_that_comes_too_late_for_the_rate_is_given_back(world: World) -> None:
    """A delayed sender does not send the jobs that it had been granted: others have been granted starts since."""
    blast = await world.given(1)
    strict = replace(TEN_A_SECOND, timing=replace(TEN_A_SECOND.timing, late_start_ms=-1000))
    provider = FakeProvider()
    async with sending(world, provider, strict) as observer:

        async def was_returned() -> bool:
            return (await world.progress(blast)).counts["queued"] == 1 and await untried() > 0

        async def untried() -> int:
            return sum(getattr(event, "error_class", "") == "untried" for event in await world.written())

        await wait_for(was_returned, 5, "the job to be given back")
    assert provider.calls == []
    assert observer.attempts == []
