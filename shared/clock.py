"""Time: the clock that components take as an argument, a timer for answers, and times as text.

Components that need the time take a `Clock`, so that tests can control it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

_LAST_MS = 253_402_300_799_999
# a timer that is later than this was held up: the process was suspended, or its event loop was blocked
SUSPENDED_S = 0.02


class Clock(Protocol):
    """The source of time of a component, and its way to wait."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` seconds."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` seconds."""
        await asyncio.sleep(seconds)


class SuspendAwareTimer:
    """Calls `expire` when an answer is overdue; time in which this process was suspended does not count.

    A process that continues after it was stopped, or on a machine that was paused, may run overdue timers before it
    reads the answers that are already in its sockets. So a timer that is late waits again for as long as it was late,
    in all at most twice as long as it was started for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Start the timer; it must not be running."""
        self._arm(seconds, seconds)

    def cancel(self) -> None:
        """Stop the timer, if it is running."""
        if self._handle is not None:
            self._handle.cancel()

    def _arm(self, wait_s: float, extra_s: float) -> None:
        # a bare timer: asyncio.timeout costs as much as a reply itself
        self._handle = self._loop.call_later(wait_s, self._due, self._loop.time() + wait_s, extra_s)

    def _due(self, due_at: float, extra_s: float) -> None:
        late_s = min(self._loop.time() - due_at, extra_s)
        if late_s > SUSPENDED_S:
            self._arm(late_s, extra_s - late_s)
        else:
            self._expire()


@lru_cache(4096)
def rfc3339(ms: int) -> str:
    """Write milliseconds since the epoch as RFC 3339 in UTC, to the millisecond (2026-01-31T12:00:00.123Z).

    RFC 3339 has four digits for the year. A time after the year 9999 (`9999-12-31T23:59:59-14:00` is one in UTC) is
    written as the last millisecond of that year.
    """
    # senders and the logger write several times per message, most of them equal or within the same few seconds
    second, millisecond = divmod(min(ms, _LAST_MS), 1000)
    return f"{_second(second)}.{millisecond:03d}Z"


@lru_cache(4096)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
