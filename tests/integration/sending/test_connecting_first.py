"""A sender begins a job only when a connection is open to send it on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from shared.errors import StopChannelError
from shared.sending.provider import Capacity
from shared.settings import Rate
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import wait_for

NOTHING_OPEN = Capacity(0, connections=0)


@dataclass
class RefusedFake(FakeProvider):
    """Cannot open a connection until an operator acts."""

    def capacity(self, wanted: int = 0) -> Capacity:
        if wanted:
            raise StopChannelError("AUTH refused", code="535", reply="535 wrong password")
        return NOTHING_OPEN


async def test_nothing_is_begun_without_an_open_connection(world: World) -> None:
    """The provider learns how many are wanted; once they are open, all jobs are sent without waiting for a poll."""
    blast = await world.given(20)
    provider = FakeProvider(offers=NOTHING_OPEN)
    async with sending(world, provider):
        await wait_for(lambda: provider.wanted >= 1, what="a connection to be wanted")
        stats = await world.control.channel_stats("email")
        assert (stats.active, stats.waiting) == (0, 20)
        provider.offers = Capacity(5, connections=5)
        provider.changed()

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 20

        await wait_for(all_sent, what="all to be sent")
    assert not [event for event in await world.written() if getattr(event, "error_class", "") == "untried"]


@pytest.mark.timing
async def test_waiting_for_a_connection_takes_no_start_from_other_senders(world: World) -> None:
    """One of two senders has no connection: the other uses all starts that the rate allows."""
    await world.control.set_rate("email", Rate(50, 1.0))
    await world.given(40)
    slow, quick = FakeProvider(offers=NOTHING_OPEN), FakeProvider()
    async with sending(world, slow):
        await wait_for(lambda: slow.wanted >= 1, 10, "the slow one to want a connection")
        async with sending(world, quick):
            await wait_for(lambda: len(quick.calls) >= 39, 10, "the quick one to send")
        assert slow.calls == []
        first, last = quick.calls[0][1], quick.calls[38][1]
        assert 38 / (last - first) > 25
        assert int(await world.redis.zcard("{email}:ring")) <= 1


async def test_few_connections_mean_few_jobs_begun(world: World) -> None:
    """While one connection of five is open, only as many jobs are begun as it can soon send."""
    await world.given(100)
    provider = FakeProvider(offers=Capacity(1, connections=1))
    most = 0
    async with sending(world, provider, replace(SETTINGS, window=2)):

        async def sent() -> bool:
            nonlocal most
            most = max(most, (await world.control.channel_stats("email")).active)
            return len(provider.calls) == 100

        await wait_for(sent, what="all to be sent")
    assert most <= 2


async def test_refused_log_in_pauses_the_channel_before_anything_is_begun(world: World) -> None:
    """A wrong password is detected without failing a job."""
    await world.given(3)
    async with sending(world, RefusedFake()) as observer:

        async def reason() -> str:
            return (await world.control.channel_stats("email")).pause_reason

        assert "535 wrong password" in await wait_for(reason, what="the channel to be paused")
    assert observer.attempts == []
    assert (await world.control.channel_stats("email")).waiting == 3
    await world.check_balance()
