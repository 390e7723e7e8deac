"""Web: health, metrics and serving, the same for every service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from shared.errors import SettingsError
from shared.web import Health, operations_routes, serving


def _app(health: Health) -> web.Application:
    app = web.Application()
    app.add_routes(operations_routes(health, lambda: (b"up 1\n", "text/plain; version=0.0.4; charset=utf-8")))
    return app


@asynccontextmanager
async def _get(port: int, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        yield answer


async def test_a_healthy_service_answers_200() -> None:
    """A service without reasons has the status ok."""
    async with serving(_app(Health("thing")), "127.0.0.1", 0) as port, _get(port, "/health") as answer:
        assert answer.status == 200
        assert await answer.json() == {"status": "ok", "service": "thing", "reasons": {}}


async def test_an_unhealthy_service_answers_503_with_its_reasons() -> None:
    """Each failing part has a reason; a part that recovers has none."""
    health = Health("thing")
    health.report("redis", "cannot connect")
    health.report("disk", "full")
    health.report("disk", None)
    async with serving(_app(health), "127.0.0.1", 0) as port, _get(port, "/health") as answer:
        assert answer.status == 503
        assert (await answer.json())["reasons"] == {"redis": "cannot connect"}


async def test_a_warning_leaves_a_service_healthy() -> None:
    """Warnings are listed next to the status until they are cleared."""
    health = Health("thing")
    health.warn("redis_eviction", "may delete")
    health.warn("disk", "slow")
    health.warn("disk", None)
    async with serving(_app(health), "127.0.0.1", 0) as port, _get(port, "/health") as answer:
        assert answer.status == 200
        assert (await answer.json()) == {
            "status": "ok", "service": "thing", "reasons": {}, "warnings": {"redis_eviction": "may delete"}
        }  # fmt: skip


async def test_metrics_keep_their_content_type() -> None:
    """The answer has the content type of the exposition, with its version."""
    async with serving(_app(Health()), "127.0.0.1", 0) as port, _get(port, "/metrics") as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert await answer.read() == b"up 1\n"


async def test_a_port_in_use_is_a_settings_error() -> None:
    """A second server on a port fails with a clear message."""
    async with serving(_app(Health()), "127.0.0.1", 0) as port:
        with pytest.raises(SettingsError, match=f"port {port} on 127.0.0.1 is already in use"):
            async with serving(_app(Health()), "127.0.0.1", port):
                pytest.fail("the second server started")
