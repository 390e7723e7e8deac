"""The channel's rate, over all senders together, as the provider sees it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.queue.consumer import BeginPolicy, BeginRequest
from shared.queue.leases import Lease
from shared.sending.provider import Capacity, Receipt, RenderedMessage, Start, at_once
from shared.sending.settings import SendingSettings
from shared.settings import Rate
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, accept
from tests.integration.sending.running import SETTINGS, sending, slow_answers
from tests.servers import wait_for

TEN_A_SECOND = replace(SETTINGS, rate=Rate(10, 1.0))
FIVE = Rate(5, 0.5)


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


QUICK = Rate(200, 0.1)


class _FiveConnections(FakeProvider):
    """Sends at once over one of five connections."""

    busy = 0
    lasting = 5

    async def send(self, message: RenderedMessage, start: Start = at_once) -> Receipt:
        self.busy += 1
        try:
            return await super().send(message, start)
        finally:
            self.busy -= 1
            self.changed()

    def capacity(self, wanted: int = 0) -> Capacity:
        del wanted
        return Capacity(5 - self.busy, connections=5, lasting=self.lasting)


async def _most_between_calls(
    world: World, count: int, provider: _FiveConnections, journal_dir: Path | None, on_uncertain: str = "resend"
) -> int:
    """Send messages with answers to `begin` that take 10 ms; return how many were sent between two calls, at most."""
    await world.given(count, "bulk")
    sent = [0]

    def delay_s() -> float:
        sent.append(len(provider.calls))
        return 0.01

    far = replace(world, redis=slow_answers(world.redis, delay_s))
    settings = replace(SETTINGS, rate=QUICK, journal_dir=journal_dir, on_uncertain=on_uncertain)
    async with sending(far, provider, settings):
        await wait_for(lambda: len(provider.calls) == count, what="every message")
    return max(late - early for early, late in itertools.pairwise(sent))


async def test_one_call_grants_what_few_connections_will_send_soon(world: World, tmp_path: Path) -> None:
    """More starts than connections where sends are quick: round trips to Redis do not decide the rate.

    The provider never sees more than the limit in its period.
    """
    provider = _FiveConnections()
    assert await _most_between_calls(world, 600, provider, tmp_path) >= 15
    times = [at for _, at in provider.calls]
    assert min(late - early for early, late in zip(times, times[200:], strict=False)) >= 0.1


async def test_no_start_is_granted_for_a_connection_that_must_rest(world: World, tmp_path: Path) -> None:
    """Where a server's own rate decides when a connection may send again, each free one gets a single start."""
    provider = _FiveConnections()
    provider.lasting = 0
    assert await _most_between_calls(world, 100, provider, tmp_path) <= 10


@pytest.mark.parametrize(("journal", "on_uncertain"), [(False, "resend"), (True, "hold")])
async def test_no_start_is_granted_ahead_for_a_job_that_would_become_uncertain(
    world: World, tmp_path: Path, journal: bool, on_uncertain: str
) -> None:
    """Without a journal, or where uncertain jobs are held, only a job with a free connection is begun."""
    provider = _FiveConnections()
    assert await _most_between_calls(world, 100, provider, tmp_path if journal else None, on_uncertain) <= 10


@pytest.mark.timing
async def test_few_connections_reach_a_high_rate(world: World, tmp_path: Path) -> None:
    """With answers that take 10 ms, five connections send more than one call for each five could ever start."""
    provider = _FiveConnections()
    await _most_between_calls(world, 600, provider, tmp_path)
    times = [at for _, at in provider.calls]
    assert 400 / (times[599] - times[199]) > 0.5 * 200 / 0.18


async def untried(world: World) -> int:
    """Return how many jobs were given back before their start."""
    return sum(getattr(event, "error_class", "") == "untried" for event in await world.written())


async def test_rate_changes_at_once_for_all_senders(world: World) -> None:
    """From one in ten minutes to a thousand a second: the next message does not wait for the old rate."""
    await world.control.set_rate("email", Rate(1, 600.0))
    await world.given(100)
    provider = FakeProvider()
    async with sending(world, provider):

        async def used_the_old_rate() -> bool:
            """On a busy machine the one start may come too late and be given back; the rate has counted it."""
            return len(provider.calls) == 1 or await untried(world) == 1

        await wait_for(used_the_old_rate, 30, "the first")
        await world.control.set_rate("email", Rate(1000, 1.0))
        await wait_for(lambda: len(provider.calls) == 100, what="all others")
        assert (await world.control.channel_stats("email")).rate == ("1000/1s", "api")


async def test_start_that_comes_too_late_for_the_rate_is_given_back(world: World) -> None:
    """A delayed sender does not send the jobs that it had been granted: others have been granted starts since."""
    blast = await world.given(1)
    strict = replace(TEN_A_SECOND, timing=replace(TEN_A_SECOND.timing, late_start_ms=-2000))
    provider = FakeProvider()
    async with sending(world, provider, strict) as observer:

        async def was_returned() -> bool:
            return (await world.progress(blast)).counts["queued"] == 1 and await untried(world) > 0

        await wait_for(was_returned, what="the job to be given back")
    assert provider.calls == []
    assert observer.attempts == []


