"""Suppressions: addresses that get no more messages."""

from __future__ import annotations

import base64
import binascii

import msgspec
from aiohttp import web

from services.ingest.addresses import normal_address
from services.ingest.answers import Answer, ChangeAnswer, answer
from services.ingest.bodies import BODY_ERRORS, read_struct
from services.ingest.call import JSON, Body, Call, Operation, Parameter
from services.ingest.problems import ApiError, Problem, invalid
from services.ingest.requests import SuppressionRequest
from shared.addresses import identity
from shared.channels import CHANNELS

_DEFAULT_LIMIT = 50
_MAX_LIMIT = 1000
_LIMIT_SCHEMA = {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT, "default": _DEFAULT_LIMIT}


class SuppressionView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A suppressed address; `id` names it to DELETE."""

    id: str
    channel: str
    address: str
    reason: str


class SuppressionsAnswer(Answer, kw_only=True, frozen=True):
    """A page of suppressions; `nextCursor` is null on the last."""

    suppressions: list[SuppressionView]
    next_cursor: str | None


class SuppressionAnswer(Answer, kw_only=True, frozen=True):
    """One suppression."""

    suppression: SuppressionView


def suppression_id(channel: str, address: str) -> str:
    """Return the id of a suppression: channel and address, fit for a path."""
    return base64.urlsafe_b64encode(f"{channel}:{address}".encode()).decode().rstrip("=")


def parse_suppression_id(text: str) -> tuple[str, str] | None:
    """Return the channel and address of an id, None if it is not one."""
    try:
        decoded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return None
    channel, found, address = decoded.partition(":")
    return (channel, address) if found and channel in CHANNELS and address else None


async def _list_suppressions(call: Call) -> web.Response:
    query = call.request.query
    limit = _limit(query.get("limit"))
    channels = _channels(query.get("channel"))
    position, cursor = _cursor(query.get("cursor"), len(channels))
    rows, following = await call.gateway.queue.suppressions.page(channels[position], cursor, limit)
    views = [_view(channels[position], address, reason) for address, reason in rows]
    if following == "0":
        position += 1
    done = position >= len(channels)
    return answer(SuppressionsAnswer(suppressions=views, next_cursor=None if done else f"{position}.{following}"))


async def _add_suppression(call: Call) -> web.Response:
    request = await read_struct(call, SuppressionRequest)
    if request.channel not in CHANNELS:
        raise invalid([Problem("channel", "UNKNOWN_CHANNEL", f"the channels are {', '.join(CHANNELS)}")])
    address = normal_address(request.channel, request.address, call.gateway.settings.default_region, "address")
    if isinstance(address, Problem):
        raise invalid([address])
    address = identity(address)
    suppressions = call.gateway.queue.suppressions
    added = await suppressions.add(request.channel, address, request.reason)
    reason = await suppressions.get(request.channel, address) or request.reason
    view = _view(request.channel, address, reason)
    return answer(SuppressionAnswer(suppression=view), 201 if added else 200)


async def _remove_suppression(call: Call) -> web.Response:
    parsed = parse_suppression_id(call.request.match_info["id"])
    if parsed is None or not await call.gateway.queue.suppressions.remove(*parsed):
        raise ApiError("SUPPRESSION_NOT_FOUND")
    return answer(ChangeAnswer(message="the suppression is lifted"))


def _view(channel: str, address: str, reason: str) -> SuppressionView:
    return SuppressionView(id=suppression_id(channel, address), channel=channel, address=address, reason=reason)


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MAX_LIMIT):
        raise ApiError("INVALID_QUERY", f"limit must be a number from 1 to {_MAX_LIMIT}")
    return int(text)


def _channels(text: str | None) -> list[str]:
    if text is None:
        return list(CHANNELS)
    if text not in CHANNELS:
        raise ApiError("INVALID_QUERY", f"channel must be one of {', '.join(CHANNELS)}")
    return [text]


def _cursor(text: str | None, channels: int) -> tuple[int, str]:
    """Split a cursor into the place of its channel and Redis's own cursor."""
    if text is None:
        return 0, "0"
    position, found, cursor = text.partition(".")
    good = found and all(part.isascii() and part.isdecimal() and len(part) <= 20 for part in (position, cursor))
    if not good or int(position) >= channels or int(cursor) >= 2**64:
        raise ApiError("INVALID_CURSOR")
    return int(position), cursor


OPERATIONS = [
    Operation("GET", "/suppressions", "listSuppressions", "Suppressed addresses, about `limit` at a time",
              _list_suppressions, answer=SuppressionsAnswer, errors=("INVALID_QUERY", "INVALID_CURSOR"),
              parameters=(Parameter("channel", "Only this channel.", {"type": "string", "enum": list(CHANNELS)}),
                          Parameter("limit", "At most about so many.", _LIMIT_SCHEMA),
                          Parameter("cursor", "`nextCursor` of the answer before."))),
    Operation("POST", "/suppressions", "addSuppression", "Suppress an address; 200 where it was suppressed already",
              _add_suppression, "admin", SuppressionAnswer, (201, 200), body=Body({JSON: SuppressionRequest}),
              errors=(*BODY_ERRORS, "INVALID_EMAIL")),
    Operation("DELETE", "/suppressions/{id}", "removeSuppression", "Lift a suppression",
              _remove_suppression, "admin", ChangeAnswer, errors=("SUPPRESSION_NOT_FOUND",)),
]  # fmt: skip
