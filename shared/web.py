"""The HTTP that every service offers about itself, and how an aiohttp application is served."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from shared.errors import SettingsError

_SHUTDOWN_TIMEOUT_S = 5.0
_IDLE_S = 75.0
_BAD_ADDRESS = {
    errno.EADDRINUSE: "port {port} on {host} is already in use",
    errno.EACCES: "port {port} on {host} may not be opened by this user",
    errno.EADDRNOTAVAIL: "{host} is not an address of this machine",
}


class Health:
    """What keeps a service from working right now, by part; no reasons mean healthy."""

    def __init__(self, service: str = "") -> None:
        self.service = service
        self._reasons: dict[str, str] = {}

    def report(self, part: str, reason: str | None) -> None:
        """Note why a part does not work; None once it works again."""
        if reason is None:
            self._reasons.pop(part, None)
        else:
            self._reasons[part] = reason

    def reasons(self) -> dict[str, str]:
        """Return the reasons of the parts that do not work."""
        return dict(self._reasons)


def operations_routes(health: Health, metrics: Callable[[], tuple[bytes, str]]) -> list[web.RouteDef]:
    """Return the routes `GET /health` (200, or 503 with reasons) and `GET /metrics`.

    `metrics` returns the exposition and its content type.
    """

    async def show_health(_request: web.Request) -> web.Response:
        reasons = health.reasons()
        status = "unavailable" if reasons else "ok"
        body = orjson.dumps({"status": status, "service": health.service, "reasons": reasons})
        return web.Response(body=body, status=503 if reasons else 200, content_type="application/json")

    async def show_metrics(_request: web.Request) -> web.Response:
        body, content_type = metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return [web.get("/health", show_health), web.get("/metrics", show_metrics)]


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, idle_s: float = _IDLE_S) -> AsyncIterator[int]:
    """Serve an application while the block runs; yields the bound port (`port` 0 takes a free one).

    Raises SettingsError if the address cannot be bound. Requests in flight get 5 s to end. A connection whose next
    request does not arrive whole within `idle_s` is closed.
    """
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_S, keepalive_timeout=idle_s
    )  # fmt: skip
    await runner.setup()
    try:
        # no SO_REUSEPORT: two systems on one port must collide, not share the requests
        site = web.TCPSite(runner, host, port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            known = _BAD_ADDRESS.get(error.errno or 0, "cannot listen on {host}:{port}: {error}")
            raise SettingsError([known.format(host=host, port=port, error=error)]) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
