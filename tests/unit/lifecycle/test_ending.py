"""The end of a service's background tasks."""

from __future__ import annotations

import asyncio

from shared.lifecycle import end_tasks


async def _deaf_once() -> None:
    """Ignore the first cancellation, as a task does whose time-out expires at the same moment."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


async def test_a_task_that_loses_its_cancellation_is_cancelled_again() -> None:
    """A task that swallowed one cancellation must not block the stop of its service forever."""
    task = asyncio.create_task(_deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_tasks([task], every_s=0.01)
    assert task.cancelled()
