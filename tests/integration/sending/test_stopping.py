"""How a sender stops."""

from __future__ import annotations

import asyncio

from shared.lifecycle import Stop
from shared.sending.loop import SendingLoop
from shared.sending.provider import RenderedMessage
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts
from tests.integration.sending.running import SETTINGS
from tests.servers import PATIENCE_S, wait_for


class _DeafBell:
    """A bell that swallows the first cancellation, as `asyncio.wait_for` may up to Python 3.11."""

    def __init__(self) -> None:
        self.swallowed = 0
        self.waiting = False

    async def wait(self, block_ms: int) -> bool:
        del block_ms
        self.waiting = True
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.swallowed += 1
            if self.swallowed > 1:
                raise
        return False


async def test_sender_leaves_though_a_cancellation_was_swallowed(world: World) -> None:
    """CPython gh-86296: the Redis client can lose a cancellation; the sender must not wait forever for that task."""
    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, FakeProvider(), SETTINGS, RememberedAttempts())
    bell = _DeafBell()
    loop._shares.each[0].wake_ups = bell  # type: ignore[assignment]
    stop = Stop()
    running = asyncio.create_task(loop.run(stop))
    await wait_for(lambda: bell.waiting)
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert bell.swallowed == 2
