"""The connections to one endpoint: their settings, and a session that goes nowhere but there.

No proxy, which would look up names itself; no cookies; no redirects; answers as they come, never decompressed, so that
a small one cannot become a large one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from services.webhook_sender.addresses import Guard, LookUp, LookUps
from shared.http_sending.connector import StartingConnector
from shared.http_sending.hand_over import noting_hand_over
from shared.sending.breaker import BreakerPolicy
from shared.special_addresses import NOTHING_ALLOWED, Allowed

_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": "Kurir-Webhooks/1",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """How to talk to endpoints; times in seconds.

    `connect_s` bounds DNS, connecting and TLS together, `answer_s` the wait for the response from the first byte of the
    body on. `connections` is the most that are open to one endpoint. `tls` verifies certificates; None uses the
    system's authorities. `time_scale` multiplies the times for which an endpoint is left alone.
    """

    connect_s: float = 10.0
    answer_s: float = 15.0
    connections: int = 20
    allowed: Allowed = NOTHING_ALLOWED
    tls: ssl.SSLContext | None = None
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    time_scale: float = 1.0
    look_up: LookUp = field(default_factory=LookUps)


def tls_context(ca_file: str = "") -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those in a PEM file; raises OSError, also for no PEM.

    Made once for all endpoints: reading the authorities takes milliseconds.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class Link:
    """An open session to one endpoint. Once retired, it closes when its last request has ended."""

    def __init__(self, connection: Connection) -> None:
        guard = Guard(connection.allowed, connection.look_up)
        self._connector = StartingConnector(
            connection.connect_s,
            tls=connection.tls,
            resolver=guard,
            socket_factory=guard.make_socket,
        )
        self.session = aiohttp.ClientSession(
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),  # the connector and `HandOver` have the bounds
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            trace_configs=[noting_hand_over()],
        )
        self._slots = asyncio.Semaphore(connection.connections)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def in_use(self) -> int:
        """The number of connections that are being opened or carry a request."""
        return self._connector.in_use

    async def open_ahead(self, url: URL) -> None:
        """Open a connection for a later request; raises aiohttp's errors."""
        await self._connector.open_ahead(url)

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Wait until a connection may be used, and keep the session open while the block runs.

        Waiting here does not count as waiting for the endpoint, as waiting for a connection of aiohttp's pool would.
        """
        self._users += 1
        self._unused.clear()
        try:
            async with self._slots:
                yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def retire(self) -> None:
        """Close the session once nothing uses it."""
        await self._unused.wait()
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()
