"""Suppressions: addresses that get no more messages, or no more marketing."""

from __future__ import annotations

import base64
import binascii
import re
from array import array
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from aiohttp import web

from services.ingest.blasts.addresses import normal_address
from services.ingest.http.bodies import BODY_ERRORS, read_struct
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation, Parameter
from services.ingest.http.requests import LiftRequest, SuppressionRequest
from services.ingest.http.responses import Answer, ChangeAnswer, json_response
from services.ingest.suppressions.exporting import FORMATS, SPREADSHEET, TYPES, read_export, write_export
from services.ingest.suppressions.filters import FIELDS, SuppressionFilter, read_filter
from services.ingest.suppressions.views import SuppressionView, masked_view, parse_suppression_id, view_of
from shared.addresses import identity
from shared.channels import CHANNELS
from shared.queue.suppressions import Listed, Place
from shared.suppressions import SCOPES, SOURCES, Suppression, scope_of

_DEFAULT_LIMIT = 50
_NUMBER = re.compile("[0-9]{1,9}")
_MAX_LIMIT = 1000
_LIMIT_SCHEMA = {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT, "default": _DEFAULT_LIMIT}
# Redis blocks while a batch is lifted
_LIFTED_AT_ONCE = 500


class SuppressionsAnswer(Answer, kw_only=True, frozen=True):
    """A page of suppressions; `nextCursor` is null on the last."""

    suppressions: list[SuppressionView]
    next_cursor: str | None


class SuppressionAnswer(Answer, kw_only=True, frozen=True):
    """One suppression."""

    suppression: SuppressionView


class LiftAnswer(Answer, kw_only=True, frozen=True):
    """The number of suppressions that match a filter, and of those that were lifted."""

    matched: int
    lifted: int


async def _list_suppressions(call: Call) -> web.StreamResponse:
    query = call.request.query
    limit = _limit(query.get("limit"))
    wanted = _filter(call, query)
    export = read_export(query, masked=call.masked)
    if export is not None:
        return await write_export(call, wanted, export)
    position, place = _cursor(query.get("cursor"), len(wanted.channels))
    views: list[SuppressionView] = []
    while position < len(wanted.channels) and len(views) < limit:
        channel = wanted.channels[position]
        rows, following = await _page(call, channel, limit - len(views), place, wanted)
        views += [_shown(call, channel, one) for one in rows]
        if following is not None:
            return json_response(SuppressionsAnswer(suppressions=views, next_cursor=_written(position, following)))
        position, place = position + 1, Place()
    cursor = None if position >= len(wanted.channels) else _written(position, place)
    return json_response(SuppressionsAnswer(suppressions=views, next_cursor=cursor))


def _shown(call: Call, channel: str, one: Listed) -> SuppressionView:
    view = view_of(channel, one)
    return masked_view(view) if call.masked else view


async def _page(
    call: Call, channel: str, limit: int, place: Place, wanted: SuppressionFilter
) -> tuple[list[Listed], Place | None]:
    suppressions = call.gateway.queue.suppressions
    if wanted.searches:
        return await suppressions.page(channel, limit, place, wanted.matches)
    return await suppressions.page(channel, limit, place)


def _filter(call: Call, query: Mapping[str, str]) -> SuppressionFilter:
    wanted = read_filter(query, call.gateway.settings.default_region)
    if isinstance(wanted, list):
        raise ApiError("INVALID_QUERY", wanted[0].message)
    return replace(wanted, whole=call.masked)


async def _add_suppression(call: Call) -> web.Response:
    request = await read_struct(call, SuppressionRequest)
    if request.channel not in CHANNELS:
        what = f"there is no channel {request.channel[:60]!r}: use {' or '.join(CHANNELS)}"
        raise invalid([Problem("channel", "UNKNOWN_CHANNEL", what)])
    address = normal_address(request.channel, request.address, call.gateway.settings.default_region, "address")
    expires_at_ms = _expiry(call, request.expires_at)
    problems = [one for one in (address, expires_at_ms) if isinstance(one, Problem)]
    if isinstance(address, Problem) or isinstance(expires_at_ms, Problem):
        raise invalid(problems)
    wanted = Suppression(
        request.scope or scope_of(request.source),
        request.source,
        request.reason,
        call.gateway.clock.now_ms(),
        expires_at_ms,
        request.evidence.job_id,
        request.evidence.words,
        call.key_name,
    )
    suppressions = call.gateway.queue.suppressions
    await call.gateway.queue.producer.check_events(request.channel)
    stored = await suppressions.add(request.channel, address, wanted)
    kept = [one for one in await suppressions.get(request.channel, address) if one.scope == wanted.scope]
    view = view_of(request.channel, Listed(identity(address), kept[0] if kept else wanted))
    return json_response(SuppressionAnswer(suppression=view), 200 if stored == "kept" else 201)


def _expiry(call: Call, at: datetime | None) -> int | Problem:
    """Return when a suppression ends in ms, 0 for never."""
    if at is None:
        return 0
    at_ms = int(at.timestamp() * 1000)
    if at_ms > call.gateway.clock.now_ms():
        return at_ms
    return Problem("expiresAt", "TIME_IN_PAST", "expiresAt is in the past")


async def _show_suppression(call: Call) -> web.Response:
    parsed = parse_suppression_id(call.request.match_info["id"])
    if parsed is not None:
        channel, scope, address = parsed
        for one in await call.gateway.queue.suppressions.get(channel, address):
            if scope in {None, one.scope}:
                view = _shown(call, channel, Listed(identity(address), one))
                return json_response(SuppressionAnswer(suppression=view))
    raise ApiError("SUPPRESSION_NOT_FOUND")


