"""The application: every operation of the table, under `/api/v1` and `/api` alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from aiohttp import web
from aiohttp.web_urldispatcher import MatchInfoError, UrlDispatcher

from services.ingest.call import Operation
from services.ingest.entrance import Entrance
from services.ingest.gateway import Gateway
from services.ingest.malformed import meet_expectation
from services.ingest.problems import ApiError

PREFIXES = ("/api/v1", "/api")
_DEEPEST_PATH = 32


def build_app(gateway: Gateway, operations: Iterable[Operation]) -> web.Application:
    """Build the application of one ingest process."""
    table = {(operation.method, path): operation for operation in operations for path in paths_of(operation)}
    # the bodies' own limits hold; aiohttp's would come before them with an answer of another form
    entrance = Entrance(gateway, table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way to give it a router
        app = web.Application(router=_Router(), middlewares=[entrance.middleware()], client_max_size=0)
    app.on_response_prepare.append(entrance.dress)
    for method, path in table:
        for name in (method, "HEAD") if method == "GET" else (method,):
            app.router.add_route(name, path, _unreachable, expect_handler=meet_expectation)
    return app


def paths_of(operation: Operation) -> list[str]:
    """Return the paths that an operation answers at."""
    return [operation.path] if operation.rooted else [prefix + operation.path for prefix in PREFIXES]


class _Router(UrlDispatcher):
    """Looks no path up that has more parts than any call: aiohttp's own search takes the square of their number."""

    async def resolve(self, request: web.Request) -> web.UrlMappingMatchInfo:
        if request.rel_url.raw_path.count("/") > _DEEPEST_PATH:
            return MatchInfoError(web.HTTPNotFound())
        return await super().resolve(request)


async def _unreachable(_request: web.Request) -> web.StreamResponse:
    """Stand for every operation's handler: the entrance calls the operation itself."""
    raise ApiError("INTERNAL_ERROR")
