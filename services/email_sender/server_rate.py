"""A server's own rate limit within one sender: spaces the starts of its messages by a fixed gap.

It applies in addition to the channel's rate, which all senders share and whose starts must not be late. So the sender
does not request a start that this rate would delay: `capacity` returns when one is possible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import DeferredError
from shared.sending.provider import Capacity, Start
from shared.settings import Rate

LONGEST_WAIT_S = 5.0


class RateReachedError(DeferredError):
    """This rate allows no start soon; the server itself has refused nothing."""


class ServerRate:
    """Spaces the starts at one server, if it has a rate. `clock` gives seconds."""

    def __init__(self, server: str, rate: Rate | None, clock: Callable[[], float]) -> None:
        self._server = server
        self._gap_s = rate.period_s / rate.count if rate else 0.0
        self._clock = clock
        self._next_start = 0.0
        self._coming: set[object] = set()

    @property
    def applies(self) -> bool:
        """Whether there is a rate."""
        return bool(self._gap_s)

    def capacity(self, slots: int) -> Capacity:
        """Return how many messages may start, given `slots` free connections."""
        if not self._gap_s or slots <= 0:
            return Capacity(slots)
        wait_s = self._next_start - self._clock()
        if wait_s > 0:
            return Capacity(0, wait_s)
        return Capacity(0 if self._coming else 1)

    @contextmanager
    def spacing(self, start: Start) -> Iterator[Start]:
        """Yield a start for one message that also keeps this rate.

        Raises RateReachedError, a deferral, if the wait would be long, so that it does not hold up other messages.
        """
        self._due(self._clock())
        message = object()
        self._coming.add(message)

        async def start_spaced() -> None:
            if message in self._coming:
                await self._start(start)
                self._coming.discard(message)
            else:
                await start()  # a second start: the first connection turned out to be closed
                self._keep_gap()

        try:
            yield start_spaced
        finally:
            self._coming.discard(message)

    async def _start(self, start: Start) -> None:
        now = self._clock()
        at = self._book(now)
        try:
            await asyncio.sleep(at - now)
            await start()
        except BaseException:
            self._unbook(at)
            raise
        self._keep_gap()

    def _keep_gap(self) -> None:
        """Move the next start back if this one was later than booked, as the channel's limit can delay it."""
        self._next_start = max(self._next_start, self._clock() + self._gap_s)

    def _due(self, now: float) -> float:
        at = max(now, self._next_start)
        if at - now > LONGEST_WAIT_S:
            raise RateReachedError(f"the rate limit of {self._server} is reached", code="rate", wait_s=at - now)
        return at

    def _book(self, now: float) -> float:
        at = self._due(now)
        self._next_start = at + self._gap_s
        return at

    def _unbook(self, at: float) -> None:
        """Free the place of a start that was not made, unless another was booked behind it."""
        if self._next_start == at + self._gap_s:
            self._next_start = at
