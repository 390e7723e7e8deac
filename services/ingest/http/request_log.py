"""The API log: one event per answered request, emitted to the logger in batches; responses never wait for it.

Events wait in a bounded list. While Redis is away the oldest are dropped and counted: a log of requests must not stop
the requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from shared.errors import KurirError
from shared.events import ApiRequest, SystemEvent
from shared.lifecycle import Stop
from shared.logs import get_logger

_CAPACITY = 10_000
_BATCH = 500
_LINGER_S = 0.05
_RETRY_S = 1.0

Entry = ApiRequest | SystemEvent
Emit = Callable[[Sequence[Entry]], Awaitable[None]]
log = get_logger()


class RequestLog:
    """Accepts events without waiting and emits them in batches from `run`."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._waiting: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self.dropped = 0

    def add(self, event: Entry) -> None:
        """Add an answered request or a system event; never waits."""
        if len(self._waiting) >= _CAPACITY:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(event)
        self._wake.set()

    def from_any_thread(self) -> Callable[[SystemEvent], None]:
        """Return a thread-safe `add` for system events; call this method within the event loop."""
        loop = asyncio.get_running_loop()

        def add(event: SystemEvent) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.add, event)

        return add

    async def run(self, stop: Stop) -> None:
        """Emit until stopped, then try once to emit the rest."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({waking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                await asyncio.wait({stopping}, timeout=_LINGER_S)
                if not await self.flush():
                    await asyncio.wait({stopping}, timeout=_RETRY_S)
            await self.flush()
        finally:
            stopping.cancel()

    async def flush(self) -> bool:
        """Emit everything that waits; return False if Redis did not take it, which is then kept for later."""
        self._wake.clear()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._emit(batch)
            except KurirError as error:
                room = _CAPACITY - len(self._waiting)
                self.dropped += max(0, len(batch) - room)
                self._waiting.extendleft(reversed(batch[len(batch) - min(room, len(batch)) :]))
                self._wake.set()
                log.debug("api log delayed", waiting=len(self._waiting), reason=str(error))
                return False
        return True
