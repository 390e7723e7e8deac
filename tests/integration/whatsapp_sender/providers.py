"""Providers for the tests: a scripted HTTP server, one that loses connections, and a channel.

An `Api` is one of the two drivers with what its provider demands of a request; the suites that take one run for both.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from services.whatsapp_sender.channel import WhatsAppChannel
from services.whatsapp_sender.driver import Driver
from services.whatsapp_sender.meta import Meta
from services.whatsapp_sender.payload import Payload, WhatsAppMessage
from services.whatsapp_sender.qiscus import Qiscus
from services.whatsapp_sender.settings import Connection
from shared.blasts import Blast
from shared.clock import Clock, SystemClock
from shared.jobs import Job, Recipient
from shared.sending.breaker import BreakerPolicy
from shared.templates import Template, WhatsAppContent
from tests.integration.whatsapp_sender.look_alikes import meta_problem, qiscus_problem
from tests.servers import free_port

ACCEPTED = {
    "messaging_product": "whatsapp",
    "contacts": [{"input": "6281234567890", "wa_id": "6281234567890"}],
    "messages": [{"id": "wamid.HBgNNjI4MTIzNDU2Nzg5MBUCABEYEjdGRkE"}],
}
# with room for a slow machine, and a breaker that opens after five failures
CONNECTION = Connection(5.0, 10.0, BreakerPolicy(failures=5, open_s=60.0, probe_every_s=0.05))
# how the body of every message ends
END_OF_MESSAGE = b'"biz_opaque_callback_data":"b:0:whatsapp"}'
_TEMPLATE = Template("t", "T", ["whatsapp"], whatsapp=WhatsAppContent("hello", "id", body_variables=["name"]))


def message_for(driver: Driver, template: Template = _TEMPLATE, **variables: Any) -> WhatsAppMessage:
    """Render a message to Siti as this driver does."""
    blast = Blast("b", template, ["whatsapp"], "normal", 0, {"whatsapp": 1}, 1)
    job = Job("b", 0, "whatsapp", "normal", Recipient("6281234567890", "Siti", variables), 0)
    return Payload(blast, driver).fill(job)


def qiscus(url: str) -> Qiscus:
    """Return the driver of a Qiscus app at this server."""
    return Qiscus(url, "app", "42", "s3cret")


def meta(url: str) -> Meta:
    """Return the driver of a number at this server, as if it were Meta's."""
    return Meta(f"{url}/v23.0", "106540352242922", "s3cret")


@dataclass(frozen=True)
class Api:
    """A driver for a server's URL, and what its provider demands: `problem` names what is wrong with a request."""

    name: str
    driver: Callable[[str], Driver]
    problem: Callable[[web.Request, bytes], str]
    message: WhatsAppMessage

    @property
    def path(self) -> str:
        """The path that messages are posted to."""
        return self.driver("").messages_url

    def providing(self, port: int = 0) -> AbstractAsyncContextManager[Provider]:
        """Run a provider that demands what this API demands; see `providing`."""
        return providing(port, self.problem)

    def opened(
        self, url: str, clock: Clock | None = None, **changes: Any
    ) -> AbstractAsyncContextManager[WhatsAppChannel]:
        """Open a channel to a provider at this URL; `changes` are those of its connection."""
        return opened(self.driver(url), clock, **changes)


APIS = (
    Api("qiscus", qiscus, qiscus_problem, message_for(qiscus(""))),
    Api("meta", meta, meta_problem, message_for(meta(""))),
)


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
    """An HTTP server that gives the same response to every message, and records the requests.

    `demands` names what is wrong with a request, which is then refused; an empty message is not a message.
    """

    status: int = 200
    body: object = field(default_factory=lambda: ACCEPTED)
    headers: dict[str, str] = field(default_factory=dict)
    wait: Callable[[], Awaitable[object]] | None = None
    decide: Callable[[web.Request], tuple[int, object]] | None = None
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    port: int = 0
    demands: Callable[[web.Request, bytes], str] | None = None
    problems: list[str] = field(default_factory=list)

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
        problem = self.demands(request, self.bodies[-1]) if self.demands and self.bodies[-1] != b"{}" else ""
        if problem:
            self.problems.append(problem)
            return web.json_response(error_body(100, problem), status=400)
        self.connections.add(request.transport.get_extra_info("peername") if request.transport else None)
        if self.wait is not None:
            await self.wait()
        if self.decide is not None:
            self.answers(*self.decide(request))
        body = self.body if isinstance(self.body, str | bytes) else json.dumps(self.body)
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=self.status, body=raw, headers=self.headers)


@asynccontextmanager
async def providing(
    port: int = 0, demands: Callable[[web.Request, bytes], str] | None = None
) -> AsyncIterator[Provider]:
    """Run a provider while the block runs, on a free port unless one is named; no request may lack what it demands."""
    provider = Provider(port=port or free_port(), demands=demands)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", provider.port).start()
    try:
        yield provider
    finally:
        await runner.cleanup()
    assert provider.problems == []


@asynccontextmanager
async def opened(driver: Driver, clock: Clock | None = None, **changes: Any) -> AsyncIterator[WhatsAppChannel]:
    """Open a channel with this driver while the block runs."""
    channel = WhatsAppChannel(driver, replace(CONNECTION, **changes), clock or SystemClock())
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()
