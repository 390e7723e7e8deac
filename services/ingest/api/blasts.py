"""Blasts: taking them in, showing them, and steering them while they run."""

from __future__ import annotations

import re

from aiohttp import web

from services.ingest.answers import BlastAnswer, BlastStateAnswer, answer
from services.ingest.call import JSON, Body, Call, Operation, Parameter
from services.ingest.intake.incoming import CSV, NDJSON, read_incoming
from services.ingest.intake.multipart import MULTIPART
from services.ingest.intake.submission import Receipt, Submission
from services.ingest.requests import BlastRequest

_BLAST_ID = re.compile(rb'"blastId":"([0-9a-z]+)"')

INTAKE_ERRORS = (
    "MALFORMED_JSON", "UNSUPPORTED_MEDIA_TYPE", "BODY_TOO_LARGE", "REQUEST_TIMEOUT", "INVALID_IDEMPOTENCY_KEY",
    "IDEMPOTENCY_IN_PROGRESS", "IDEMPOTENCY_KEY_REUSED", "SENDER_NOT_ALLOWED", "BACKLOG_FULL", "STORAGE_UNAVAILABLE",
    "VALIDATION_FAILED", "BLAST_ENDED",
)  # fmt: skip
IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    "Makes the call safe to repeat for 24 hours: the same key and body get the same answer.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    "header",
)


def receipt_response(receipt: Receipt, location: str = "") -> web.Response:
    """Make the response of a submission."""
    headers = {"Location": location} if location else {}
    if receipt.replayed:
        headers["Idempotency-Replayed"] = "true"
    return web.Response(
        body=receipt.body, status=receipt.status, headers=headers, content_type=JSON, charset="utf-8"
    )  # fmt: skip


async def _post_blast(call: Call) -> web.Response:
    receipt = await Submission(call, await read_incoming(call)).run()
    return receipt_response(receipt, _location(receipt))


def _location(receipt: Receipt) -> str:
    found = _BLAST_ID.search(receipt.body) if receipt.status == 202 else None
    return f"/api/v1/blasts/{found[1].decode()}" if found else ""


async def _show_blast(call: Call) -> web.StreamResponse:
    blast_id = call.request.match_info["id"]
    blasts = call.gateway.queue.blasts
    blast = await blasts.load(blast_id)
    progress = await blasts.progress(blast_id, blast) if blast else None
    if blast is None or progress is None:
        return await call.gateway.logger.forward(call.request, f"/api/blasts/{blast_id}")
    return answer(BlastStateAnswer(blast=await call.gateway.views.view(blast, progress)))


OPERATIONS = [
    Operation("POST", "/messages/blast", "sendBlast", "Send a blast", _post_blast, "send", BlastAnswer, (202, 200),
              body=Body({JSON: BlastRequest, NDJSON: {"type": "string"}, CSV: {"type": "string"},
                         MULTIPART: {"type": "object"}}),
              parameters=(IDEMPOTENCY,),
              errors=(*INTAKE_ERRORS, "MALFORMED_NDJSON", "MALFORMED_CSV", "MALFORMED_MULTIPART")),
    Operation("GET", "/blasts/{id}", "showBlast", "A blast as it stands now", _show_blast, answer=BlastStateAnswer,
              errors=("BLAST_NOT_FOUND", "LOGGER_UNAVAILABLE")),
]  # fmt: skip
