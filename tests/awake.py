"""The time of a test in which its process ran.

A busy machine lets a process stand still for seconds, and a test of how long its own event loop takes does not claim
anything about that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.lifecycle import end_tasks

_TICK_S = 0.01


class Awake:
    """Counts `seconds`: those in which the loop waited or worked, and none in which the process stood still."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def count(self) -> None:
        """Count until cancelled; what keeps the loop busy counts by its processor time."""
        before, worked = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(_TICK_S)
            now, working = time.monotonic(), time.thread_time()
            self.seconds += min(now - before, max(2 * _TICK_S, working - worked))
            before, worked = now, working


@asynccontextmanager
async def awake() -> AsyncIterator[Awake]:
    """Count while the block runs."""
    counted = Awake()
    counting = asyncio.create_task(counted.count())
    try:
        yield counted
    finally:
        await end_tasks([counting])
