"""Opens connections ahead; a request awaits its `Start` once it has a connection.

aiohttp opens a connection and sends the request in one call. Its connector is the seam between the two: the connection
that it returns is open, and nothing of the request has been written. This connector also opens connections for later
requests and keeps them.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from shared.sending.provider import Start, at_once

START: ContextVar[Start] = ContextVar("start", default=at_once)


# shorter than servers keep idle connections, so that a request seldom meets a closed one
_KEEP_ALIVE_S = 15.0
_MOST_CONNECTIONS = 500


class StartingConnector(aiohttp.TCPConnector):
    """Awaits the calling task's `START` once a connection is open; if that raises, the connection becomes idle."""

    def __init__(self) -> None:
        super().__init__(limit=_MOST_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_S)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- the signature is aiohttp's
    ) -> Connection:
        """Return a connection on which the request may be sent now."""
        start = START.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            try:
                await start()
            except BaseException:
                connection.release()
                raise
            if connection.protocol is not None and connection.protocol.is_connected():
                return connection
            connection.close()  # the server closed it during the wait

    @property
    def free(self) -> int:
        """The number of connections that are open and not in use."""
        # aiohttp has no public API for its idle connections
        now = asyncio.get_running_loop().time()
        idle = [one for kept in self._conns.values() for one in kept]
        return sum(protocol.is_connected() and now - since < _KEEP_ALIVE_S for protocol, since in idle)

    @property
    def in_use(self) -> int:
        """The number of connections that carry a request or are held by one that waits for its start."""
        return len(self._acquired)

    async def open_ahead(self, url: URL, timeouts: aiohttp.ClientTimeout) -> None:
        """Open a connection for a later request; raises aiohttp's errors."""
        loop = asyncio.get_running_loop()
        request = aiohttp.ClientRequest("POST", url, loop=loop)
        async with asyncio.timeout(timeouts.connect):
            protocol = await self._create_connection(request, [], timeouts)
        self._acquired.add(protocol)
        Connection(self, request.connection_key, protocol, loop).release()
