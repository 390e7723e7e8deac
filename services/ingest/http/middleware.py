"""The middleware: what every request passes on its way in and out.

In: its id, its key, the rate limit, its origin and scope. Out: errors as JSON, headers, the log, the metrics. A request
without a valid key is charged to its address before any other work, so that a flood of them is cheap to refuse. Such
refusals are counted, not stored one by one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler as AioHandler
from aiohttp.typedefs import Middleware

from services.ingest.api_keys import ApiKey
from services.ingest.http.bodies import refuse_body
from services.ingest.http.client_address import charged_address, client_address, refusal
from services.ingest.http.errors import ApiError, as_not_taken, queue_unavailable
from services.ingest.http.gateway import Gateway
from services.ingest.http.masking import masked_body, masked_path, masked_query
from services.ingest.http.operation import JSON, LOGGED_BODY_BYTES, Call, Operation, check_query
from services.ingest.http.origins import is_foreign
from services.ingest.http.responses import error_response
from shared.errors import QueueFullError, QueueUnavailableError
from shared.events import ApiRequest
from shared.logs import get_logger, note
from shared.recipient_masks import masked

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_HEADERS = "kurir_headers"
_REFRESH = "X-Kurir-Refresh"
_LOGGED_PATH = 500
_LOGGED_ERROR = 1000
_SECRET_PLACES = re.compile(r"\{(?:token|secret|key)\}")
_UNLOGGED = frozenset({"/health", "/metrics"})
# a caller without a valid key can cause any number of these, so they are counted, not stored
_COUNTED_ONLY = frozenset({"UNAUTHORIZED", "LOOPBACK_ONLY", "RATE_LIMITED"})
POLICY = "default-src 'none'; frame-ancestors 'none'"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "kurir",
}

OF_ANSWERS = {"Content-Security-Policy": POLICY, **SECURITY_HEADERS}
# seeded by the system; an id only connects an answer with its lines in the log, so it need not be hard to guess
_ids = random.Random()
log = get_logger()


def new_request_id() -> str:
    """Return an id for a request that brings none."""
    return f"{_ids.getrandbits(64):016x}"


class ApiMiddleware:
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
        # requests that are refused unread, or that match no call, may carry secrets too
        call.guarded = operation is None or operation.guarded
        # aiohttp handles each request in a task, so in a context, of its own
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        headers = {"X-Request-Id": call.request_id}
        request[_HEADERS] = headers
        error: ApiError | None = None
        try:
            response = await self._serve(call, operation, handler, headers)
        except ApiError as raised:
            error = as_not_taken(raised) if operation is not None and operation.hook else raised
            response = error_response(error)
        seconds = self._gateway.clock.monotonic() - began
        self._gateway.metrics.request(request.method, route, response.status, seconds)
        if not self._is_only_counted(call, operation, error):
            self._record(call, operation, _Outcome(route, response.status, seconds, error))
        return response

    async def _serve(
        self, call: Call, operation: Operation | None, handler: AioHandler, headers: dict[str, str]
    ) -> web.StreamResponse:
        try:
            call.key = await self._key(call, operation)
            if operation is None or operation.limited:
                await self._charge(call, headers)
            self._admit(call, operation)
            if operation is None:
                return await handler(call.request)  # aiohttp's own 404 or 405
            if not operation.open_query:
                check_query(operation, call.request.query)
            self._need_queue(operation)
            if operation.body is None and not operation.rooted:
                await refuse_body(call)
            return _for_caller(call, operation, await operation.handler(call))
        except QueueFullError as full:
            retry = {"Retry-After": str(full.retry_after_s)}
            what = (
                f"{full.reason}; try again after the time in Retry-After, with the same Idempotency-Key if you sent one"
            )
            raise ApiError("BACKLOG_FULL", what, headers=retry) from full
        except QueueUnavailableError as away:
            raise queue_unavailable(away.why) from away
        except web.HTTPException as raised:
            raise _translated(raised) from raised
        except ApiError:
            raise
        except Exception as unexpected:
            log.exception("request failed", route=operation.path if operation else "")
            raise ApiError("INTERNAL_ERROR") from unexpected

    def _call(self, request: web.Request) -> Call:
        given = request.headers.get("X-Request-Id")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else new_request_id()
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
        if operation is not None and operation.scope is None and operation.rooted:
            return
        if not self._gateway.keyring:
            reason = refusal(_peer(call.request), call.request.headers)
            if reason:
                raise ApiError("LOOPBACK_ONLY", reason)
            return
        if call.key is None:
            raise ApiError("UNAUTHORIZED", headers={"WWW-Authenticate": 'Bearer realm="kurir"'})
        if operation is not None and operation.scope is not None and not call.key.allows(operation.scope):
            raise ApiError("MISSING_SCOPE", f"this call needs an API key with the scope {operation.scope}")

    async def _key(self, call: Call, operation: Operation | None) -> ApiKey | None:
        """Return the key of the request's header, or of the console's session; None if it has neither.

        Calls that need no key do not ask for the session.
        """
        if not self._gateway.keyring:
            return None
        scheme, _, token = call.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._gateway.keyring.find(token.strip())
        needless = operation is not None and operation.rooted and operation.scope is None
        session = None if needless or not call.cookie else await self._gateway.records.find_session(call.cookie)
        if session is None:
            return None
        if is_foreign(call.request.method, call.request.headers, self._gateway.settings.mail.public_url):
            raise ApiError("FOREIGN_PAGE")
        return session.key

    def _need_queue(self, operation: Operation) -> None:
        """Raise 503 immediately while Redis is away, rather than after a timeout."""
        watch = self._gateway.records.watch
        if operation.queue and not watch.available:
            raise queue_unavailable(watch.why)

    async def _charge(self, call: Call, headers: dict[str, str]) -> None:
        """Charge the request to its key, or to its address without one; raises 429. Nothing is limited without Redis.

        A valid key has its own allowance: a flood from behind the same router does not use it up.
        """
        records = self._gateway.records
        if records.limits is None or not records.watch.available:
            return
        caller = f"key:{call.key.name}" if call.key else f"ip:{charged_address(call.client)}"
        try:
            allowance = await records.limits.take(caller)
        except (QueueUnavailableError, QueueFullError):
            return
        headers.update(allowance.headers())
        if not allowance.allowed:
            what = f"the limit of {allowance.limit} requests is used up; try again in {allowance.retry_s} s"
            raise ApiError("RATE_LIMITED", what)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers of every answer, streamed ones too; aiohttp calls this before it sends the head."""
        headers = response.headers
        if len(headers) == 1 and "Content-Type" in headers:  # as those of most answers
            headers.extend(OF_ANSWERS)
        else:
            headers.setdefault("Content-Security-Policy", POLICY)  # pages set their own
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers["Server"] = SECURITY_HEADERS["Server"]
        headers.update(request.get(_HEADERS, {}))

    def _is_only_counted(self, call: Call, operation: Operation | None, error: ApiError | None) -> bool:
        """Return whether a request is counted and not logged.

        The receipts that a hook takes are rows of their own. A wrong token of a hook is a stranger's.
        """
        if operation is not None and operation.hook and (error is None or error.code == "NOT_FOUND"):
            return True
        if call.request.path in _UNLOGGED or self._is_stranger(call, error):
            return True
        return operation is not None and (not operation.logged or (error is None and _is_refresh(call.request)))

    def _is_stranger(self, call: Call, error: ApiError | None) -> bool:
        """Return whether a caller without a valid key was refused; such requests are counted, not logged."""
        if error is None or call.key is not None or error.code not in _COUNTED_ONLY:
            return False
        return bool(self._gateway.keyring) or error.code == "LOOPBACK_ONLY"

    def _record(self, call: Call, operation: Operation | None, outcome: _Outcome) -> None:
        request, error = call.request, outcome.error
        milliseconds = int(outcome.seconds * 1000)
        note(
            "request",
            method=request.method,
            route=outcome.route,
            status=outcome.status,
            duration_ms=milliseconds,
            request_id=call.request_id,
        )
        self._gateway.request_log.add(
            ApiRequest(
                at_ms=self._gateway.clock.now_ms(),
                endpoint=_endpoint(request, operation),
                method=request.method,
                ip_address=call.client,
                body=_logged_body(call),
                status=outcome.status,
                duration_ms=milliseconds,
                error=_logged_error(error, guarded=call.guarded) if error is not None else "",
                request_id=call.request_id,
                api_key=call.key_name,
            )
        )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a request ended."""

    route: str
    status: int
    seconds: float
    error: ApiError | None


def _for_caller(call: Call, operation: Operation, response: web.StreamResponse) -> web.StreamResponse:
    """Return what the caller may see of an answer; streams are masked where they are written.

    Answers to other methods say only what the caller gave, or how many there are.
    """
    shows = operation.rooted or operation.nameless or call.request.method not in {"GET", "HEAD"}
    if shows or not call.masked or not isinstance(response, web.Response) or response.content_type != JSON:
        return response
    response.body = orjson.dumps(masked(orjson.loads(response.body)))  # type: ignore[arg-type]  # JSON answers are bytes
    return response


def _is_refresh(request: web.Request) -> bool:
    """Return whether an open page of the console asks again for what it shows; an API key's calls are all logged."""
    return request.method == "GET" and _REFRESH in request.headers and "Authorization" not in request.headers


