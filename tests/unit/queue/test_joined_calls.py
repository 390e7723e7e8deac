"""Joined calls: items of concurrent callers share calls, and each caller gets its own answer or the call's error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from shared.errors import QueueUnavailableError
from shared.queue.joined_calls import JoinedCalls


class Server:
    """Doubles numbers; while `held`, calls wait. It keeps the items of every call, and refuses calls with a 0."""

    def __init__(self, *, held: bool = False) -> None:
        self.calls: list[list[int]] = []
        self.called = asyncio.Event()
        self.may_answer = asyncio.Event()
        if not held:
            self.may_answer.set()

    async def double(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        self.called.set()
        await self.may_answer.wait()
        if 0 in items:
            raise QueueUnavailableError("no answer")
        return [2 * item for item in items]


async def underway(server: Server, joined: JoinedCalls[int, int], item: int) -> asyncio.Task[int]:
    """Return the task of a call that the server has received."""
    task = asyncio.create_task(joined.call(item, 1))
    await server.called.wait()
    return task


async def started(joined: JoinedCalls[int, int], *items: int, size: int = 1) -> list[asyncio.Task[int]]:
    """Return tasks that wait for the answers to these items."""
    tasks = [asyncio.create_task(joined.call(item, size)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_one_item_is_sent_at_once() -> None:
    """It waits for no other, and the next one is another call."""
    server = Server()
    joined = JoinedCalls(server.double)
    assert [await joined.call(item, 1) for item in (1, 2)] == [2, 4]
    assert server.calls == [[1], [2]]


async def test_items_that_come_during_a_call_share_the_next() -> None:
    """They are sent together, in their order, when the call has ended; each caller gets the answer to its own item."""
    server = Server(held=True)
    joined = JoinedCalls(server.double)
    first = await underway(server, joined, 1)
    others = await started(joined, 4, 2, 3)
    assert server.calls == [[1]]
    server.may_answer.set()
    assert await asyncio.gather(first, *others) == [2, 8, 4, 6]
    assert server.calls == [[1], [4, 2, 3]]


async def test_items_gather_while_several_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a call that left one waiting, or carried several, the next begins only some time after it began."""
    server, pauses, over = Server(held=True), list[float](), asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await over.wait()

    monkeypatch.setattr("shared.queue.joined_calls.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    joined = JoinedCalls(server.double, apart_s=3600.0)
    first = await underway(server, joined, 1)
    waiting = await started(joined, 2)
    server.may_answer.set()
    assert await first == 2
    later = await started(joined, 3)
    assert server.calls == [[1]]
    over.set()
    assert await asyncio.gather(*waiting, *later) == [4, 6]
    assert await joined.call(4, 1) == 8
    assert server.calls == [[1], [2, 3], [4]]
    assert len(pauses) == 2
    assert all(3000 < seconds <= 3600 for seconds in pauses)


async def test_items_of_one_caller_do_not_gather() -> None:
    """One after another is sent at once, however far apart calls with several begin."""
    server = Server()
    joined = JoinedCalls(server.double, apart_s=3600.0)
    async with asyncio.timeout(60):
        assert [await joined.call(item, 1) for item in (1, 2, 3)] == [2, 4, 6]
    assert server.calls == [[1], [2], [3]]


async def test_every_caller_of_a_failed_call_raises_its_error() -> None:
    """Items that came during it are sent in the next call, which may succeed."""
    server = Server(held=True)
    joined = JoinedCalls(server.double)
    failing = await started(joined, 0, 1)
    await server.called.wait()
    later = await started(joined, 2)
    server.may_answer.set()
    for task in failing:
        with pytest.raises(QueueUnavailableError, match="no answer"):
            await task
    assert await later[0] == 4
    assert server.calls == [[0, 1], [2]]


async def test_too_few_answers_are_an_error_for_all() -> None:
    """Nobody waits forever, and nobody gets the answer to another item."""

    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items[1:])

    joined = JoinedCalls(forgetful)
    for task in await started(joined, 1, 2):
        with pytest.raises(ValueError, match="shorter"):
            await task


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    """A call continues without the caller that began it; the item of one that still waits is not sent."""
    server = Server(held=True)
    joined = JoinedCalls(server.double)
    first = await underway(server, joined, 1)
    dropped, kept = await started(joined, 2, 3)
    for task in (first, dropped):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    server.may_answer.set()
    assert await kept == 6
    assert server.calls == [[1], [3]]


@pytest.mark.parametrize(("size", "each"), [(1, 200), (1024 * 1024, 4), (5 * 1024 * 1024, 1)])
async def test_a_call_is_bounded(size: int, each: int) -> None:
    """It has at most 200 items and about 4 MB, and always one."""
    server = Server()
    joined = JoinedCalls(server.double)
    items = list(range(1, 2 * each + 1))
    tasks = await started(joined, *items, size=size)
    assert await asyncio.gather(*tasks) == [2 * item for item in items]
    assert server.calls == [items[:each], items[each:]]


async def test_no_caller_waits_when_the_loop_ends() -> None:
    """If the task that sends is cancelled, so are all callers: those of its call and those that wait."""
    server = Server(held=True)
    joined = JoinedCalls(server.double)
    first = await underway(server, joined, 1)
    (waiting,) = await started(joined, 2)
    assert joined._sending is not None
    joined._sending.cancel()
    for task in (first, waiting):
        with pytest.raises(asyncio.CancelledError):
            await task
    server.may_answer.set()
    assert await joined.call(3, 1) == 6
