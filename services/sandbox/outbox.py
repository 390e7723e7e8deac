"""The outbox: what the sandbox reports later, in the order of its time, and again until it is taken."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from shared.logs import get_logger

MOST_WAITING = 200_000
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.2, 5.0
ItemT = TypeVar("ItemT")


class Outbox(Generic[ItemT]):
    """Passes items to `deliver` in batches once they are due; bound to one event loop.

    `deliver` returns whether a batch was taken. If not, the whole batch is delivered again after a while, so that parts
    of it may arrive twice, as from any provider that tries again. Past MOST_WAITING new items are dropped.
    """

    def __init__(self, deliver: Callable[[list[ItemT]], Awaitable[bool]], batch: int) -> None:
        self._deliver = deliver
        self._batch = batch
        self._waiting: list[tuple[float, int, ItemT]] = []
        self._numbers = itertools.count()
        self._added = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def add(self, item: ItemT, delay_s: float) -> None:
        """Deliver an item in `delay_s` seconds."""
        if len(self._waiting) < MOST_WAITING:
            heapq.heappush(self._waiting, (self._loop.time() + delay_s, next(self._numbers), item))
            self._added.set()
        else:
            get_logger().warning("report_dropped", waiting=MOST_WAITING)

    async def run(self) -> None:
        """Deliver until cancelled."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            entries = await self._due()
            if await self._taken([item for _, _, item in entries]):
                backoff_s = _FIRST_BACKOFF_S
                continue
            for entry in entries:
                heapq.heappush(self._waiting, entry)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    async def _due(self) -> list[tuple[float, int, ItemT]]:
        """Wait until something is due, and take up to a batch of it."""
        while True:
            self._added.clear()
            now = self._loop.time()
            if self._waiting and self._waiting[0][0] <= now:
                break
            until = self._waiting[0][0] - now if self._waiting else None
            try:
                await asyncio.wait_for(self._added.wait(), until)
            except TimeoutError:
                continue
        due: list[tuple[float, int, ItemT]] = []
        while self._waiting and self._waiting[0][0] <= now and len(due) < self._batch:
            due.append(heapq.heappop(self._waiting))
        return due

    async def _taken(self, items: list[ItemT]) -> bool:
        try:
            return await self._deliver(items)
        except Exception:
            get_logger().exception("report_failed")
            return False
