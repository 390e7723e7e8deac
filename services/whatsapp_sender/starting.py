"""A connection first, then the start: requests wait for their `Start` between the two.

aiohttp opens a connection and sends the request in one call. Its connector is the seam between them: what it returns
is open, and nothing of the request has been written.
"""

from __future__ import annotations

from contextvars import ContextVar

import aiohttp
from aiohttp.client import ClientTimeout
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from shared.sending.provider import Start, at_once

START: ContextVar[Start] = ContextVar("start", default=at_once)


class StartingConnector(aiohttp.TCPConnector):
    """Awaits `START` of the calling task once a connection is open; what that raises leaves the connection idle."""

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
