"""Webhooks: the endpoints of clients to which Kurir sends events. The logger owns them; it answers these calls."""

from __future__ import annotations

import re
from typing import Any, TypeVar, get_args
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from services.ingest.http.bodies import BODY_ERRORS
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation, Parameter
from services.ingest.http.responses import Answer, ChangeAnswer, json_response
from services.ingest.webhooks.answers import (
    DeliveriesAnswer,
    DeliveryStatus,
    NewWebhookAnswer,
    ReplayAnswer,
    RotationAnswer,
    WebhookAnswer,
    WebhooksAnswer,
    WebhookTestAnswer,
)
from services.ingest.webhooks.checking import read_checked
from services.ingest.webhooks.requests import ReplayRequest, RotateRequest, WebhookPatch, WebhookRequest
from shared.clock import rfc3339

AnswerT = TypeVar("AnswerT", bound=Answer)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATH = "/webhooks"


async def _list_webhooks(call: Call) -> web.Response:
    return json_response(await _asked(call, "GET", _PATH, WebhooksAnswer))


async def _add_webhook(call: Call) -> web.Response:
    request = await read_checked(call, WebhookRequest)
    wanted = msgspec.to_builtins(request.config()) | ({} if request.secret is None else {"secret": request.secret})
    answer = await _asked(call, "POST", _PATH, NewWebhookAnswer, wanted)
    return json_response(answer, 201, {"Location": f"/api/v1{_PATH}/{answer.webhook.id}"} | _NOT_KEPT)


async def _show_webhook(call: Call) -> web.Response:
    return json_response(await _asked(call, "GET", _one(call), WebhookAnswer))


async def _change_webhook(call: Call) -> web.Response:
    patch = await read_checked(call, WebhookPatch)
    return json_response(await _asked(call, "PATCH", _one(call), WebhookAnswer, patch.changes()))


async def _remove_webhook(call: Call) -> web.Response:
    await _asked(call, "DELETE", _one(call), ChangeAnswer)
    return json_response(ChangeAnswer(message="the webhook is removed, with the events that it was not sent"))


async def _rotate(call: Call) -> web.Response:
    request = await read_checked(call, RotateRequest, optional=True)
    wanted = {} if request.secret is None else {"secret": request.secret}
    return json_response(await _asked(call, "POST", f"{_one(call)}/rotate", RotationAnswer, wanted), headers=_NOT_KEPT)


async def _test(call: Call) -> web.Response:
    return json_response(await _asked(call, "POST", f"{_one(call)}/test", WebhookTestAnswer), 202)


async def _replay(call: Call) -> web.Response:
    request = await read_checked(call, ReplayRequest)
    start_ms = int(request.from_.timestamp() * 1000)
    end_ms = call.gateway.clock.now_ms() if request.to is None else int(request.to.timestamp() * 1000)
    if start_ms >= end_ms:
        late = "from is in the future" if request.to is None else "to must be after from"
        raise invalid([Problem("from" if request.to is None else "to", "INVALID_VALUE", late)])
    wanted = {"from": rfc3339(start_ms)} | ({} if request.to is None else {"to": rfc3339(end_ms)})
    return json_response(await _asked(call, "POST", f"{_one(call)}/replay", ReplayAnswer, wanted), 202)


async def _list_deliveries(call: Call) -> web.Response:
    query = urlencode(list(call.request.query.items()))
    path = f"{_one(call)}/deliveries" + (f"?{query}" if query else "")
    return json_response(await _asked(call, "GET", path, DeliveriesAnswer))


def _one(call: Call) -> str:
    """Return the logger's path of the webhook that the call is about; raises 404."""
    webhook_id = call.request.match_info["id"]
    if not _ID.fullmatch(webhook_id):
        raise ApiError("WEBHOOK_NOT_FOUND")
    return f"{_PATH}/{webhook_id}"


