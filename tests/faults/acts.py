"""Acts: the faults as a scenario commits them, each telling the oracle what it may cost."""

from __future__ import annotations

import asyncio
import time

from tests.faults.children import Child
from tests.faults.client import Posted
from tests.faults.oracle import Oracle
from tests.faults.queue_view import Holding
from tests.faults.world import World
from tests.servers import wait_for

_QUIET_S = 0.05
_FLOW_TIMEOUT_S = 60.0


async def flowing(world: World, posted: Posted, taken: int) -> None:
    """Wait until the provider has taken so many messages of a blast."""

    def is_flowing() -> bool:
        return posted.total - len(world.deliveries.missing(posted.job_ids)) >= taken

    await wait_for(is_flowing, _FLOW_TIMEOUT_S, f"{taken} messages of the blast to be taken")


async def freeze(world: World, sender: Child) -> Holding:
    """Freeze a sender and return what it holds, once what it had written to Redis has arrived there."""
    sender.freeze()
    held = await world.queue.holding(sender.pid)
    while True:
        await asyncio.sleep(_QUIET_S)
        again = await world.queue.holding(sender.pid)
        if again == held:
            return held
        held = again


async def kill(world: World, sender: Child, oracle: Oracle) -> Holding:
    """Kill a sender (SIGKILL); what it has in mid-send may be sent once more."""
    held = await freeze(world, sender)
    oracle.allow(held.in_flight)
    pid = sender.pid
    sender.kill()
    left = await world.queue.holding(pid)
    oracle.told.append(f"{time.time():.3f} killed {sender.name} {pid}: {_words(held)}; left {_words(left)}")
    return held


def _words(held: Holding) -> str:
    return f"buffered {sorted(held.buffered)} in flight {sorted(held.in_flight)}"


async def kill_holding(world: World, sender: Child, *, buffered: bool, in_flight: bool, timeout_s: float) -> Holding:
    """Kill a sender at a moment when it holds just such jobs; frozen, it can be looked at without haste."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = await freeze(world, sender)
            if bool(held.buffered) == buffered and bool(held.in_flight) == in_flight:
                sender.kill()
                return held
            sender.thaw()
            await asyncio.sleep(_QUIET_S)
