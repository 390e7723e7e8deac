"""Messages: sending, showing, cancelling and retrying a single one, and the counts of all."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from services.ingest.api.blasts import IDEMPOTENCY, INTAKE_ERRORS, receipt_response, retry
from services.ingest.api.channels import stats_of
from services.ingest.blasts.request_body import BlastBody, Digest, slices
from services.ingest.blasts.submission import Submission
from services.ingest.http.bodies import BODY_ERRORS, read_json, read_optional
from services.ingest.http.decoding import decode_struct
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.operation import JSON, Body, Call, Operation
from services.ingest.http.requests import BlastHead, MessageRequest, RetryRequest, SendingTerms
from services.ingest.http.responses import (
    AllStats,
    BlastAnswer,
    ChangeAnswer,
    JobAnswer,
    MessageAnswer,
    RetryAnswer,
    Stats,
    StatsAnswer,
    json_response,
)
from shared.channels import CHANNELS
from shared.clock import rfc3339
from shared.errors import QueueUnavailableError
from shared.jobs import TERMINAL, JobId, parse_job_id

_COUNTS = ("waiting", "active", "delayed", "scheduled", "completed", "failed", "paused")
_LOG_TIME_S = 2.0
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(BlastAnswer)


async def _post_message(call: Call) -> web.Response:
    raw = await read_json(call)
    request = decode_struct(raw, MessageRequest)
    digest = Digest("message", call.request.query_string)
    digest.update(raw)
    shared = {name: getattr(request, name) for name in SendingTerms.__struct_fields__}
    head = BlastHead(channels=[request.channel], **shared)
    incoming = BlastBody(head, slices([request.recipient]), digest, whole=True, path="recipient")
    try:
        receipt = await Submission(call, incoming).run()
    except ApiError as error:
        raise _about_one(error) from error
    taken = _decoder.decode(receipt.body)
    job_id = taken.job_ids[0] if isinstance(taken.job_ids, list) and taken.job_ids else msgspec.UNSET
    body = MessageAnswer(blast_id=taken.blast_id, job_id=job_id, warnings=taken.warnings, dry_run=taken.dry_run)
    return receipt_response(receipt, _encoder.encode(body))


def _about_one(error: ApiError) -> ApiError:
    """Return the error with the field names of a request for one message."""
    problems = [
        Problem("channel" if one.field == "channels[0]" else one.field, one.code, one.message) for one in error.problems
    ]
    return ApiError(error.code, error.message, problems, error.headers)


async def _stats(call: Call) -> web.Response:
    counted = {name: stats_of(one) for name, one in (await call.gateway.queue.control.stats()).items()}
    return json_response(StatsAnswer(stats=_together(counted)))


def _together(counted: dict[str, Stats]) -> AllStats:
    sums = {name: sum(getattr(one, name) for one in counted.values()) for name in _COUNTS}
    return AllStats(channels=counted, **sums)


async def _show_job(call: Call) -> web.Response:
    """Show a job as logged; a job that was just accepted may not be in the log yet, and is shown as queued."""
    job = _job_id(call)
    message = await _logged(call, job)
    if message is None:
        message = await _just_accepted(call, job)
    if message is None:
        # the row may have been written between the two reads
        message = await _logged(call, job)
    if message is None:
        raise ApiError("JOB_NOT_FOUND")
    return json_response(JobAnswer(message=message | await _waiting_for(call, job, message["status"])))


async def _waiting_for(call: Call, job: JobId, status: str) -> dict[str, str]:
    """Return what a message waits for, if known: the limit of its domain or recipient."""
    if status in TERMINAL or job.channel not in CHANNELS:
        return {}
    try:
        found = await call.gateway.queue.control.message_waits_for(job)
    except QueueUnavailableError:
        return {}
    return {"waiting_for": found} if found else {}


def _job_id(call: Call) -> JobId:
    parsed = parse_job_id(call.request.match_info["jobId"])
    if parsed is None or len(parsed.blast_id) > 64 or not (parsed.blast_id + parsed.channel).isascii():
        raise ApiError("JOB_NOT_FOUND")
    return parsed


def _text(job: JobId) -> str:
    return f"{job.blast_id}:{job.index}:{job.channel}"


async def _logged(call: Call, job: JobId) -> dict[str, Any] | None:
    if not (job.blast_id.isalnum() and job.channel.isalnum()):
        return None
    status, body = await call.gateway.logger.call("GET", f"/api/messages/{_text(job)}")
    return body.get("message") if status == 200 else None


async def _just_accepted(call: Call, job: JobId) -> dict[str, Any] | None:
    """Return a substitute for a row that the logger has not written yet, None where it has written every event."""
    queue = call.gateway.queue
    blast = await queue.blasts.load(job.blast_id)
    if blast is None or job.channel not in blast.totals:
        return None
    lag = (await queue.control.channel_stats(job.channel)).events_lag
    enqueued = await queue.blasts.watermark(job.blast_id, job.channel)
    if not lag and enqueued >= blast.totals[job.channel]:
        return None
    created_at = rfc3339(blast.created_at_ms)
    return {
        "job_id": _text(job),
        "channel": job.channel,
        "template_id": blast.template.id,
        "template_name": blast.template.name,
        "status": "scheduled" if blast.scheduled_at_ms > call.gateway.clock.now_ms() else "queued",
        "blast_id": blast.blast_id,
        "reference": None,
        "run": 1,
        "attempts": 0,
        "created_at": created_at,
        "updated_at": created_at,
        "delivery": None,
        "history": [],
        "receipts": [],
        "timeline": [{"at": created_at, "event": "queued", "run": 1, "attempt": None, "detail": None}],
    }


async def _cancel_job(call: Call) -> web.Response:
    """Cancel a job, unless the log says that it has ended: Redis would search every waiting job for it."""
    job = _job_id(call)
    status = await _logged_end(call, job)
    if not status:
        outcome = await call.gateway.queue.control.cancel_job(_text(job))
        if outcome == "processing":
            raise ApiError("JOB_PROCESSING")
        status = outcome if outcome == "cancelled" else await _logged_status(call, job)
    if status != "cancelled":
        raise ApiError("JOB_ENDED" if status in TERMINAL else "JOB_PROCESSING")
    return json_response(ChangeAnswer(message="the job is cancelled"))


async def _logged_end(call: Call, job: JobId) -> str:
    """Return the job's terminal status from the log, "" for none, or where the log does not answer in time."""
    try:
        async with asyncio.timeout(_LOG_TIME_S):
            message = await _logged(call, job)
    except (ApiError, TimeoutError):
        return ""
    status = str(message.get("status", "")) if message is not None else ""
    return status if status in TERMINAL else ""


