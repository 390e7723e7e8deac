"""A connection first, then the start: connections are opened ahead, and requests wait for their `Start` on them.

aiohttp opens a connection and sends the request in one call. Its connector is the seam between them: what it returns
is open, and nothing of the request has been written. It also opens connections for requests to come, and keeps them.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import aiohttp
from aiohttp.client import ClientTimeout
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from shared.sending.provider import Start, at_once

START: ContextVar[Start] = ContextVar("start", default=at_once)


# shorter than servers keep idle connections, so that none is met closed
_KEEP_ALIVE_S = 15.0
_MOST_CONNECTIONS = 500


class StartingConnector(aiohttp.TCPConnector):
    """Awaits `START` of the calling task once a connection is open; what that raises leaves the connection idle."""

    def __init__(self) -> None:
        super().__init__(limit=_MOST_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_S)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 -- the signature is aiohttp's
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
            connection.close()  # the server closed it meanwhile

    @property
    def free(self) -> int:
        """How many connections are open and not in use."""
        # aiohttp tells nobody of its idle connections
        now = asyncio.get_running_loop().time()
        idle = [one for kept in self._conns.values() for one in kept]
        return sum(protocol.is_connected() and now - since < _KEEP_ALIVE_S for protocol, since in idle)

    @property
    def in_use(self) -> int:
        """How many connections requests are sent on, or were opened for one that waits for its start."""
        return len(self._acquired)

    async def open_ahead(self, url: URL, limit: ClientTimeout) -> None:
        """Open a connection for a request to come; raises what aiohttp does where that fails."""
        loop = asyncio.get_running_loop()
        request = ClientRequest("POST", url, loop=loop)
        async with asyncio.timeout(limit.connect):
            protocol = await self._create_connection(request, [], limit)
        self._acquired.add(protocol)
        Connection(self, request.connection_key, protocol, loop).release()
