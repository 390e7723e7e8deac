"""How a sender's tasks end."""

from __future__ import annotations

import asyncio

from shared.lifecycle import end_tasks


async def _deaf_once() -> None:
    """Go on after the first cancellation, as a task does whose time-out expired in the same moment."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


async def test_a_task_that_loses_its_cancellation_is_cancelled_again() -> None:
    """A sender whose wait for the bell swallowed its cancellation hung at its stop, for ever."""
    task = asyncio.create_task(_deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_tasks([task], every_s=0.01)
    assert task.cancelled()
