"""Time as an argument: components that need the time take a `Clock`, so that tests can control it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

_LAST_MS = 253_402_300_799_999


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


def rfc3339(ms: int) -> str:
    """Write milliseconds since the epoch as RFC 3339 in UTC, to the millisecond (2026-01-31T12:00:00.123Z).

    RFC 3339 has four digits for the year. A time after the year 9999 (`9999-12-31T23:59:59-14:00` is one in UTC) is
    written as the last millisecond of that year.
    """
    second, millisecond = divmod(min(ms, _LAST_MS), 1000)
    return f"{_second(second)}.{millisecond:03d}Z"


@lru_cache(4096)
def _second(second: int) -> str:
    # the logger writes several times per message, most of them within the same few seconds
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
