"""A URL may have a token in its path or query: no log line and no event of the queue shows it, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import structlog
from msgspec.structs import replace as with_fields

from services.webhook_sender.channel import WebhookChannel
from shared.clock import SystemClock
from shared.webhooks import Endpoint
from tests.integration.queue.webhooks import deliver, publish
from tests.integration.queue.world import World
from tests.integration.webhook_sender.endpoints import CONNECTION, SEAL, SECRET, answer, read_request
from tests.integration.webhook_sender.endpoints import endpoint as sealed_endpoint
from tests.integration.webhook_sender.senders import running
from tests.raw_servers import serving_raw
from tests.servers import free_port, wait_for

PATH = "/hooks/T0123456789/very%20secret?key=hidden-value&b=%3Chtml%3E-token"
TOKENS = ("T0123456789", "very%20secret", "very secret", "hidden-value", "html>-token", SECRET.removeprefix("whsec_"))
QUOTING = json.dumps({"error": f"Cannot POST {PATH}", "yours": SECRET}).replace("/", "\\/").encode()


class RealChannels:
    """Makes real channels, which give up early."""

    def make(self, endpoint: Endpoint) -> WebhookChannel:
        return WebhookChannel(endpoint, replace(CONNECTION, answer_s=0.3, connect_s=0.5), SystemClock(), SEAL)


@asynccontextmanager
async def answering(raw: bytes | None) -> AsyncIterator[str]:
    """Serve this answer, hang without one; yield the URL with its tokens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if raw is None:
            await asyncio.Event().wait()
        writer.write(raw or b"")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with serving_raw(serve) as url:
        yield url + PATH


@pytest.mark.parametrize(
    "raw",
    [
        answer("200 OK", QUOTING),
        answer("404 Not Found", QUOTING),
        answer("500 hidden-value", QUOTING),
        answer("410 Gone", QUOTING),
        answer("429 Slow Down", QUOTING, "Retry-After: 1"),
        answer("302 Found", QUOTING, f"Location: https://example.com{PATH}"),
        b"not HTTP: " + PATH.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + PATH.encode() + b"\r\n\r\n",
        b"",
        None,
    ],
)
async def test_answers_leave_no_token(world: World, raw: bytes | None) -> None:
    """Whether they quote it or are not HTTP at all."""
    async with answering(raw) as url:
        await _leaves_no_token(world, url)


async def test_failed_connections_leave_no_token(world: World) -> None:
    """Refused, without TLS, and to an address that is refused."""
    async with answering(b"") as url:
        for one in (f"http://127.0.0.1:{free_port()}{PATH}", url.replace("http:", "https:"), f"http://10.0.0.5{PATH}"):
            await world.redis.flushdb()
            await _leaves_no_token(world, one)


async def _leaves_no_token(world: World, url: str) -> None:
    """Deliver to a URL until the first outcome; check what the sender logged and reported."""
    one = with_fields(sealed_endpoint(url), endpoint_id="we_1", number=1)
    channels: Any = RealChannels()
    with structlog.testing.capture_logs([structlog.processors.format_exc_info]) as logged:
        await publish(world.redis, one)
        async with running(world.redis, channels):
            await deliver(world.redis, 1, 0, 2)
            events = "{webhook.1}:events"
            await wait_for(lambda: _outcomes(world.redis, events), what="an outcome")
    shown = json.dumps(logged, default=str) + str(await world.redis.xrange(events))
    assert "we_1" in shown
    for token in TOKENS:
        assert token not in shown, (token, shown)


async def _outcomes(redis: Any, events: str) -> bool:
    # one event says that a delivery began, or that the endpoint was paused
    return bool(await redis.xlen(events) > 1) or b"paused" in b"".join(
        value for _, fields in await redis.xrange(events) for value in fields.values()
    )
