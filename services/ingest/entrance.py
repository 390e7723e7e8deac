"""The entrance: what every request passes on its way in and out.

In: its id, its origin, its key and scope, its share of the limit. Out: errors as JSON, headers, the log, the metrics.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler as AioHandler
from aiohttp.typedefs import Middleware

from services.ingest.answers import error_answer
from services.ingest.call import Call, Operation
from services.ingest.gateway import Gateway
from services.ingest.keys import ApiKey
from services.ingest.origin import client_address, refusal
from services.ingest.problems import ApiError
from services.ingest.request_log import masked, masked_query
from shared.errors import QueueFullError, QueueUnavailableError
from shared.events import ApiRequest
from shared.logs import get_logger

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_HEADERS = "kurir_headers"
_UNLOGGED = frozenset({"/health", "/metrics"})
_POLICY = "default-src 'none'; frame-ancestors 'none'"
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "kurir",
}

log = get_logger()


class Entrance:
    """Wraps every handler of the application."""

    def __init__(self, gateway: Gateway, operations: Mapping[tuple[str, str], Operation]) -> None:
        self._gateway = gateway
        self._operations = operations

    def middleware(self) -> Middleware:
        """Return the aiohttp middleware."""

        @web.middleware
        async def enter(request: web.Request, handler: AioHandler) -> web.StreamResponse:
            return await self._enter(request, handler)

        return enter

    async def _enter(self, request: web.Request, handler: AioHandler) -> web.StreamResponse:
        began = self._gateway.clock.monotonic()
        call = self._call(request)
        route, operation = self._route(request)
        with structlog.contextvars.bound_contextvars(request_id=call.request_id):
            headers = {"X-Request-Id": call.request_id}
            request[_HEADERS] = headers
            error = ""
            try:
                response = await self._serve(call, operation, handler, headers)
            except ApiError as raised:
                response = error_answer(raised)
                error = f"{raised.code}: {raised.message}"
            self._record(call, route, response.status, self._gateway.clock.monotonic() - began, error)
            return response

    async def _serve(
        self, call: Call, operation: Operation | None, handler: AioHandler, headers: dict[str, str]
    ) -> web.StreamResponse:
        try:
            self._admit(call, operation)
            if operation is None:
                return await handler(call.request)  # aiohttp's own 404 or 405
            self._need_queue(operation)
            if operation.limited:
                await self._charge(call, headers)
            return await operation.handler(call)
        except QueueFullError as full:
            retry = {"Retry-After": str(full.retry_after_s)}
            raise ApiError("BACKLOG_FULL", f"not now: {full.reason}", headers=retry) from full
        except QueueUnavailableError as away:
            raise ApiError("QUEUE_UNAVAILABLE", headers={"Retry-After": "2"}) from away
        except web.HTTPException as raised:
            raise _translated(raised) from raised
        except ApiError:
            raise
        except Exception as unexpected:
            log.exception("request failed", route=operation.path if operation else "")
            raise ApiError("INTERNAL_ERROR") from unexpected

    def _call(self, request: web.Request) -> Call:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        trusted = self._gateway.settings.trusted_proxies
        forwarded = request.headers.getall("X-Forwarded-For", []) if trusted else []
        return Call(request, self._gateway, client_address(_peer(request), forwarded, trusted), request_id)

    def _route(self, request: web.Request) -> tuple[str, Operation | None]:
        resource = request.match_info.route.resource
        path = resource.canonical if resource else ""
        method = "GET" if request.method == "HEAD" else request.method
        return path, self._operations.get((method, path))

    def _admit(self, call: Call, operation: Operation | None) -> None:
        """Raise unless the caller may make this call."""
        keyring = self._gateway.keyring
        if operation is not None and operation.scope is None and operation.rooted:
            return
        if not keyring:
            reason = refusal(_peer(call.request), call.request.headers)
            if reason:
                raise ApiError("LOOPBACK_ONLY", reason)
            return
        call.key = self._key(call.request)
        if operation is not None and operation.scope is not None and not call.key.allows(operation.scope):
            raise ApiError("MISSING_SCOPE", f"this call needs a key with the scope {operation.scope}")

    def _key(self, request: web.Request) -> ApiKey:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key = self._gateway.keyring.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError("UNAUTHORIZED", headers={"WWW-Authenticate": 'Bearer realm="kurir"'})
        return key

    def _need_queue(self, operation: Operation) -> None:
        """Raise 503 at once while Redis is away, rather than after its time-outs."""
        if operation.queue and not self._gateway.records.watch.available:
            raise ApiError("QUEUE_UNAVAILABLE", headers={"Retry-After": "2"})

    async def _charge(self, call: Call, headers: dict[str, str]) -> None:
        """Charge the request to its key, else its address; raises 429. Without Redis nobody is limited."""
        records = self._gateway.records
        if records.limits is None or not records.watch.available:
            return
        caller = f"key:{call.key.name}" if call.key else f"ip:{call.client}"
        try:
            allowance = await records.limits.take(caller)
        except (QueueUnavailableError, QueueFullError):
            return
        headers.update(allowance.headers())
        if not allowance.allowed:
            raise ApiError("RATE_LIMITED", f"more than {allowance.limit} requests; wait {allowance.retry_s} s")

    async def dress(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put the headers on every answer, also one that is streamed; a signal of aiohttp before its head goes out."""
        response.headers.setdefault("Content-Security-Policy", _POLICY)  # pages bring their own
        response.headers.update(_SECURITY)
        response.headers.update(request.get(_HEADERS, {}))

    def _record(self, call: Call, route: str, status: int, seconds: float, error: str) -> None:
        request = call.request
        self._gateway.metrics.request(request.method, route, status, seconds)
        if request.path in _UNLOGGED:
            return
        milliseconds = int(seconds * 1000)
        log.info("request", method=request.method, route=route, status=status, duration_ms=milliseconds)
        body = masked(bytes(call.head)) if call.head else masked_query(request.query_string[:4096])
        self._gateway.request_log.add(
            ApiRequest(
                at_ms=self._gateway.clock.now_ms(),
                endpoint=request.path[:500],
                method=request.method,
                ip_address=call.client,
                body=body,
                status=status,
                duration_ms=milliseconds,
                error=error,
                request_id=call.request_id,
                api_key=call.key_name,
            )
        )


def _peer(request: web.Request) -> str:
    return request.remote or ""


def _translated(raised: web.HTTPException) -> ApiError:
    """Translate aiohttp's own refusals."""
    if raised.status == 404:
        return ApiError("NOT_FOUND")
    if isinstance(raised, web.HTTPMethodNotAllowed):
        return ApiError("METHOD_NOT_ALLOWED", headers={"Allow": ", ".join(sorted(raised.allowed_methods))})
    if raised.status == 413:
        return ApiError("BODY_TOO_LARGE")
    return ApiError("MALFORMED_REQUEST", raised.reason)
