"""The feed: events for all streams of `GET /api/events`, each encoded once and kept for a short time.

A stream has no queue of its own, only a place in the feed. One that has fallen behind what is kept, because its client
reads slowly or was away, gets a new snapshot. So a slow client costs no memory, and resuming is the same as reading on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST_STREAMS = 100
_KEPT = 120


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event in the text form of server-sent events, with its number."""

    number: int
    text: bytes


class EventFeed:
    """The latest events. `boot` names this process in the ids of events; another process's ids mean nothing here."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._kept: deque[FeedEvent] = deque(maxlen=_KEPT)
        self._last = 0
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._fresh = asyncio.Event()
        self._closed = False
        self._source: Callable[[], bytes] = bytes
        self.streams = 0

    @property
    def closed(self) -> bool:
        """Whether the service stops, so that all streams must end."""
        return self._closed

    @property
    def fresh(self) -> bool:
        """Whether the state was read since the first of the present streams began."""
        return self._fresh.is_set()

    @property
    def last(self) -> int:
        """The number of the latest event."""
        return self._last

    def publish(self, name: str, data: bytes) -> None:
        """Add an event; `data` is JSON without line breaks."""
        self._last += 1
        self._kept.append(FeedEvent(self._last, self.event_text(name, data, self._last)))
        self._notify()

    def event_text(self, name: str, data: bytes, number: int) -> bytes:
        """Return an event as it is sent."""
        return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (self._boot.encode(), number, name.encode(), data)

    def place_of(self, last_event_id: str) -> int | None:
        """Return the number of the event with this id, None if this process did not send it."""
        boot, _, number = last_event_id.rpartition("-")
        known = boot == self._boot and number.isascii() and number.isdigit() and len(number) < 16
        return int(number) if known else None

    def after(self, number: int) -> list[FeedEvent] | None:
        """Return the events that follow this one, None if some of them are no longer kept."""
        if number > self._last:
            return None
        missing = self._last - number
        if missing > len(self._kept):
            return None
        return [event for event in self._kept if event.number > number] if missing else []

    async def wait(self, number: int, timeout_s: float) -> None:
        """Wait until there is an event after this one, the feed is closed, or the time is over."""
        if self._last > number or self._closed:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def refreshed(self, source: Callable[[], bytes]) -> None:
        """Note that the state was just read; `source` makes a snapshot of it, as an event."""
        self._source = source
        self._fresh.set()

    async def snapshot(self, timeout_s: float) -> bytes:
        """Return a snapshot of the state as an event, once the state has been read; b"" if that takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._fresh.wait()
        except TimeoutError:
            return b""
        return self._source()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a stream while the block runs: events are made only while somebody reads them."""
        if not self.streams:
            # whatever was read last is old
            self._fresh.clear()
        self.streams += 1
        self._wanted.set()
        try:
            yield
        finally:
            self.streams -= 1
            if not self.streams:
                self._wanted.clear()

    async def wait_until_wanted(self) -> None:
        """Wait until a stream reads."""
        await self._wanted.wait()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._fresh.set()
        self._notify()

    def _notify(self) -> None:
        # this wakes the present waiters; later ones wait for the next event
        self._changed.set()
        self._changed = asyncio.Event()
