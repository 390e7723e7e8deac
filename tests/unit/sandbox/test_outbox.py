"""The outbox: due items in the order of their time, in batches, and again until they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from services.sandbox import outbox
from services.sandbox.outbox import Outbox
from shared.lifecycle import end_tasks
from tests.servers import wait_for


def collecting(batches: list[list[str]]) -> Callable[[list[str]], bool]:
    """Return a receiver that takes everything."""

    def take(items: list[str]) -> bool:
        batches.append(items)
        return True

    return take


@asynccontextmanager
async def running(taken: Callable[[list[str]], bool], batch: int = 10) -> AsyncIterator[Outbox[str]]:
    async def deliver(items: list[str]) -> bool:
        return taken(items)

    box = Outbox(deliver, batch)
    task = asyncio.create_task(box.run())
    yield box
    await end_tasks([task])


async def test_items_come_in_the_order_of_their_time_and_not_before() -> None:
    """What was added last may be due first."""
    times: dict[str, float] = {}
    clock = asyncio.get_running_loop().time

    def take(items: list[str]) -> bool:
        times.update({item: clock() for item in items})
        return True

    async with running(take) as box:
        began = clock()
        box.add("later", 0.1)
        box.add("soon", 0.0)
        await wait_for(lambda: len(times) == 2, what="both")
    assert list(times) == ["soon", "later"]
    assert times["later"] - began >= 0.1


async def test_a_batch_is_bounded() -> None:
    """What is due at the same time comes in batches, and nothing is left out."""
    batches: list[list[str]] = []
    async with running(collecting(batches), batch=3) as box:
        for number in range(8):
            box.add(str(number), 0.0)
        await wait_for(lambda: sum(map(len, batches)) == 8, what="all")
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert [item for batch in batches for item in batch] == list("01234567")


@pytest.mark.parametrize("failure", [False, ValueError("a bug")])
async def test_what_is_not_taken_comes_again(failure: bool | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal and an unexpected error are treated alike: the whole batch is delivered again."""
    monkeypatch.setattr(outbox, "_FIRST_BACKOFF_S", 0.01)
    answers = [failure, failure, True]
    seen: list[list[str]] = []

    def taken(items: list[str]) -> bool:
        seen.append(items)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with running(taken) as box:
        box.add("a", 0.0)
        box.add("b", 0.0)
        await wait_for(lambda: not answers, what="the third time")
    assert seen == [["a", "b"]] * 3


async def test_more_than_the_bound_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that is away for long does not fill the memory."""
    monkeypatch.setattr(outbox, "MOST_WAITING", 2)
    batches: list[list[str]] = []
    async with running(collecting(batches)) as box:
        for item in "abc":
            box.add(item, 0.0)
        await wait_for(lambda: bool(batches), what="two")
    assert batches == [["a", "b"]]
