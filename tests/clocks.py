"""Clocks for tests of what happens after some time, however long the test itself takes."""

from __future__ import annotations

from shared.clock import SystemClock


class StandingClock(SystemClock):
    """A clock whose monotonic time stands until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        """Return `now`."""
        return self.now


class HandClock(StandingClock):
    """A clock whose wall time stands as well, and on which a sleep is over at once, as much later."""

    def now_ms(self) -> int:
        """Return `now` in milliseconds."""
        return int(self.now * 1000)

    async def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds
