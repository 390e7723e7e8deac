"""Ingest's calls about itself: `/health`, `/metrics`, `/openapi.json`, and `/docs`, which shows that document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Literal, cast

import msgspec
from aiohttp import web

from services.ingest.http.openapi import make_document
from services.ingest.http.operation import JSON, Call, Handler, Operation
from services.ingest.http.pages import page, read_page_file
from shared.web import operations_routes


class HealthAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """`reasons` says why each failing part fails; `warnings`, if any, what to fix although it works."""

    status: Literal["ok", "unavailable"]
    service: str
    reasons: dict[str, str]
    warnings: dict[str, str] = msgspec.field(default_factory=dict)


def _own(path: str) -> Handler:
    async def serve(call: Call) -> web.StreamResponse:
        gateway = call.gateway
        gateway.metrics.dropped(gateway.request_log.dropped)
        routes = {route.path: route.handler for route in operations_routes(gateway.health, gateway.metrics.exposition)}
        handler = cast("Callable[[web.Request], Awaitable[web.StreamResponse]]", routes[path])
        return await handler(call.request)

    return serve


OPERATIONS = [
    Operation("GET", "/health", "health", "Check the service's health: 503 with the reasons if it fails",
              _own("/health"), None,
              HealthAnswer, (200, 503), rooted=True, limited=False, queue=False),
    Operation("GET", "/metrics", "metrics", "Return metrics for Prometheus", _own("/metrics"), None,
              rooted=True, limited=False, queue=False, content_types=("text/plain",)),
]  # fmt: skip


def document_operations(others: Callable[[], Iterable[Operation]]) -> list[Operation]:
    """Return the two operations that document all operations: the `others` and themselves."""
    own: list[Operation] = []

    @cache
    def document() -> bytes:
        return msgspec.json.encode(make_document([*others(), *own]))

    async def show_document(_call: Call) -> web.Response:
        return web.Response(body=document(), content_type=JSON, charset="utf-8")

    async def show_docs(_call: Call) -> web.Response:
        # escaped, so that no description can end the script element
        data = document().decode().replace("<", "\\u003c")
        script = read_page_file("docs.js").replace('"__DOCUMENT__"', data)
        return page("Kurir API", read_page_file("docs.html"), style=read_page_file("docs.css"), script=script)

    own += [
        Operation("GET", "/openapi.json", "document", "Return this document", show_document, None, rooted=True,
                  limited=False, queue=False),
        Operation("GET", "/docs", "docs", "Show this document as a web page", show_docs, None, rooted=True,
                  limited=False, queue=False, content_types=("text/html",)),
    ]  # fmt: skip
    return own
