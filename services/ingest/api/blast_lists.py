"""Lists of blasts: rows of the log, with the live state of running blasts from Redis; can filter by metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from services.ingest.api.blasts import live_blast, upstream_error
from services.ingest.blasts.views import view_of
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.operation import JSON, Call, Operation, Parameter
from services.ingest.http.responses import BlastsAnswer
from shared.blast_view import deliveries_of, with_deliveries

_METADATA = "metadata."
# a search by metadata reads pages until one has a match, up to this many; `nextCursor` continues it
_MOST_PAGES = 20
# longer than any valid query, and short enough for the logger, which reads request lines of up to 8,190 bytes
_LONGEST_QUERY = 6000
_ENDED = frozenset({"completed", "completed_with_failures", "cancelled", "incomplete"})
_STATES = ["enqueueing", "scheduled", "running", "paused", *sorted(_ENDED)]
_encoder = msgspec.json.Encoder()


async def _list_blasts(call: Call) -> web.Response:
    query = dict(call.request.query)
    wanted = {name.removeprefix(_METADATA): query.pop(name) for name in list(query) if name.startswith(_METADATA)}
    body: dict[str, Any] = {}
    for _ in range(_MOST_PAGES):
        body = await _page(call, query)
        body["blasts"] = [row for row in body["blasts"] if _has(row, wanted)]
        if body["blasts"] or not body.get("nextCursor"):
            break
        query["cursor"] = body["nextCursor"]
    if call.gateway.records.watch.available:
        body["blasts"] = [await _refreshed(call, row) for row in body["blasts"]]
    return web.Response(body=_encoder.encode(body), content_type=JSON, charset="utf-8")


async def _page(call: Call, query: Mapping[str, str]) -> dict[str, Any]:
    text = urlencode(query)
    if len(text) > _LONGEST_QUERY:
        longest = max(query, key=lambda name: len(query[name]))
        what = f"{longest} is too long: no blast can match it"
        raise ApiError("INVALID_QUERY", what, [Problem(longest, "INVALID_QUERY", what)])
    status, body = await call.gateway.logger.call("GET", f"/api/blasts?{text}")
    if status != 200:
        raise upstream_error(body, "INVALID_QUERY")
    return body


def _has(row: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Return whether a blast's metadata has these values; numbers and booleans are compared as JSON writes them."""
    metadata = row.get("metadata") or {}
    return all(name in metadata and _written(metadata[name]) == value for name, value in wanted.items())


def _written(value: Any) -> str:
    return value if isinstance(value, str) else _encoder.encode(value).decode()


async def _refreshed(call: Call, row: dict[str, Any]) -> Any:
    """Return the live state of a blast that still runs: the log lags slightly behind."""
    if row.get("state") in _ENDED:
        return row
    live = await live_blast(call, str(row.get("blastId")))
    if live is None:
        return row
    return msgspec.to_builtins(with_deliveries(await view_of(call.gateway, *live), deliveries_of(row)))


OPERATIONS = [
    Operation("GET", "/blasts", "listBlasts",
              "List blasts, the latest first; `metadata.<name>=<value>` finds those with this metadata",
              _list_blasts, answer=BlastsAnswer, errors=("INVALID_QUERY", "INVALID_CURSOR", "LOGGER_UNAVAILABLE"),
              queue=False,
              parameters=(Parameter("state", "Only blasts in this state.", {"type": "string", "enum": _STATES}),
                          Parameter("template", "Only blasts of this template."),
                          Parameter("reference", "Only blasts with this reference."),
                          Parameter("metadata.<name>", "Only blasts with this value in their metadata."),
                          Parameter("limit", "At most this many.", {"type": "integer", "minimum": 1, "maximum": 1000}),
                          Parameter("cursor", "`nextCursor` of the previous page."))),
]  # fmt: skip