async def _logged_status(call: Call, job: JobId) -> str:
    """Return, from the log, the status of a job that Redis does not know; raises 404 where the log lacks it too."""
    message = await _logged(call, job)
    if message is None:
        raise ApiError("JOB_NOT_FOUND")
    return str(message.get("status", ""))


async def _retry_job(call: Call) -> web.Response:
    request = await read_optional(call, RetryRequest)
    wanted = {"jobId": _text(_job_id(call)), "includeUncertain": request.include_uncertain}
    return json_response(await retry(call, wanted, "JOB_NOT_FOUND"))


_LOST = ("JOB_NOT_FOUND", "LOGGER_UNAVAILABLE")

OPERATIONS = [
    Operation("POST", "/messages", "sendMessage", "Send one message to one recipient", _post_message, "send",
              MessageAnswer, (202, 200), body=Body({JSON: MessageRequest}), parameters=(IDEMPOTENCY,),
              errors=INTAKE_ERRORS, guarded=True),
    Operation("GET", "/messages/stats", "messageStats", "Count the messages by state, live from Redis", _stats,
              answer=StatsAnswer),
    Operation("GET", "/messages/{jobId}", "showMessage", "Show a message, each of its attempts and receipts",
              _show_job, answer=JobAnswer, errors=_LOST),
    Operation("POST", "/messages/{jobId}/cancel", "cancelMessage", "Cancel a message that is not being sent yet",
              _cancel_job, "send", ChangeAnswer, errors=(*_LOST, "JOB_ENDED", "JOB_PROCESSING")),
    Operation("POST", "/messages/{jobId}/retry", "retryMessage", "Send a failed message again", _retry_job, "send",
              RetryAnswer, body=Body({JSON: RetryRequest}, required=False),
              errors=(*_LOST, "JOB_NOT_RETRYABLE", "VALIDATION_FAILED", *BODY_ERRORS)),
]  # fmt: skip
