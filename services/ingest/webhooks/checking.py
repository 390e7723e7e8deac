"""Checks of a webhook: every problem of a request in one answer, those of its form and those of its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from services.ingest.http.bodies import read_json
from services.ingest.http.decoding import decode_struct, valid_fields
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import Call
from shared.channels import CHANNELS
from shared.nearest import Hints
from shared.special_addresses import Allowed
from shared.webhook_urls import check_url
from shared.webhooks import SUBSCRIBABLE, WEBHOOK_TEST, check_secret

StructT = TypeVar("StructT", bound=msgspec.Struct)
_SHOWN_CHARS = 60
_LONGEST_BODY = 64 * 1024


async def read_checked(call: Call, kind: type[StructT], *, optional: bool = False) -> StructT:
    """Return a JSON body about a webhook as a struct; raises 400, or 422 with every problem.

    If it is `optional`, an empty body means all defaults.
    """
    if optional and not call.request.can_read_body:
        return kind()
    raw = await read_json(call, _LONGEST_BODY)
    allowed = call.gateway.settings.webhook_allow
    try:
        request = decode_struct(raw, kind)
    except ApiError as error:
        if error.status != 422:
            raise
        raise invalid([*error.problems, *_value_problems(valid_fields(raw, kind), allowed)]) from error
    if problems := list(_value_problems(msgspec.structs.asdict(request), allowed)):
        raise invalid(problems)
    return request


def _value_problems(fields: Mapping[str, Any], allowed: Allowed) -> Iterator[Problem]:
    """Yield the problems of fields whose form is right."""
    checks: dict[str, Callable[[Any], Iterator[Problem]]] = {
        "url": lambda url: _url_problems(url, allowed),
        "events": _event_problems,
        "channels": _channel_problems,
        "secret": _secret_problems,
    }
    for name, check in checks.items():
        value = fields.get(name)
        if value is not None and value is not msgspec.UNSET:
            yield from check(value)


def _url_problems(url: str, allowed: Allowed) -> Iterator[Problem]:
    if problem := check_url(url, allowed):
        yield Problem("url", "INVALID_URL", problem)


def _event_problems(events: list[str]) -> Iterator[Problem]:
    hints = Hints()
    for number, name in enumerate(events):
        if name in SUBSCRIBABLE:
            continue
        if name == WEBHOOK_TEST:
            what = f"{WEBHOOK_TEST} goes to every webhook that is tested; it cannot be subscribed to"
        else:
            hint = hints.did_you_mean(name, SUBSCRIBABLE) or f"; use {', '.join(SUBSCRIBABLE)}"
            what = f"there is no event {name[:_SHOWN_CHARS]!r}{hint}"
        yield Problem(f"events[{number}]", "UNKNOWN_EVENT", what)


def _channel_problems(channels: list[str]) -> Iterator[Problem]:
    for number, name in enumerate(channels):
        if name not in CHANNELS:
            what = f"there is no channel {name[:_SHOWN_CHARS]!r}: use {' or '.join(CHANNELS)}"
            yield Problem(f"channels[{number}]", "UNKNOWN_CHANNEL", what)


def _secret_problems(secret: str) -> Iterator[Problem]:
    if problem := check_secret(secret):
        yield Problem("secret", "INVALID_SECRET", problem)
