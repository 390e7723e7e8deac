"""A server's own rate, in this sender: starts a gap apart, counted from when a connection is open.

It comes on top of the channel's rate, which holds over all senders and whose starts must not be late. So a start that
this rate would make late is not asked for: `room` says when one could be made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import DeferredError
from shared.sending.provider import Room, Start
from shared.settings import Rate

LONGEST_PACE_S = 5.0


class RateReachedError(DeferredError):
    """This rate leaves no start soon; the server itself has said nothing."""


class OwnRate:
    """Spaces the starts at one server; without a rate it lets everything through. `clock` gives seconds."""

    def __init__(self, server: str, rate: Rate | None, clock: Callable[[], float]) -> None:
        self._server = server
        self._gap_s = rate.period_s / rate.count if rate else 0.0
        self._clock = clock
        self._next_start = 0.0
        self._coming: set[object] = set()

    def room(self, slots: int) -> Room:
        """Return how many of the messages that `slots` open connections could carry may start."""
        if not self._gap_s or slots <= 0:
            return Room(slots)
        wait_s = self._next_start - self._clock()
        if wait_s > 0:
            return Room(0, wait_s)
        return Room(0 if self._coming else 1)

    @contextmanager
    def passing(self, start: Start) -> Iterator[Start]:
        """A message is on its way to its start: give it one that keeps this rate as well.

        A long wait is a deferral (RateReachedError), which holds nobody up.
        """
        if not self._gap_s:
            yield start
            return
        self._due(self._clock())
        message = object()
        self._coming.add(message)

        async def paced() -> None:
            if message in self._coming:
                await self._start(start)
                self._coming.discard(message)
            else:
                await start()  # its first connection turned out to be closed
                self._keep_distance()

        try:
            yield paced
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
        self._keep_distance()

    def _keep_distance(self) -> None:
        """A start may have been made later than booked: the channel's limit, or another connection, let it wait."""
        self._next_start = max(self._next_start, self._clock() + self._gap_s)

    def _due(self, now: float) -> float:
        at = max(now, self._next_start)
        if at - now > LONGEST_PACE_S:
            raise RateReachedError(f"the rate of {self._server} is reached", code="rate", wait_s=at - now)
        return at

    def _book(self, now: float) -> float:
        at = self._due(now)
        self._next_start = at + self._gap_s
        return at

    def _unbook(self, at: float) -> None:
        """Nothing came of a start: the next may have its place, unless more were booked behind it."""
        if self._next_start == at + self._gap_s:
            self._next_start = at
