"""What every service answers about itself, here through the entrance like everything else: `/health`, `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, cast

import msgspec
from aiohttp import web

from services.ingest.call import Call, Handler, Operation
from shared.web import operations_routes


class HealthAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """`reasons` says why a part does not work; `warnings`, if there are any, what to mend in one that does."""

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
    Operation("GET", "/health", "health", "Is everything well? 503 with the reasons if not", _own("/health"), None,
              HealthAnswer, (200, 503), rooted=True, limited=False, queue=False),
    Operation("GET", "/metrics", "metrics", "Metrics for Prometheus", _own("/metrics"), None,
              rooted=True, limited=False, queue=False, content_types=("text/plain",)),
]  # fmt: skip
