"""Endpoints for the tests: receivers that record what they hear and answer by script, and a channel to one."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.webhook_sender.channel import Delivery, WebhookChannel
from services.webhook_sender.connector import Connection
from shared.clock import Clock, SystemClock
from shared.errors import SendError
from shared.sealing import Seal
from shared.sending.breaker import BreakerPolicy
from shared.special_addresses import Allowed
from shared.webhooks import Endpoint, make_secret, seal_secret
from tests.raw_servers import serving_raw

SEAL = Seal("what all services of a test know")
SECRET = make_secret()
LOOPBACK = Allowed((ipaddress.ip_network("127.0.0.1/32"),))
# with room for a slow machine, and a breaker that opens after five failures
CONNECTION = Connection(5.0, 10.0, allowed=LOOPBACK, breaker=BreakerPolicy(5, 60.0, 0.05))
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
BODY = b'{"type":"message.sent","timestamp":"2026-01-31T12:00:00.123Z","data":{"jobId":"b:0:email"}}'
DELIVERY = Delivery("w:0:webhook", "", "evt_abc", BODY)


def has_ipv6() -> bool:
    """Return whether this machine has ::1; some have IPv6 turned off."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a whole response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Heard:
    """A request as it arrived: header names in lower case."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What a server heard, and how it answers: each request by the next of `answers`, then by the last one."""

    answers: Sequence[bytes] = (NO_CONTENT,)
    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        while True:
            self.heard.append(await read_request(reader))
            writer.write(self.answers[min(len(self.heard), len(self.answers)) - 1])
            await writer.drain()


async def read_request(reader: asyncio.StreamReader) -> Heard:
    """Read one request to its end."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return Heard(first.split()[1], headers, await reader.readexactly(int(headers.get("content-length", "0"))))


@asynccontextmanager
async def receiving(*answers: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver while the block runs."""
    receiver = Receiver(answers or (NO_CONTENT,))
    async with serving_raw(receiver.serve, context) as url:
        receiver.url = f"{url}/webhook"
        yield receiver


def endpoint(url: str, *secrets: str, ends_ms: Sequence[int] = ()) -> Endpoint:
    """Return an endpoint with these secrets, the newest first."""
    sealed = [seal_secret(secret, SEAL) for secret in secrets or (SECRET,)]
    return Endpoint("w", 3, url, True, sealed, list(ends_ms) or [0] * len(sealed))


@asynccontextmanager
async def opened(url: str | Endpoint, clock: Clock | None = None, **changes: Any) -> AsyncIterator[WebhookChannel]:
    """Open a channel to an endpoint while the block runs; `changes` are those of its connection."""
    to = endpoint(url) if isinstance(url, str) else url
    channel = WebhookChannel(to, replace(CONNECTION, **changes), clock or SystemClock(), SEAL)
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()


async def failure_at(url: str, **changes: Any) -> SendError:
    """Send one delivery there and return the error."""
    async with opened(url, **changes) as channel:
        with pytest.raises(SendError) as caught:
            await channel.send(DELIVERY)
    return caught.value


def resolving(*addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    """Return a look-up that finds these addresses for every name."""

    async def look_up(_host: str) -> list[str]:
        return list(addresses)

    return look_up
