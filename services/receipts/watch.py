"""Looks at the stream `receipts` from time to time: how much waits, and which consumers are gone."""

from __future__ import annotations

import asyncio

from services.receipts.state import ReceiptsState
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.queue.receipts import ReceiptInbox

_EVERY_S = 5.0
_FORGET_EVERY = 120  # checks


class StreamWatch:
    """Keeps `state.counts` up to date, and removes the names of ended consumers."""

    def __init__(self, inbox: ReceiptInbox, state: ReceiptsState, time_scale: float = 1.0) -> None:
        self._inbox = inbox
        self._state = state
        self._every_s = _EVERY_S * time_scale

    async def run(self, stop: Stop) -> None:
        """Check periodically until stopped."""
        checks = 0
        while not stop.is_set():
            await self._check(forget=checks % _FORGET_EVERY == 0)
            checks += 1
            try:
                await asyncio.wait_for(stop.wait(), self._every_s)
            except TimeoutError:
                continue

    async def _check(self, *, forget: bool) -> None:
        try:
            self._state.counts = await self._inbox.counts()
            if forget:
                await self._inbox.forget_readers()
        except QueueUnavailableError:
            self._state.counts = None  # the consumer reports that Redis is away