def _endpoint(request: web.Request, operation: Operation | None) -> str:
    """Return the path for the log, or the route where the path holds a secret."""
    if operation is None:
        return masked_path(request.path[:_LOGGED_PATH])
    return operation.path if _SECRET_PLACES.search(operation.path) else request.path[:_LOGGED_PATH]


def _logged_error(error: ApiError, *, guarded: bool) -> str:
    """Return an error for the log; a guarded call's messages may quote values, so only their fields are listed."""
    if not (guarded and error.problems):
        return f"{error.code}: {error.message}"
    if error.code == "INVALID_QUERY":
        return error.code  # the field is a parameter's name, which the client chose
    return f"{error.code}: {', '.join(problem.field for problem in error.problems)}"[:_LOGGED_ERROR]


def _logged_body(call: Call) -> str:
    query = call.request.rel_url.raw_query_string[:LOGGED_BODY_BYTES]
    if not call.head:
        return masked_query(query, guarded=call.guarded)
    if call.request.headers.get("Content-Type", "").lower().startswith("application/x-www-form-urlencoded"):
        return masked_query(bytes(call.head).decode("utf-8", "replace"), guarded=call.guarded)
    return masked_body(bytes(call.head), guarded=call.guarded)


def _peer(request: web.Request) -> str:
    return request.remote or ""


def _translated(raised: web.HTTPException) -> ApiError:
    """Translate aiohttp's own errors."""
    if raised.status == 404:
        return ApiError("NOT_FOUND")
    if isinstance(raised, web.HTTPMethodNotAllowed):
        return ApiError("METHOD_NOT_ALLOWED", headers={"Allow": ", ".join(sorted(raised.allowed_methods))})
    if raised.status == 413:
        return ApiError("BODY_TOO_LARGE")
    return ApiError("MALFORMED_REQUEST", raised.reason)
