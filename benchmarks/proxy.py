"""A TCP proxy that makes a server on this machine look far away.

Usage: `python -m benchmarks.proxy PORT TARGET ROUND_TRIP_MS`.
It forwards data in order after half a round trip, in both directions. Opening a connection to the proxy itself costs
nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import cast

from shared.lifecycle import Stop, run_service

_HOST = "127.0.0.1"


class _Side(asyncio.Protocol):
    """One end of a proxied connection; it forwards received data to its peer after the delay."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._due: deque[bytes] = deque()
        self._early: list[bytes] = []
        self.peer: _Side | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        for data in self._early:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._due.append(data)
        self._loop.call_later(self._delay_s, self._pass_on)

    def _pass_on(self) -> None:
        # timers with the same delay may fire in any order within a clock tick, but bytes must stay in order
        data = self._due.popleft()
        if self.peer is not None:
            self.peer.write(data)

    def write(self, data: bytes) -> None:
        """Send to this end, once it is connected."""
        if self.transport is None:
            self._early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.peer is not None:
            self._loop.call_later(self._delay_s, self.peer.close)

    def close(self) -> None:
        """Close this end."""
        if self.transport is not None:
            self.transport.close()


async def main(stop: Stop) -> None:
    """Proxy until stopped."""
    port, target, round_trip_ms = (int(text) for text in sys.argv[1:4])
    delay_s = round_trip_ms / 2000
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[object]] = set()

    def accept() -> _Side:
        near, far = _Side(delay_s), _Side(delay_s)
        near.peer, far.peer = far, near
        task: asyncio.Task[object] = loop.create_task(loop.create_connection(lambda: far, _HOST, target))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    server = await loop.create_server(accept, _HOST, port, backlog=1024)
    async with server:
        sys.stdout.write('{"ready":true}\n')
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    run_service("proxy", main)
