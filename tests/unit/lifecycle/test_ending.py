"""The end of a service's background tasks."""

from __future__ import annotations

import asyncio

import pytest

from shared.lifecycle import Stop, TaskGroup, drain_on_wake, end_tasks


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
    async with asyncio.timeout(60):
        await end_tasks([task], every_s=0.01)
    assert task.cancelled()


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("broken")


@pytest.mark.parametrize("in_the_body", [True, False])
async def test_a_failure_ends_a_group_whose_task_loses_its_cancellation(*, in_the_body: bool) -> None:
    """A failed task ends its group, with its error, whether the body still waits or has ended."""
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with asyncio.timeout(10), TaskGroup() as group:
            tasks.append(group.create_task(_deaf_once()))
            group.create_task(_fail())
            if in_the_body:
                await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await work()
    assert raised.group_contains(ValueError, match="broken")
    assert tasks[0].cancelled()


async def test_a_group_whose_body_fails_ends_its_tasks() -> None:
    """The body's own error is raised once the tasks have ended."""
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with asyncio.timeout(10), TaskGroup() as group:
            tasks.append(group.create_task(_deaf_once()))
            await _fail()

    with pytest.raises(ExceptionGroup) as raised:
        await work()
    assert raised.group_contains(ValueError, match="broken")
    assert tasks[0].cancelled()


async def test_a_cancelled_group_ends_its_tasks_and_stays_cancelled() -> None:
    """Cancelling the caller of a group leaves the caller cancelled and no task behind."""
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with TaskGroup() as group:
            tasks.append(group.create_task(_deaf_once()))

    caller = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    caller.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([caller])
    assert caller.cancelled()
    assert tasks[0].cancelled()


async def test_a_group_waits_for_its_tasks() -> None:
    """Without a failure the group ends when its tasks have, also those that other tasks started."""
    done: list[str] = []

    async with TaskGroup() as group:

        async def first() -> None:
            await asyncio.sleep(0.01)
            group.create_task(second())
            done.append("first")

        async def second() -> None:
            await asyncio.sleep(0.01)
            done.append("second")

        group.create_task(first())
    assert done == ["first", "second"]


async def test_an_outbox_is_drained_again_after_a_failure_and_when_woken() -> None:
    """A drain that raises or returns False is repeated after the pause; one that succeeded waits to be woken."""
    stop, wake = Stop(), asyncio.Event()
    results: list[bool | None] = [None, False, True, True]
    drained = asyncio.Event()

    async def drain() -> bool:
        result = results.pop(0)
        if result is None:
            raise ValueError("broken")
        if result:
            drained.set()
        return result

    task = asyncio.create_task(drain_on_wake(drain, wake, stop, 0.01))
    async with asyncio.timeout(60):
        await drained.wait()
        assert results == [True]
        drained.clear()
        wake.set()
        await drained.wait()
        stop.set()
        await task
    assert results == []
