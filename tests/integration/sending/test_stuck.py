"""A sender ends itself only for a send that lasts longer than all its time-outs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import pytest

from shared.clock import SystemClock
from shared.lifecycle import Stop
from shared.queue.leases import Move
from shared.sending.keeper import StuckError
from shared.sending.loop import SendingLoop
from shared.sending.provider import Receipt, RenderedMessage
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts, accept
from tests.integration.sending.running import SETTINGS
from tests.servers import wait_for


@dataclass
class MuchLater(SystemClock):
    """A clock that runs an hour ahead."""

    def monotonic(self) -> float:
        return time.monotonic() + 3600


async def test_only_what_is_being_sent_can_be_stuck(world: World) -> None:
    """A hanging send is detected; a sent job waits to be settled for as long as Redis is away (attacks G2)."""
    await world.given(1)
    answer, settlements = asyncio.Event(), list[Move]()

    async def hang(message: RenderedMessage) -> Receipt:
        await answer.wait()
        return await accept(message)

    provider = FakeProvider(hang)
    loop: SendingLoop[RenderedMessage] = SendingLoop(
        world.redis, provider, replace(SETTINGS, sender_id="patient"), RememberedAttempts()
    )
    settle = loop._settler.add
    loop._settler.add = settlements.append  # type: ignore[assignment,method-assign]
    stop = Stop()
    running = asyncio.create_task(loop.run(stop))
    await wait_for(lambda: len(provider.calls) == 1, what="the send")
    with pytest.raises(StuckError):
        loop._shares.each[0].keeper._check_stuck(MuchLater())
    answer.set()
    await wait_for(lambda: len(settlements) == 1, what="its outcome")
    loop._shares.each[0].keeper._check_stuck(MuchLater())
    settle(settlements[0])
    stop.set()
    await running
