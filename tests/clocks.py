"""Clocks for tests of what happens after some time, however long the test itself takes."""

from __future__ import annotations

from shared.clock import SystemClock


class StandingClock(SystemClock):
    """A clock whose monotonic time stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return `now`."""
        return self.now
