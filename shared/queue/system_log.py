"""Ships the system log of a service: warnings and errors become gateway events, without blocking the caller.

`configure_logging` calls `ship` from any thread; `run` emits the collected events. While Redis is away the oldest are
dropped; the log files have them too.
"""

from __future__ import annotations

import asyncio
from collections import deque

from shared.errors import KurirError
from shared.events import SystemEvent
from shared.queue.producer import Producer

CAPACITY = 1000
LINGER_S = 0.1
RETRY_S = 1.0


class SystemLog:
    """Accepts events without waiting; belongs to the event loop that created it."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[SystemEvent] = deque(maxlen=CAPACITY)
        self._wake = asyncio.Event()

    def ship(self, event: SystemEvent) -> None:
        """Record an event; does not block."""
        self._waiting.append(event)
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            return  # the loop has ended, so nothing can be emitted; the log files have the line

    async def run(self) -> None:
        """Emit shipped events until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(LINGER_S if await self.flush() else RETRY_S)

    async def flush(self) -> bool:
        """Emit all waiting events; return False, and keep them, if Redis did not accept them."""
        self._wake.clear()
        batch = list(self._waiting)
        try:
            await self._producer.emit(*batch)
        except KurirError:
            self._wake.set()
            return False
        for _ in batch:
            # a full queue may have dropped some of these in the meantime
            if self._waiting and self._waiting[0] in batch:
                self._waiting.popleft()
        return True
