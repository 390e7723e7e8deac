"""Providers for the tests: a scripted HTTP server, one that loses connections, and a channel."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from services.whatsapp_sender.channel import WhatsAppChannel
from services.whatsapp_sender.payload import WhatsAppMessage
from services.whatsapp_sender.settings import QiscusSettings
from shared.clock import SystemClock
from shared.sending.breaker import BreakerPolicy
from tests.servers import free_port

ACCEPTED = {
    "messaging_product": "whatsapp",
    "contacts": [{"input": "6281234567890", "wa_id": "6281234567890"}],
    "messages": [{"id": "wamid.HBgNNjI4MTIzNDU2Nzg5MBUCABEYEjdGRkE"}],
}
MESSAGE = WhatsAppMessage("b:0:whatsapp", "", "6281234567890", b'{"to":"6281234567890","type":"template"}')


def error_body(code: int, message: str = "Something", details: str = "More about it") -> dict[str, Any]:
    """Return an error in the Cloud API's form."""
    data = {"messaging_product": "whatsapp", "details": details}
    return {
        "error": {
            "message": f"(#{code}) {message}",
            "type": "OAuthException",
            "code": code,
            "error_data": data,
            "fbtrace_id": "AjhPG9T",
        }
    }


@dataclass
class Provider:
    """An HTTP server that gives the same response to every message, and records the requests."""

    status: int = 200
    body: object = field(default_factory=lambda: ACCEPTED)
    headers: dict[str, str] = field(default_factory=dict)
    wait: Callable[[], Awaitable[object]] | None = None
    decide: Callable[[web.Request], tuple[int, object]] | None = None
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    port: int = 0

    @property
    def url(self) -> str:
        """The URL that it listens on."""
        return f"http://127.0.0.1:{self.port}"

    def answers(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        """Give this response from now on; text and bytes are sent unchanged, anything else as JSON."""
        self.status, self.body, self.headers = status, body, headers or {}

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        self.bodies.append(await request.read())
        self.connections.add(request.transport.get_extra_info("peername") if request.transport else None)
        if self.wait is not None:
            await self.wait()
        if self.decide is not None:
            self.answers(*self.decide(request))
        body = self.body if isinstance(self.body, str | bytes) else json.dumps(self.body)
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=self.status, body=raw, headers=self.headers)


@asynccontextmanager
async def providing(port: int = 0) -> AsyncIterator[Provider]:
    """Run a provider while the block runs, on a free port unless one is named."""
    provider = Provider(port=port or free_port())
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", provider.port).start()
    try:
        yield provider
    finally:
        await runner.cleanup()


def qiscus_settings(url: str, **changes: Any) -> QiscusSettings:
    """Return settings with time-outs and a breaker suitable for tests."""
    policy = BreakerPolicy(failures=5, open_s=60.0, probe_every_s=0.05)
    settings = QiscusSettings(url, "app", "42", "s3cret", connect_s=5.0, answer_s=10.0, breaker=policy)
    return replace(settings, **changes)


@asynccontextmanager
async def opened(url: str, **changes: Any) -> AsyncIterator[WhatsAppChannel]:
    """Open a channel to a provider while the block runs."""
    channel = WhatsAppChannel(qiscus_settings(url, **changes), SystemClock())
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving_raw(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run a server that passes each connection to a handler and then closes it; yield its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        scheme = "https" if context else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
