"""Opens connections ahead; a request awaits its `Start` once it has a connection.

aiohttp opens a connection and sends the request in one call. Its connector is the seam between the two: the connection
that it returns is open, and nothing of the request has been written. This connector also opens connections for later
requests and keeps them. `shared.http_sending.posting` takes connections from it without aiohttp's client.
"""

from __future__ import annotations

import asyncio
import ssl
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, cast

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from shared.http_sending.hand_over import within
from shared.http_sending.protocol import BoundedHandler
from shared.sending.provider import Start, at_once

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

START: ContextVar[Start] = ContextVar("start", default=at_once)


# shorter than servers keep idle connections, so that a request seldom meets a closed one
_KEEP_ALIVE_S = 15.0
_MOST_CONNECTIONS = 500
# the connector's own bound replaces aiohttp's
_UNBOUNDED = aiohttp.ClientTimeout(total=None)


class StartingConnector(aiohttp.TCPConnector):
    """Awaits the calling task's `START` once a connection is open; if that raises, the connection becomes idle.

    `connect_s` bounds DNS, connecting and TLS together.
    """

    def __init__(
        self,
        connect_s: float,
        *,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
        socket_factory: aiohttp.SocketFactoryType | None = None,
    ) -> None:
        super().__init__(
            limit=_MOST_CONNECTIONS,
            keepalive_timeout=_KEEP_ALIVE_S,
            ssl=tls or True,
            resolver=resolver,
            socket_factory=socket_factory,
        )
        self._connect_s = connect_s
        # how many connections are being opened for a message that waits for them
        self.awaited = 0
        # aiohttp has no public way to replace its protocol
        handler: type[ResponseHandler] = BoundedHandler
        self._factory = partial(handler, loop=asyncio.get_running_loop())

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- the signature is aiohttp's
    ) -> Connection:
        """Return a connection on which the request may be sent now."""
        start = START.get()
        while True:
            async with within(self._connect_s):
                connection = await super().connect(req, traces, timeout)
            try:
                await start()
            except BaseException:
                connection.release()
                raise
            if connection.protocol is not None and connection.protocol.is_connected():
                return connection
            connection.close()  # the server closed it during the wait

    async def lend(self, request: aiohttp.ClientRequest, start: Start) -> BoundedHandler:
        """Return an open connection on which a message may be sent now; `give_back` must follow."""
        key = request.connection_key
        while True:
            protocol = self._idle(key)
            if protocol is None:  # an idle one is falsy: it is an empty queue too
                protocol = await self._opened_in_use(request)
            try:
                await start()
            except BaseException:
                self._release(key, protocol)
                raise
            if protocol.is_connected():
                return protocol
            self._release(key, protocol, should_close=True)  # the server closed it during the wait

    def give_back(self, request: aiohttp.ClientRequest, protocol: BoundedHandler, *, usable: bool) -> None:
        """Keep a connection for the next message, or close it if it is not `usable`."""
        self._release(request.connection_key, protocol, should_close=not usable)

    def _idle(self, key: ConnectionKey) -> BoundedHandler | None:
        """Return the connection that has been idle for longest and may be used, as aiohttp's own `_get` does."""
        kept = self._conns.get(key)
        now = asyncio.get_running_loop().time()
        while kept:
            one, since = kept.popleft()
            protocol = cast("BoundedHandler", one)  # `_factory` made it
            if not kept:
                del self._conns[key]
            if protocol.is_still_open() and now - since <= _KEEP_ALIVE_S:
                self._acquired.add(protocol)
                return protocol
            protocol.close()
        return None

    async def _opened_in_use(self, request: aiohttp.ClientRequest) -> BoundedHandler:
        self.awaited += 1
        try:
            return await self._opened(request)
        finally:
            self.awaited -= 1

    async def _opened(self, request: aiohttp.ClientRequest) -> BoundedHandler:
        async with within(self._connect_s):
            protocol = await self._create_connection(request, [], _UNBOUNDED)
        if self.closed:
            protocol.close()
            raise aiohttp.ClientConnectionError("Connector is closed.")
        self._acquired.add(protocol)
        return cast("BoundedHandler", protocol)

    @property
    def free(self) -> int:
        """The number of connections that are open and not in use."""
        # aiohttp has no public API for its idle connections
        now = asyncio.get_running_loop().time()
        idle = [one for kept in self._conns.values() for one in kept]
        return sum(protocol.is_connected() and now - since < _KEEP_ALIVE_S for protocol, since in idle)

    @property
    def in_use(self) -> int:
        """The number of connections that carry a request, or are opened for or held by one that waits for its start."""
        return len(self._acquired) + self.awaited

    async def open_ahead(self, url: URL) -> None:
        """Open a connection for a later request; raises aiohttp's errors."""
        request = aiohttp.ClientRequest("POST", url, loop=asyncio.get_running_loop())
        self._release(request.connection_key, await self._opened(request))