async def _remove_suppression(call: Call) -> web.Response:
    parsed = parse_suppression_id(call.request.match_info["id"])
    if parsed is not None:
        channel, scope, address = parsed
        if await call.gateway.queue.suppressions.remove(channel, address, scope or ""):
            return json_response(ChangeAnswer(message="the suppression is lifted"))
    raise ApiError("SUPPRESSION_NOT_FOUND")


async def _lift(call: Call) -> web.Response:
    request = await read_struct(call, LiftRequest)
    given = {name: (getattr(request, name) or "").strip() or None for name in FIELDS}
    if not any(given.values()):
        what = f"give at least one of {', '.join(FIELDS)}: without any, every suppression would match"
        raise invalid([Problem("", "REQUIRED", what)])
    wanted = read_filter(given, call.gateway.settings.default_region)
    if isinstance(wanted, list):
        raise invalid(wanted)
    matched = await _count(call, wanted)
    if request.confirm is None:
        return json_response(LiftAnswer(matched=matched, lifted=0))
    if request.confirm != matched:
        what = f"{matched} suppressions match, but `confirm` is {request.confirm}; none was lifted"
        raise ApiError("CONFIRMATION_MISMATCH", what)
    return json_response(LiftAnswer(matched=matched, lifted=await _lift_all(call, wanted)))


async def _count(call: Call, wanted: SuppressionFilter) -> int:
    suppressions, count = call.gateway.queue.suppressions, 0
    for channel in wanted.channels:
        async for block in suppressions.every(channel, wanted.matches):
            count += len(block)
    return count


async def _lift_all(call: Call, wanted: SuppressionFilter) -> int:
    suppressions, lifted = call.gateway.queue.suppressions, 0
    for channel in wanted.channels:
        async for block in suppressions.every(channel, wanted.matches):
            for start in range(0, len(block), _LIFTED_AT_ONCE):
                lifted += await suppressions.remove_all(channel, block[start : start + _LIFTED_AT_ONCE])
    return lifted


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not (_NUMBER.fullmatch(text) and 1 <= int(text) <= _MAX_LIMIT):
        raise ApiError("INVALID_QUERY", f"limit must be a number from 1 to {_MAX_LIMIT}")
    return int(text)


def _written(position: int, place: Place) -> str:
    """Write a cursor: the channel's position, Redis's own cursor, and which rows of its last batch were returned."""
    given = base64.urlsafe_b64encode(array("I", place.given).tobytes()).decode().rstrip("=")
    return f"{position}.{place.cursor}.{given}"


def _cursor(text: str | None, channels: int) -> tuple[int, Place]:
    if text is None:
        return 0, Place()
    position, _, rest = text.partition(".")
    cursor, found, encoded = rest.partition(".")
    good = found and all(part.isascii() and part.isdecimal() and len(part) <= 20 for part in (position, cursor))
    if not good or int(position) >= channels or int(cursor) >= 2**64:
        raise ApiError("INVALID_CURSOR")
    given = array("I")
    try:
        given.frombytes(base64.urlsafe_b64decode(encoded.encode() + b"=" * (-len(encoded) % 4)))
    except (binascii.Error, UnicodeError, ValueError):
        raise ApiError("INVALID_CURSOR") from None
    return int(position), Place(int(cursor), tuple(given))


_FILTERS = (
    Parameter("channel", "Only this channel.", {"type": "string", "enum": list(CHANNELS)}),
    Parameter("address", "A part of the address; a phone number may be in its national form."),
    Parameter("scope", "Only suppressions with this scope.", {"type": "string", "enum": list(SCOPES)}),
    Parameter("source", "Only suppressions from this source.", {"type": "string", "enum": list(SOURCES)}),
    Parameter("reason", "A part of the reason."),
)
_UNKNOWN = ("SUPPRESSION_NOT_FOUND",)

OPERATIONS = [
    Operation("GET", "/suppressions", "listSuppressions",
              "List the suppressed addresses that match, a page at a time, without those that have expired",
              _list_suppressions, answer=SuppressionsAnswer, content_types=(JSON, *TYPES.values()),
              errors=("INVALID_QUERY", "INVALID_CURSOR"),
              parameters=(*_FILTERS, Parameter("limit", "At most this many.", _LIMIT_SCHEMA),
                          Parameter("cursor", "`nextCursor` of the previous page."),
                          Parameter("format", "Export every suppression that matches, instead of a page.",
                                    {"type": "string", "enum": list(FORMATS)}),
                          Parameter("for", "With `format=csv`: a file with a byte order mark and numbers as text.",
                                    {"type": "string", "enum": [SPREADSHEET]}))),
    Operation("POST", "/suppressions", "addSuppression",
              "Suppress an address; 200 where an existing suppression already covers it",
              _add_suppression, "admin", SuppressionAnswer, (201, 200), body=Body({JSON: SuppressionRequest}),
              errors=(*BODY_ERRORS, "INVALID_EMAIL", "BACKLOG_FULL")),
    Operation("GET", "/suppressions/{id}", "showSuppression", "Show a suppression",
              _show_suppression, answer=SuppressionAnswer, errors=_UNKNOWN),
    Operation("DELETE", "/suppressions/{id}", "removeSuppression", "Lift a suppression",
              _remove_suppression, "admin", ChangeAnswer, errors=_UNKNOWN),
    Operation("POST", "/suppressions/lift", "liftSuppressions",
              "Count the suppressions that match, or lift them if `confirm` is their number",
              _lift, "admin", LiftAnswer, body=Body({JSON: LiftRequest}),
              errors=(*BODY_ERRORS, "VALIDATION_FAILED", "CONFIRMATION_MISMATCH")),
]  # fmt: skip