async def _asked(
    call: Call, method: str, path: str, kind: type[AnswerT], body: dict[str, Any] | None = None
) -> AnswerT:
    """Call the logger and return its answer; its refusals are the client's."""
    status, found = await call.gateway.logger.call(method, path, body)
    if status < 400:
        return msgspec.convert(found, kind)
    code = str(found.get("code", ""))
    if code in _REFUSALS:
        raise ApiError(code, str(found.get("message", "")))
    # an earlier version does not have these calls
    raise ApiError("LOGGER_UNAVAILABLE", f"the logger answered {status}; upgrade it", headers={"Retry-After": "10"})


_REFUSALS = frozenset({"WEBHOOK_NOT_FOUND", "WEBHOOK_DISABLED", "TOO_MANY_WEBHOOKS", "INVALID_QUERY", "INVALID_CURSOR"})
# a cache on the way must not keep a secret
_NOT_KEPT = {"Cache-Control": "no-store"}
_ASKING = ("LOGGER_UNAVAILABLE",)
_KNOWN = ("WEBHOOK_NOT_FOUND", *_ASKING)
_DELIVERIES = (
    Parameter(
        "status", "Only deliveries with this status.", {"type": "string", "enum": list(get_args(DeliveryStatus))}
    ),
    Parameter("from", "Only deliveries created from this time on (RFC 3339)."),
    Parameter("to", "Only deliveries created up to this time (RFC 3339)."),
    Parameter("limit", "At most this many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}),
    Parameter("cursor", "`nextCursor` of the previous page."),
)

OPERATIONS = [
    Operation("GET", _PATH, "listWebhooks", "List all webhooks", _list_webhooks, answer=WebhooksAnswer,
              errors=_ASKING, queue=False),
    Operation("POST", _PATH, "addWebhook", "Add a webhook; its secret is shown only in this answer",
              _add_webhook, "admin", NewWebhookAnswer, (201,), body=Body({JSON: WebhookRequest}),
              errors=(*_ASKING, *BODY_ERRORS, "VALIDATION_FAILED", "TOO_MANY_WEBHOOKS"), queue=False),
    Operation("GET", f"{_PATH}/{{id}}", "showWebhook", "Show a webhook", _show_webhook, answer=WebhookAnswer,
              errors=_KNOWN, queue=False),
    Operation("PATCH", f"{_PATH}/{{id}}", "changeWebhook",
              "Change a webhook; enabled again, it gets what happened while it was disabled",
              _change_webhook, "admin", WebhookAnswer, body=Body({JSON: WebhookPatch}),
              errors=(*_KNOWN, *BODY_ERRORS, "VALIDATION_FAILED"), queue=False),
    Operation("DELETE", f"{_PATH}/{{id}}", "removeWebhook", "Remove a webhook, with the events that it was not sent",
              _remove_webhook, "admin", ChangeAnswer, errors=_KNOWN, queue=False),
    Operation("POST", f"{_PATH}/{{id}}/rotate", "rotateWebhookSecret",
              "Replace a webhook's secret; for 24 hours, requests are signed with both", _rotate, "admin",
              RotationAnswer, body=Body({JSON: RotateRequest}, required=False),
              errors=(*_KNOWN, *BODY_ERRORS, "VALIDATION_FAILED"), queue=False),
    Operation("POST", f"{_PATH}/{{id}}/test", "testWebhook", "Send a test event", _test, "admin", WebhookTestAnswer,
              (202,), errors=(*_KNOWN, "WEBHOOK_DISABLED"), queue=False),
    Operation("POST", f"{_PATH}/{{id}}/replay", "replayWebhook",
              "Send the events of a time range again, each with its own id", _replay, "admin", ReplayAnswer, (202,),
              body=Body({JSON: ReplayRequest}), errors=(*_KNOWN, *BODY_ERRORS, "VALIDATION_FAILED"), queue=False),
    Operation("GET", f"{_PATH}/{{id}}/deliveries", "listWebhookDeliveries",
              "List the deliveries to a webhook, the latest first", _list_deliveries, answer=DeliveriesAnswer,
              errors=(*_KNOWN, "INVALID_QUERY", "INVALID_CURSOR"), parameters=_DELIVERIES, queue=False),
]  # fmt: skip
