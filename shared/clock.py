"""Time: the clock that components take as an argument, a timer for answers, and times as text.

Components that need the time take a `Clock`, so that tests can control it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
_LENGTH = len("2026-01-31T12:00:00.123Z")
# a timer that is later than this was held up: the process was suspended, or its event loop was blocked
SUSPENDED_S = 0.02
# loops round the times of their timers
_EARLY_S = 0.002


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

    monotonic = staticmethod(time.monotonic)  # itself: a sender reads it ten times for a message

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
        self._fires_at = math.inf
        # infinity while it is not running
        self._due_at = math.inf
        self._extra_s = 0.0

    def start(self, seconds: float) -> None:
        """Start the timer; it must not be running."""
        self._due_at, self._extra_s = self._loop.time() + seconds, seconds
        if self._fires_at > self._due_at:
            self._arm()

    def stop(self) -> None:
        """Stop the timer, cheaply: the loop keeps its handle for the next start. `cancel` it in the end."""
        self._due_at = math.inf

    def cancel(self) -> None:
        """Stop the timer, if it is running."""
        self._due_at = self._fires_at = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        # a bare timer: asyncio.timeout costs as much as a reply itself
        if self._handle is not None:
            self._handle.cancel()
        self._fires_at = self._due_at
        self._handle = self._loop.call_later(self._due_at - self._loop.time(), self._fire)

    def _fire(self) -> None:
        self._handle, self._fires_at = None, math.inf
        if self._due_at == math.inf:
            return
        # it may have been started again since the handle was made
        late_s = min(self._loop.time() - self._due_at, self._extra_s)
        if late_s > SUSPENDED_S:
            self._extra_s -= late_s
            self._due_at = self._loop.time() + late_s
        elif late_s > -_EARLY_S:
            self._due_at = math.inf
            self._expire()
            return
        self._arm()


@lru_cache(4096)
def rfc3339(ms: int) -> str:
    """Write milliseconds since the epoch as RFC 3339 in UTC, to the millisecond (2026-01-31T12:00:00.123Z).

    RFC 3339 has four digits for the year. A time after the year 9999 (`9999-12-31T23:59:59-14:00` is one in UTC) is
    written as the last millisecond of that year, one before the year 1 as its first.
    """
    # senders and the logger write several times per message, most of them equal or within the same few seconds
    second, millisecond = divmod(max(_FIRST_MS, min(ms, _LAST_MS)), 1000)
    return f"{_second(second)}.{millisecond:03d}Z"


def ms_of(written: str) -> int:
    """Return the milliseconds since the epoch of a time as `rfc3339` writes it, or in another form of ISO 8601."""
    if len(written) == _LENGTH and written[19] == "." and written[23] == "Z":
        return _whole_ms(written[:19]) + int(written[20:23])
    return round(datetime.fromisoformat(written).timestamp() * 1000)


@lru_cache(4096)
def _whole_ms(written: str) -> int:
    return round(datetime.fromisoformat(f"{written}Z").timestamp()) * 1000


@lru_cache(4096)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]
