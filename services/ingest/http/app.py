"""The application: every operation of the table, under `/api/v1` and `/api` alike.

A request that is not valid HTTP never reaches a handler, but its answer has the API's form too. That answer quotes
nothing of the request, because bytes that cannot be parsed may hold a key.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRoute, MatchInfoError, UrlDispatcher

from services.ingest.http.errors import ApiError
from services.ingest.http.gateway import Gateway
from services.ingest.http.middleware import POLICY, SECURITY_HEADERS, ApiMiddleware, new_request_id
from services.ingest.http.operation import Operation
from services.ingest.http.responses import error_response
from services.ingest.metrics import IngestMetrics

PREFIXES = ("/api/v1", "/api")
_DEEPEST_PATH = 32
_HOOKS = "/hooks/"
_MOST_FOUND, _LONGEST_FOUND = 64, 500
# phrases in the errors of aiohttp's parser, and their meaning for the client
_CAUSES = (
    ("https traffic", "this port serves HTTP, but the request is HTTPS"),
    ("content-length", "its Content-Length is not one whole number, or it also has a Transfer-Encoding"),
    ("transfer-encoding", "its Transfer-Encoding is not chunked"),
    ("chunk", "the chunks of its body are broken"),
    ("'host'", "it has no Host header"),
    ("too many headers", "it has too many headers"),
    ("more than", "its first line or a header is longer than 8,190 bytes"),
    ("method", "its method cannot be read"),
    ("status line", "its first line cannot be read"),
    ("version", "its HTTP version cannot be read"),
    ("url", "its URL cannot be read: percent-encode spaces and all that is not ASCII"),
    ("header", "a header is malformed"),
)


def build_app(gateway: Gateway, operations: Iterable[Operation]) -> web.Application:
    """Build the application of one ingest process."""
    table = {(operation.method, path): operation for operation in operations for path in paths_of(operation)}
    # `bodies` enforces the limits; aiohttp's own limit would answer first, in another form
    api = ApiMiddleware(gateway, table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way to give it a router
        app = web.Application(router=_Router(), middlewares=[api.middleware()], client_max_size=0)
    app.on_response_prepare.append(api.add_headers)
    for (method, path), operation in table.items():
        for name in (method, "HEAD") if method == "GET" else (method,):
            route = path.replace(f"{{{operation.wide}}}", f"{{{operation.wide}:.*}}")
            app.router.add_route(name, route, _unreachable, expect_handler=meet_expectation)
    return app


def paths_of(operation: Operation) -> list[str]:
    """Return the paths at which an operation is served."""
    return [operation.path] if operation.rooted else [prefix + operation.path for prefix in PREFIXES]


class _Router(UrlDispatcher):
    """Rejects paths with more parts than any call has: aiohttp's search takes quadratic time in their number.

    It remembers what it found for hooks, since a provider posts hundreds of requests a second to one path.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[tuple[str, str], tuple[dict[str, str], AbstractRoute]] = {}

    async def resolve(self, request: web.Request) -> web.UrlMappingMatchInfo:
        path = request.rel_url.raw_path
        known = self._found.get((request.method, path))
        if known is not None:
            return web.UrlMappingMatchInfo(*known)
        if path.count("/") > _DEEPEST_PATH:
            return MatchInfoError(web.HTTPNotFound())
        found = await super().resolve(request)
        if path.startswith(_HOOKS) and found.http_exception is None and len(path) < _LONGEST_FOUND:
            if len(self._found) >= _MOST_FOUND:  # strangers try many tokens
                self._found.clear()
            self._found[request.method, path] = (dict(found), found.route)
        return found


async def _unreachable(_request: web.Request) -> web.StreamResponse:
    """Fill the place of every operation's handler: the middleware calls the operation itself."""
    raise ApiError("INTERNAL_ERROR")


def malformed_response(error: BaseException | None, metrics: IngestMetrics) -> web.Response:
    """Build the answer to a request that aiohttp could not parse, and count it."""
    metrics.request("", "", 400, 0.0)
    response = error_response(ApiError("MALFORMED_REQUEST", f"the HTTP request cannot be read: {_cause(error)}"))
    response.headers.update(SECURITY_HEADERS | {"Content-Security-Policy": POLICY})
    return _identified(response)


def _identified(response: web.Response) -> web.Response:
    response.headers["X-Request-Id"] = new_request_id()
    response.force_close()
    return response


def _cause(error: BaseException | None) -> str:
    said = str(getattr(error, "message", "")).partition("\n")[0].lower()
    return next((cause for words, cause in _CAUSES if words in said), "it is malformed")


async def meet_expectation(request: web.Request) -> web.Response | None:
    """Answer the Expect header: accept 100-continue, refuse anything else (RFC 9110, 10.1.1)."""
    if request.headers.get("Expect", "").strip().lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # the interim response does not count as output of the answer
        request.writer.output_size = 0
        return None
    return _identified(
        error_response(ApiError("MALFORMED_REQUEST", "the only supported value of Expect is 100-continue"))
    )
