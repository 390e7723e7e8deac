"""The logger's HTTP: the log queries that ingest relays to clients, and internal calls of ingest and the CLI."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from services.logger import blast_views, filters, open_jobs, queries
from services.logger.backup import BackupError, BackupRefusedError, place_of
from services.logger.blast_rows import read_snapshot
from services.logger.counting import count_messages
from services.logger.dashboard import show_dashboard
from services.logger.exports import CONTENT_TYPES, Export
from services.logger.failures import failures_of
from services.logger.filters import InvalidQueryError
from services.logger.history import read_history
from services.logger.letters import read_letter
from services.logger.matching import NotConfirmedError, retry_matching
from services.logger.recent_ends import RecentEnds
from services.logger.redelivery import (
    NotRetryableError,
    Outbox,
    RetryRequest,
    UnknownBlastError,
    UnknownJobError,
)
from services.logger.sql import MOST_ROWS
from services.logger.store import QueryTooSlowError, StorageError, Store
from services.logger.watch import Watch
from services.logger.webhooks.endpoints import TooManyWebhooksError, UnknownWebhookError, WebhookDisabledError
from services.logger.webhooks.routes import WebhookRoutes, Webhooks
from shared.blasts import pack_blast
from shared.channels import CHANNELS
from shared.clock import Clock
from shared.errors import ERROR_CLASSES, KurirError
from shared.logs import get_logger
from shared.web import Health, content_type_of, guard, operations_routes

log = get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
_ERRORS: dict[type[KurirError], tuple[int, str]] = {
    UnknownJobError: (404, "JOB_NOT_FOUND"),
    UnknownBlastError: (404, "BLAST_NOT_FOUND"),
    NotRetryableError: (409, "JOB_NOT_RETRYABLE"),
    NotConfirmedError: (409, "CONFIRMATION_MISMATCH"),
    QueryTooSlowError: (503, "QUERY_TOO_SLOW"),
    BackupError: (409, "BACKUP_FAILED"),
    BackupRefusedError: (403, "BACKUP_REFUSED"),
    UnknownWebhookError: (404, "WEBHOOK_NOT_FOUND"),
    TooManyWebhooksError: (409, "TOO_MANY_WEBHOOKS"),
    WebhookDisabledError: (409, "WEBHOOK_DISABLED"),
    StorageError: (503, "DATABASE_UNAVAILABLE"),
}


@dataclass(frozen=True, slots=True)
class Access:
    """The logger's access rules: the services' secret, the allowed backup folders, whether only loopback is served."""

    secret: str
    backup_places: Sequence[Path]
    loopback: bool = True


@dataclass(frozen=True, slots=True)
class Logger:
    """The components that handlers use."""

    store: Store
    watch: Watch
    outbox: Outbox
    recent_ends: RecentEnds
    clock: Clock
    access: Access
    webhooks: Webhooks
    region: str = "ID"


def build_app(logger: Logger, health: Health, metrics: Callable[[], tuple[bytes, str]]) -> web.Application:
    """Build the application; each request must carry the secret, and on loopback also use a loopback host name.

    Otherwise a web page in a browser on this machine could reach it under the page's own host name (DNS rebinding).
    """
    names = [_own_names] if logger.access.loopback else []
    app = web.Application(middlewares=[_errors, *names, guard(logger.access.secret)])
    app.router.add_routes(operations_routes(health, metrics))
    logs = LogRoutes(logger)
    internal = InternalRoutes(logger)
    app.router.add_routes(
        [
            web.get("/api/logs/messages", logs.messages),
            web.get("/api/logs/messages/stats", logs.stats),
            web.get("/api/logs/api", logs.requests),
            web.get("/api/logs/system", logs.system),
            web.get("/api/dashboard", logs.dashboard),
            web.get("/api/messages/{job_id}", logs.message),
            web.get("/api/blasts", logs.blasts),
            web.get("/api/blasts/{blast_id}", logs.blast),
            web.get("/api/blasts/{blast_id}/failures", logs.failures),
            web.post("/internal/retry", internal.retry),
            web.post("/internal/retry-matching", internal.retry_matching),
            web.post("/internal/backup", internal.backup),
            web.post("/internal/query", internal.query),
            web.get("/internal/open-jobs", internal.open_jobs),
            web.get("/internal/blasts/{blast_id}/snapshot", internal.snapshot),
            web.get("/internal/messages/{job_id}/letter", internal.letter),
            *WebhookRoutes(logger.webhooks).routes(),
        ]
    )
    return app


class LogRoutes:
    """The log queries of clients, relayed by ingest."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._store = logger.store

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/logs/messages`."""
        wanted = filters.read_message_filter(request.query, self._logger.region)
        return await self._rows(request, queries.MESSAGES, lambda c, page: queries.find_messages(c, wanted, page))

    async def requests(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/logs/api`."""
        wanted = filters.read_api_filter(request.query)
        return await self._rows(request, queries.API, lambda c, page: queries.find_requests(c, wanted, page))

    async def system(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/logs/system`."""
        wanted = filters.read_system_filter(request.query)
        return await self._rows(request, queries.SYSTEM, lambda c, page: queries.find_system_events(c, wanted, page))

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/logs/messages/stats`."""
        wanted = filters.read_message_filter(request.query, self._logger.region)
        stats = await self._store.read(lambda connection: count_messages(connection, wanted))
        return _json({"success": True, "stats": stats})

    async def dashboard(self, _request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/dashboard`."""
        look = self._logger.watch.last
        now_ms = self._logger.clock.now_ms()
        shown = await self._store.read(lambda connection: show_dashboard(connection, look, now_ms))
        rates = self._logger.recent_ends.rates()
        shown["blasts"] = [blast_views.shown(blast, rates) for blast in shown["blasts"]]
        return _json({"success": True, "dashboard": shown})

    async def message(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/messages/{jobId}`."""
        job_id = request.match_info["job_id"]
        history = await self._store.read(lambda connection: read_history(connection, job_id))
        if history is None:
            raise UnknownJobError("no message has this id")
        return _json({"success": True, "message": history})

    async def blasts(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/blasts`."""
        wanted = blast_views.read_blast_filter(request.query)
        limit = filters.read_limit(request.query)
        cursor = request.query.get("cursor", "")
        found, following = await self._store.read(
            partial(blast_views.list_blasts, wanted=wanted, limit=limit, cursor=cursor)
        )
        rates = self._logger.recent_ends.rates()
        shown = [blast_views.shown(blast, rates) for blast in found]
        return _json({"success": True, "blasts": shown, "nextCursor": following})

    async def blast(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/blasts/{id}`."""
        blast_id = request.match_info["blast_id"]
        found = await self._store.read(lambda connection: blast_views.find_blast(connection, blast_id))
        if found is None:
            raise UnknownBlastError("no blast has this id")
        return _json({"success": True, "blast": blast_views.shown(found, self._logger.recent_ends.rates())})

    async def failures(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /api/blasts/{id}/failures`."""
        blast_id = request.match_info["blast_id"]
        return _json({"success": True, **await self._store.read(lambda connection: failures_of(connection, blast_id))})

    async def _rows(self, request: web.Request, table: queries.Table, find: Find) -> web.StreamResponse:
        """Answer with a page of rows, or with all rows if the client asks for an export."""
        page = filters.read_page(request.query)
        export = filters.read_export(request.query)
        if export is not None:
            return await self._export(request, table, find, export)
        found = await self._store.read(lambda connection: find(connection, page))
        rows = [dict(zip(table.columns, row, strict=True)) for row in found.rows]
        following = filters.write_cursor(found.next_id) if found.next_id else None
        return _json({"success": True, "logs": rows, "nextCursor": following})

    async def _export(
        self, request: web.Request, table: queries.Table, find: Find, export: Export
    ) -> web.StreamResponse:
        """Stream all rows; each page is a separate query, so no reader holds back the write-ahead log for long."""
        response = web.StreamResponse(
            headers={
                "Content-Type": CONTENT_TYPES[export.form],
                "Content-Disposition": f'attachment; filename="{table.name}.{export.form}"',
            }
        )
        await response.prepare(request)
        encode = export.encoder(table.columns)
        if head := export.head(table.columns):
            await response.write(head)
        try:
            async for rows in self._pages(find):
                await response.write(encode(rows))
        except KurirError as error:
            # the headers already reported success: only a broken connection shows that rows are missing
            log.warning("export aborted", table=table.name, reason=str(error))
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _pages(self, find: Find) -> AsyncIterator[list[queries.Row]]:
        page = filters.Page(filters.MAX_LIMIT)
        while True:
            found = await self._store.read(lambda connection: find(connection, page))  # noqa: B023 -- run at once
            if found.rows:
                yield found.rows
            if not found.next_id:
                return
            page = filters.Page(filters.MAX_LIMIT, found.next_id)


class InternalRoutes:
    """The internal calls of ingest and the command line."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._store = logger.store

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /internal/retry`."""
        wanted = _retry_request(await _body(request))
        done = await self._logger.outbox.reopen(wanted)
        return _json({"success": True, "reopened": done.reopened, "skipped": done.skipped})

    async def retry_matching(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /internal/retry-matching`: the filters of the log of messages in the query, the rest as JSON."""
        wanted = filters.read_message_filter(request.query, self._logger.region)
        body = await _body(request)
        confirm, uncertain = body.get("confirm"), bool(body.get("includeUncertain"))
        if not (confirm is None or (isinstance(confirm, int) and confirm >= 0)):
            raise InvalidQueryError("confirm must be a number of messages")
        done = await retry_matching(self._store, self._logger.outbox, wanted, confirm, include_uncertain=uncertain)
        return _json({"success": True, **asdict(done)})

    async def backup(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /internal/backup`: write a copy of the database on this machine."""
        wanted = (await _body(request)).get("path") or ""
        if not isinstance(wanted, str):
            raise InvalidQueryError("path must be a string")
        path = place_of(wanted, self._logger.access.backup_places)
        size = await self._store.backup(path)
        log.info("backup written", path=str(path), bytes=size)
        return _json({"success": True, "path": str(path), "bytes": size})

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /internal/query`: the rows of an operator's own SQL, which can only read."""
        body = await _body(request)
        sql, limit = body.get("sql"), body.get("limit", MOST_ROWS)
        if not isinstance(sql, str) or not sql.strip():
            raise InvalidQueryError("sql must be a statement")
        if not isinstance(limit, int) or not 1 <= limit <= MOST_ROWS:
            raise InvalidQueryError(f"limit must be a number from 1 to {MOST_ROWS}")
        found = await self._store.query(sql, limit)
        return _json({"success": True, "rows": found.rows, "cut": found.cut})

    async def open_jobs(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /internal/open-jobs`."""
        page = filters.read_page(request.query)
        older_ms = self._logger.clock.now_ms() - filters.read_age_s(request.query) * 1000
        jobs, following = await self._store.read(lambda connection: open_jobs.list_open(connection, older_ms, page))
        return _json(
            {"success": True, "jobs": jobs, "nextCursor": filters.write_cursor(following) if following else None}
        )

    async def snapshot(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /internal/blasts/{id}/snapshot`."""
        blast_id = request.match_info["blast_id"]
        blast = await self._store.read(lambda connection: read_snapshot(connection, blast_id))
        if blast is None:
            raise UnknownBlastError("no blast has this id")
        return web.Response(body=pack_blast(blast), content_type="application/msgpack")

    async def letter(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /internal/messages/{jobId}/letter`: a dead letter and its blast, packed and in base64."""
        job_id = request.match_info["job_id"]
        found = await self._store.read(lambda connection: read_letter(connection, job_id))
        if found is None:
            raise UnknownJobError("no failed message has this id")
        job, blast = (base64.b64encode(one).decode() for one in found)
        return _json({"success": True, "job": job, "blast": blast})


Find = Callable[[Any, filters.Page], queries.Found]


async def _body(request: web.Request) -> Mapping[str, Any]:
    """Return the JSON object of a body.

    A web page cannot send `application/json` across origins without a preflight request, which is refused here.
    """
    if content_type_of(request) != "application/json":
        raise InvalidQueryError("the Content-Type must be application/json")
    try:
        value = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise InvalidQueryError("the body is not valid JSON") from error
    if not isinstance(value, dict):
        raise InvalidQueryError("the body is not a JSON object")
    return value


def _retry_request(body: Mapping[str, Any]) -> RetryRequest:
    wanted = RetryRequest(
        job_id=str(body.get("jobId") or ""),
        blast_id=str(body.get("blastId") or ""),
        channel=filters.choice_of("channel", str(body.get("channel") or ""), CHANNELS),
        include_uncertain=bool(body.get("includeUncertain")),
        error_class=filters.choice_of("errorClass", str(body.get("errorClass") or ""), ERROR_CLASSES),
        error_code=None if body.get("errorCode") is None else str(body["errorCode"]),
    )
    if bool(wanted.job_id) == bool(wanted.blast_id):
        raise InvalidQueryError("give either jobId or blastId")
    return wanted


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into the API's error form; database failures are logged and answered with 503."""
    try:
        return await handler(request)
    except InvalidQueryError as error:
        return _error(400, error.code, str(error))
    except KurirError as error:
        status, code = _ERRORS.get(type(error), (500, "INTERNAL_ERROR"))
        if status >= 500:
            log.warning("query failed", route=request.path, reason=str(error))
        return _error(status, code, str(error))
    except web.HTTPException as error:
        return _error(error.status, "NOT_FOUND" if error.status == 404 else "BAD_REQUEST", error.reason)


@web.middleware
async def _own_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    if name not in _LOOPBACK:
        return _error(403, "FORBIDDEN", "this service accepts requests only under a loopback host name")
    return await handler(request)


def _error(status: int, code: str, message: str) -> web.Response:
    return _json({"success": False, "code": code, "message": message, "errors": []}, status)


def _json(value: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json", charset="utf-8")
