"""HTTP of every service: health, metrics, access with the internal secret, and serving an aiohttp application."""

from __future__ import annotations

import errno
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from shared.errors import SettingsError

_SHUTDOWN_TIMEOUT_S = 5.0
_IDLE_S = 75.0
_OPEN = frozenset({"/health", "/metrics"})
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BAD_ADDRESS = {
    errno.EADDRINUSE: "port {port} on {host} is already in use",
    errno.EACCES: "this user is not allowed to open port {port} on {host}",
    errno.EADDRNOTAVAIL: "{host} is not an address of this machine",
}


Refuse = Callable[[BaseException | None], web.Response]


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Options for serving an application.

    A connection is closed if its next request does not arrive completely within `idle_s`. `refuse` makes the answer to
    a request that is not valid HTTP; the default is aiohttp's plain text. Without `inflate` bodies stay compressed.
    """

    idle_s: float = _IDLE_S
    refuse: Refuse | None = None
    inflate: bool = True


_STRANGER: Mapping[str, object] = {
    "success": False,
    "code": "UNAUTHORIZED",
    "message": "this call needs the system's KURIR_INTERNAL_SECRET",
    "errors": [],
}


def content_type_of(request: web.Request) -> str:
    """Return the type of a request's body in lower case, without parameters; "" if its header cannot be read.

    aiohttp reads the header with the standard library's parser, which recurses over nested comments and converts the
    number of a parameter's section however long it is. Where this returns a type, `request.charset` can be read.
    """
    try:
        return request.content_type
    except (ValueError, RecursionError):
        return ""


class Health:
    """The reasons why parts of a service do not work at the moment; a service without reasons is healthy.

    Warnings are for parts that work but should be fixed before they cause harm; they leave a service healthy.
    """

    def __init__(self, service: str = "") -> None:
        self.service = service
        self._reasons: dict[str, str] = {}
        self._warnings: dict[str, str] = {}

    def report(self, part: str, reason: str | None) -> None:
        """Set the reason why a part does not work, or clear it with None."""
        if reason is None:
            self._reasons.pop(part, None)
        else:
            self._reasons[part] = reason

    def warn(self, part: str, warning: str | None) -> None:
        """Set the warning of a part that works but should be fixed, or clear it with None."""
        if warning is None:
            self._warnings.pop(part, None)
        else:
            self._warnings[part] = warning

    def warnings(self) -> dict[str, str]:
        """Return the warnings."""
        return dict(self._warnings)

    def reasons(self) -> dict[str, str]:
        """Return the reasons of the parts that do not work."""
        return dict(self._reasons)


def operations_routes(health: Health, metrics: Callable[[], tuple[bytes, str]]) -> list[web.RouteDef]:
    """Return the routes `GET /health` (200, or 503 with reasons; warnings if any) and `GET /metrics`.

    `metrics` returns the exposition and its content type.
    """

    async def show_health(_request: web.Request) -> web.Response:
        reasons, warnings = health.reasons(), health.warnings()
        status = "unavailable" if reasons else "ok"
        body = {"status": status, "service": health.service, "reasons": reasons}
        if warnings:
            body["warnings"] = warnings
        return web.Response(body=orjson.dumps(body), status=503 if reasons else 200, content_type="application/json")

    async def show_metrics(_request: web.Request) -> web.Response:
        body, content_type = metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return [web.get("/health", show_health), web.get("/metrics", show_metrics)]


def credentials(secret: str) -> dict[str, str]:
    """Return the header that authenticates one service to another (KURIR_INTERNAL_SECRET)."""
    return {"Authorization": f"Bearer {secret}"}


def guard(secret: str) -> Middleware:
    """Return a middleware that requires the secret for all paths except `/health` and `/metrics`."""
    expected = credentials(secret)["Authorization"].encode()

    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path in _OPEN or hmac.compare_digest(given, expected):
            return await handler(request)
        return web.json_response(_STRANGER, status=401, headers={"WWW-Authenticate": 'Bearer realm="kurir internal"'})

    return check


@asynccontextmanager
async def serving(
    app: web.Application, host: str, port: int, options: HttpOptions = HttpOptions()
) -> AsyncIterator[int]:
    """Serve an application while the block runs; yields the bound port (`port` 0 binds a free one).

    Raises SettingsError if the address cannot be bound. Requests in flight get 5 s to finish.
    """
    runner = _Runner(app, options)
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


class _Connection(web.RequestHandler):
    """A client's connection; `refuse` answers a request that is not valid HTTP, and the connection is then closed."""

    __slots__ = ("_refuse",)

    def __init__(self, server: _Server, refuse: Refuse, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._refuse = refuse

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed; handle other errors as aiohttp does."""
        if status != 400 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        return self._refuse(exc)


class _Server(web.Server):
    """Creates a `_Connection` for each client."""

    def __init__(self, made: web.Server, refuse: Refuse, settings: dict[str, Any]) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory)
        self._refuse = refuse
        self._settings = settings

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._refuse, loop=self._loop, **self._settings)


class _Runner(web.AppRunner):
    """Runs an application with its options."""

    def __init__(self, app: web.Application, options: HttpOptions) -> None:
        self._settings: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": options.idle_s,
            "auto_decompress": options.inflate,
        }
        super().__init__(app, shutdown_timeout=_SHUTDOWN_TIMEOUT_S, **self._settings)
        self._refuse = options.refuse

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return made if self._refuse is None else _Server(made, self._refuse, self._settings)
