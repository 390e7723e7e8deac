"""Blasts: accepting them, showing them, and pausing, resuming, cancelling or retrying them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from aiohttp import web

from services.ingest.blasts.multipart import MULTIPART
from services.ingest.blasts.request_body import CSV, NDJSON, read_blast_body
from services.ingest.blasts.submission import Receipt, Submission
from services.ingest.blasts.views import view_of
from services.ingest.http.bodies import BODY_ERRORS, read_optional
from services.ingest.http.errors import ERROR_CODES, ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation, Parameter
from services.ingest.http.requests import BlastRequest, PauseRequest, RetryFailedRequest
from services.ingest.http.responses import (
    BlastAnswer,
    BlastStateAnswer,
    ChangeAnswer,
    FailuresAnswer,
    RetryAnswer,
    json_response,
)
from shared.blast_view import BlastView, deliveries_of, with_deliveries
from shared.blasts import Blast
from shared.channels import CHANNELS
from shared.errors import ERROR_CLASSES
from shared.queue.blasts import BlastProgress

_BLAST_ID = re.compile(rb'"blastId":"([0-9a-z]+)"')
_LOG_TIME_S = 2.0
_encoder = msgspec.json.Encoder()

NDJSON_SCHEMA: dict[str, Any] = {
    "type": "string",
    "description": "First line: the blast (a BlastHead). Each further line: a recipient (a RecipientRequest).",
    "example": '{"templateId":"otp","channels":["email"]}\n'
    '{"name":"Siti","email":"siti@example.com","variables":{"code":"482913"}}\n',
}
CSV_SCHEMA: dict[str, Any] = {
    "type": "string",
    "description": "A header row, then one row per recipient. The columns name, email, phone and reference are the "
    "recipient's own, every other column is a variable. UTF-8; separated by commas, semicolons or tabs. The query "
    "parameters describe the blast.",
    "example": "name,email,code\nSiti,siti@example.com,482913\n",
}
MULTIPART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "blast": {"type": "string", "description": "The blast (a BlastHead) as JSON; must be the first part."},
        "recipients": {"type": "string", "format": "binary", "description": "The CSV (or NDJSON) file."},
    },
    "required": ["blast", "recipients"],
}

_BOOLEAN = {"type": "boolean"}
_TIME = {"type": "string", "format": "date-time"}
_ONLY_CSV = "With text/csv only: "
QUERY_OF_HEAD = tuple(
    Parameter(name, _ONLY_CSV + description, schema)
    for name, description, schema in (
        ("templateId", "the template.", {"type": "string", "maxLength": 100}),
        ("channels", "the channels, separated by commas.", {"type": "string"}),
        ("globalVariables", "a JSON object.", {"type": "string"}),
        ("globalVariables.<name>", "one global variable.", {"type": "string"}),
        ("from", "the mailbox to send from.", {"type": "string", "maxLength": 500}),
        ("replyTo", "the address for replies.", {"type": "string", "maxLength": 320}),
        ("priority", "0 first, 1 the default, 2 bulk.", {"type": "integer", "minimum": 0, "maximum": 2}),
        ("scheduledAt", "when to send.", _TIME),
        ("expiresAt", "when to stop sending.", _TIME),
        ("reference", "your own name for the blast.", {"type": "string", "maxLength": 200}),
        ("metadata", "a JSON object.", {"type": "string"}),
        ("metadata.<name>", "one entry of the metadata.", {"type": "string"}),
        ("validation", "strict or permissive.", {"type": "string", "enum": ["strict", "permissive"]}),
        ("onDuplicate", "collapse or error.", {"type": "string", "enum": ["collapse", "error"]}),
        ("dryRun", "check everything, send nothing.", _BOOLEAN),
    )
)
INTAKE_ERRORS = (
    *BODY_ERRORS, "INVALID_IDEMPOTENCY_KEY", "IDEMPOTENCY_IN_PROGRESS", "IDEMPOTENCY_KEY_REUSED",
    "SENDER_NOT_ALLOWED", "BACKLOG_FULL", "STORAGE_UNAVAILABLE", "VALIDATION_FAILED", "BLAST_ENDED",
)  # fmt: skip
IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    "Makes the call safe to repeat for 24 hours: the same key and body return the same answer.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    "header",
)


def receipt_response(receipt: Receipt, body: bytes | None = None) -> web.Response:
    """Make the response of a submission; `body` replaces the receipt's own."""
    found = _BLAST_ID.search(receipt.body) if receipt.status == 202 else None
    headers = {"Location": f"/api/v1/blasts/{found[1].decode()}"} if found else {}
    if receipt.replayed:
        headers["Idempotency-Replayed"] = "true"
    content = receipt.body if body is None else body
    return web.Response(body=content, status=receipt.status, headers=headers, content_type=JSON, charset="utf-8")


