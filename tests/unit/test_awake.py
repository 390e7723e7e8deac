"""The time in which a test's process ran, by which tests bound what their own event loop does."""

from __future__ import annotations

import asyncio
import time

from tests.awake import awake


async def test_only_time_in_which_the_process_stood_still_does_not_count() -> None:
    """Waiting counts, and so does work that keeps the loop from everything else."""
    async with awake() as spent:
        await asyncio.sleep(0.05)
        time.sleep(0.5)  # as a process that gets no processor
        await asyncio.sleep(0.05)
    assert 0.02 < spent.seconds < 0.5
    began = time.thread_time()
    async with awake() as spent:
        await asyncio.sleep(0.02)
        while time.thread_time() - began < 0.2:
            pass
        await asyncio.sleep(0.02)
    assert spent.seconds > 0.2