_random = random.Random(13)
DELAYS: dict[str, Callable[[], float]] = {
    "by 60 ms": lambda: 0.06,
    "by 300 ms": lambda: 0.3,
    "by anything up to 200 ms": lambda: _random.uniform(0, 0.2),
}


async def take_a_while(message: RenderedMessage) -> Receipt:
    """Take 0.3 s, so that a quick sender leaves starts to the others."""
    await asyncio.sleep(0.3)
    return await accept(message)


async def send_from_near_and_far(world: World, settings: SendingSettings, delay_s: Callable[[], float]) -> None:
    """Check that two senders, one of which gets its grants late, keep to 5 in any half second, and that both send."""
    await world.given(200, "bulk")
    far_world = replace(world, redis=slow_answers(world.redis, delay_s))
    near, far = FakeProvider(take_a_while), FakeProvider()

    def times() -> list[float]:
        return sorted(at for provider in (near, far) for _, at in provider.calls)

    async with sending(world, near, replace(settings, concurrency=1)), sending(far_world, far, settings):
        await wait_for(
            lambda: len(times()) >= 40 and min(len(near.calls), len(far.calls)) >= 3, what="forty messages of both"
        )
    seen = times()
    assert min(late - early for early, late in zip(seen, seen[5:], strict=False)) >= 0.5
    assert (len(seen) - 1) / (seen[-1] - seen[0]) > 2


@pytest.mark.parametrize("own", [True, False], ids=["the setting", "a rate set at run time"])
@pytest.mark.parametrize("delay", DELAYS)
async def test_sender_whose_answers_are_late_sends_within_the_rate(world: World, delay: str, own: bool) -> None:
    """The provider sees at most the rate in any sliding period, each sender sends, and the rate is used."""
    if not own:
        await world.control.set_rate("email", FIVE)
    await send_from_near_and_far(world, replace(SETTINGS, rate=FIVE if own else None), DELAYS[delay])


async def test_limit_of_a_domain_allows_for_what_the_rate_lets_be_late(world: World) -> None:
    """Where the channel's rate and a domain's limit space the same starts, late ones keep both."""
    both = replace(SETTINGS, rate=Rate(10, 0.5), domain_rates={"example.com": FIVE})
    await send_from_near_and_far(world, both, lambda: 0.2)


async def test_sender_far_from_its_redis_is_not_stuck(world: World) -> None:
    """The only sender of a channel with a rate sends although each answer takes 150 ms, with few starts given back."""
    blast = await world.given(12)
    far = replace(world, redis=slow_answers(world.redis, lambda: 0.15))
    provider = FakeProvider()
    async with sending(far, provider, TEN_A_SECOND):
        await wait_for(lambda: len(provider.calls) == 12, what="every message")
    assert len({job_id for job_id, _ in provider.calls}) == 12
    untried = sum(getattr(event, "error_class", "") == "untried" for event in await world.written())
    assert untried <= 4
    await world.check_balance(blast)


async def test_only_starts_that_may_be_late_cost_the_channel_more(both: World) -> None:
    """While a start that may be 2 s late matters, each start takes its share of them: a tenth at ten in a period."""
    sender = await both.sender(policy=BeginPolicy(gap_us=60_000_000, starts=10))
    await both.given(6)
    leases = await sender.fetch(6)
    shares: list[float] = []
    took: list[float] = []  # by which the next start may have come nearer, on a busy machine

    async def start(late_ms: int) -> None:
        """Begin one job, and note by how much the next start is later than its gap."""
        began = time.monotonic()
        await both.redis.delete("{email}:limit")
        granted = await sender.consumer.begin([begin_request(leases.pop())], 0, 0, late_ms)
        (refused,) = await sender.consumer.begin([begin_request(leases[0])], 0)
        assert [granted[0].spaced, refused.kind] == ["channel", "limited"]
        took.append(time.monotonic() - began)
        shares.append(refused.after_us / 1e6 + 0.1 - (await gap_us()) / 1e6)

    async def gap_us() -> int:
        return (await both.control.channel_stats("email")).rate_gap_us or 60_000_000

    before_s = time.time()
    await start(0)
    await start(2000)
    await start(0)
    await both.control.set_rate("email", Rate(2, 120.0))
    await start(0)
    known: Any = await both.redis.zrange("{email}:limits:late:", 0, -1, withscores=True)
    assert [late for late, _ in known] == [b"2000000"]
    assert before_s + 601 <= known[0][1] / 1e6 <= time.time() + 603
    await both.redis.zadd("{email}:limits:late:", {known[0][0]: 1})
    await start(0)
    expected = [0, 0.2, 0.2, 1, 0]
    assert all(low - 0.05 <= one <= low + s + 0.05 for low, s, one in zip(shares, took, expected, strict=True))


def begin_request(lease: Lease) -> BeginRequest:
    return BeginRequest(lease)