async def _post_blast(call: Call) -> web.Response:
    return receipt_response(await Submission(call, await read_blast_body(call)).run())


async def _show_blast(call: Call) -> web.Response:
    blast_id = call.request.match_info["id"]
    live = await live_blast(call, blast_id)
    if live is not None:
        view = await _with_deliveries(call, await view_of(call.gateway, *live))
        return json_response(BlastStateAnswer(blast=view))
    return web.Response(body=_encoder.encode(await _stored(call, blast_id)), content_type=JSON, charset="utf-8")


async def _with_deliveries(call: Call, view: BlastView) -> BlastView:
    """Add what receipts made of a blast's messages, which only the log knows; nothing if it does not answer in time."""
    try:
        async with asyncio.timeout(_LOG_TIME_S):
            stored = await _stored(call, view.blast_id)
    except (ApiError, TimeoutError):
        return view
    return with_deliveries(view, deliveries_of(stored["blast"]))


async def live_blast(call: Call, blast_id: str) -> tuple[Blast, BlastProgress] | None:
    """Return a blast and its progress, None if Redis no longer has it."""
    blasts = call.gateway.queue.blasts
    blast = await blasts.load(blast_id)
    progress = await blasts.progress(blast_id, blast) if blast is not None else None
    return (blast, progress) if blast is not None and progress is not None else None


async def _stored(call: Call, blast_id: str) -> dict[str, Any]:
    """Return the logger's answer about a blast that Redis no longer has; raises 404."""
    if not (blast_id.isascii() and blast_id.isalnum()):
        raise ApiError("BLAST_NOT_FOUND")
    status, body = await call.gateway.logger.call("GET", f"/api/blasts/{blast_id}")
    if status != 200:
        raise ApiError("BLAST_NOT_FOUND")
    return body


def upstream_error(body: dict[str, Any], code: str) -> ApiError:
    """Return an upstream's error; `code` is used where the upstream's own code is unknown."""
    said = str(body.get("code", ""))
    return ApiError(said if said in ERROR_CODES else code, str(body.get("message", "")))


async def _pause(call: Call) -> web.Response:
    request = await read_optional(call, PauseRequest)
    blast_id = call.request.match_info["id"]
    if not await call.gateway.queue.control.pause_blast(blast_id, request.reason):
        raise await _too_late(call, blast_id)
    return json_response(ChangeAnswer(message="the blast is paused"))


async def _resume(call: Call) -> web.Response:
    blast_id = call.request.match_info["id"]
    if not await call.gateway.queue.control.resume_blast(blast_id):
        raise await _too_late(call, blast_id)
    return json_response(ChangeAnswer(message="the blast is resumed"))


async def _cancel(call: Call) -> web.Response:
    blast_id = call.request.match_info["id"]
    if not await call.gateway.queue.control.cancel_blast(blast_id):
        live = await live_blast(call, blast_id)
        if live is None or live[1].state != "cancelled":
            raise await _too_late(call, blast_id)
    return json_response(ChangeAnswer(message="the blast is cancelled"))


async def _too_late(call: Call, blast_id: str) -> ApiError:
    """Return why a blast could not be changed: it has ended, or it never existed."""
    live = await live_blast(call, blast_id)
    if live is None:
        await _stored(call, blast_id)
    return ApiError("BLAST_ENDED")


async def _retry_failed(call: Call) -> web.Response:
    request = await read_optional(call, RetryFailedRequest)
    blast_id = call.request.match_info["id"]
    if request.channel is not None and request.channel not in CHANNELS:
        what = f"there is no channel {request.channel[:60]!r}: use {' or '.join(CHANNELS)}"
        raise invalid([Problem("channel", "UNKNOWN_CHANNEL", what)])
    if request.error_class and request.error_class not in ERROR_CLASSES:
        what = f"there is no class {request.error_class[:60]!r}: use {', '.join(ERROR_CLASSES)}"
        raise invalid([Problem("errorClass", "INVALID_VALUE", what)])
    wanted = {
        "blastId": blast_id,
        "includeUncertain": request.include_uncertain,
        "channel": request.channel or "",
        "errorClass": request.error_class or "",
        "errorCode": request.error_code,
    }
    try:
        return json_response(await retry(call, wanted, "BLAST_NOT_FOUND"))
    except ApiError as error:
        if error.code == "BLAST_NOT_FOUND" and await live_blast(call, blast_id) is not None:
            raise ApiError("LOGGER_UNAVAILABLE", "the log does not have this blast yet; try again") from error
        raise


async def _show_failures(call: Call) -> web.Response:
    blast_id = call.request.match_info["id"]
    if not (blast_id.isascii() and blast_id.isalnum()):
        raise ApiError("BLAST_NOT_FOUND")
    status, body = await call.gateway.logger.call("GET", f"/api/blasts/{blast_id}/failures")
    if status != 200:
        raise ApiError("BLAST_NOT_FOUND")
    return json_response(msgspec.convert(body, FailuresAnswer))


async def retry(call: Call, wanted: dict[str, Any], unknown: str) -> RetryAnswer:
    """Have the logger queue dead letters again; `unknown` is the code for its 404."""
    status, body = await call.gateway.logger.call("POST", "/internal/retry", wanted)
    if status == 404:
        raise ApiError(unknown)
    if status != 200:
        raise upstream_error(body, "JOB_NOT_RETRYABLE")
    return RetryAnswer(reopened=int(body.get("reopened", 0)), skipped=int(body.get("skipped", 0)))


_LOST = ("BLAST_NOT_FOUND", "LOGGER_UNAVAILABLE")

OPERATIONS = [
    Operation("POST", "/messages/blast", "sendBlast",
              "Send a message to many recipients, in any number as NDJSON, CSV or multipart",
              _post_blast, "send", BlastAnswer, (202, 200),
              body=Body({JSON: BlastRequest, NDJSON: NDJSON_SCHEMA, CSV: CSV_SCHEMA, MULTIPART: MULTIPART_SCHEMA}),
              parameters=(IDEMPOTENCY, *QUERY_OF_HEAD),
              errors=(*INTAKE_ERRORS, "MALFORMED_NDJSON", "MALFORMED_CSV", "MALFORMED_MULTIPART"), guarded=True),
    Operation("GET", "/blasts/{id}", "showBlast", "Show the current state of a blast", _show_blast,
              answer=BlastStateAnswer, errors=_LOST),
    Operation("POST", "/blasts/{id}/pause", "pauseBlast", "Pause a blast; messages being sent are finished",
              _pause, "send", ChangeAnswer, body=Body({JSON: PauseRequest}, required=False),
              errors=(*_LOST, "BLAST_ENDED", "VALIDATION_FAILED", *BODY_ERRORS)),
    Operation("POST", "/blasts/{id}/resume", "resumeBlast", "Resume a paused blast; safe to repeat",
              _resume, "send", ChangeAnswer, errors=(*_LOST, "BLAST_ENDED")),
    Operation("POST", "/blasts/{id}/cancel", "cancelBlast",
              "Cancel the messages of a blast that are not being sent yet; safe to repeat",
              _cancel, "send", ChangeAnswer, errors=(*_LOST, "BLAST_ENDED")),
    Operation("POST", "/blasts/{id}/retry-failed", "retryFailed", "Send a blast's failed messages again",
              _retry_failed, "send", RetryAnswer, body=Body({JSON: RetryFailedRequest}, required=False),
              errors=(*_LOST, "JOB_NOT_RETRYABLE", "VALIDATION_FAILED", *BODY_ERRORS)),
    Operation("GET", "/blasts/{id}/failures", "listFailures", "List a blast's failures by reason", _show_failures,
              answer=FailuresAnswer, errors=_LOST, queue=False),
]  # fmt: skip
