"""Messages: sending, showing, cancelling and retrying a single one, and the counts of all."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from services.ingest.api.blasts import IDEMPOTENCY, INTAKE_ERRORS, receipt_response, retry, upstream_error
from services.ingest.api.known_messages import find_message, is_enqueued, job_of, job_text, logged
from services.ingest.api.logs import FILTER
from services.ingest.blasts.request_body import BlastBody, Digest, slices
from services.ingest.blasts.submission import Submission
from services.ingest.http.bodies import BODY_ERRORS, read_json, read_optional
from services.ingest.http.channel_views import stats_of
from services.ingest.http.decoding import decode_struct
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.operation import JSON, Body, Call, Operation
from services.ingest.http.requests import (
    BlastHead,
    MessageRequest,
    RetryMatchingRequest,
    RetryRequest,
    SendingTerms,
)
from services.ingest.http.responses import (
    AllStats,
    BlastAnswer,
    ChangeAnswer,
    JobAnswer,
    MessageAnswer,
    RetryAnswer,
    RetryMatchingAnswer,
    Stats,
    StatsAnswer,
    json_response,
)
from services.ingest.http.upstreams import MASKED
from shared.channels import CHANNELS
from shared.errors import QueueUnavailableError
from shared.jobs import TERMINAL, JobId

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
    job = job_of(call)
    message = await find_message(call, job)
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


async def _cancel_job(call: Call) -> web.Response:
    """Cancel a job, unless the log says that it has ended: Redis would search every waiting job for it."""
    job = job_of(call)
    status = await _logged_end(call, job)
    if not status:
        outcome = await call.gateway.queue.control.cancel_job(job_text(job))
        if outcome == "processing":
            raise ApiError("JOB_PROCESSING")
        status = outcome if outcome == "cancelled" else await _logged_status(call, job)
    if status != "cancelled":
        raise ApiError("JOB_ENDED")
    return json_response(ChangeAnswer(message="the job is cancelled"))


async def _logged_end(call: Call, job: JobId) -> str:
    """Return the job's terminal status from the log, "" for none, or where the log does not answer in time."""
    try:
        async with asyncio.timeout(_LOG_TIME_S):
            message = await logged(call, job)
    except (ApiError, TimeoutError):
        return ""
    status = str(message.get("status", "")) if message is not None else ""
    return status if status in TERMINAL else ""


async def _logged_status(call: Call, job: JobId) -> str:
    """Return, from the log, the status of a job that Redis does not have: it has ended, though the log may lag.

    Raises 404 for a job that nobody knows.
    """
    status = str((await find_message(call, job))["status"])
    blast = None if status in TERMINAL else await call.gateway.queue.blasts.load(job.blast_id)
    if blast is not None and not await is_enqueued(call, blast, job):
        raise ApiError(
            "JOB_PROCESSING", "The messages of this blast are still being queued. Cancel it again in a moment."
        )
    return status


async def _retry_job(call: Call) -> web.Response:
    request = await read_optional(call, RetryRequest)
    wanted = {"jobId": job_text(job_of(call)), "includeUncertain": request.include_uncertain}
    return json_response(await retry(call, wanted, "JOB_NOT_FOUND"))


async def _retry_matching(call: Call) -> web.Response:
    """Have the logger send again what matches; it reads the filter as it reads that of a list."""
    request = await read_optional(call, RetryMatchingRequest)
    query = "&".join(one for one in (call.request.rel_url.raw_query_string, MASKED if call.masked else "") if one)
    path = "/internal/retry-matching" + (f"?{query}" if query else "")
    status, body = await call.gateway.logger.call("POST", path, msgspec.to_builtins(request))
    if status == 200:
        return json_response(msgspec.convert(body, RetryMatchingAnswer))
    if body.get("code") in _REFUSALS:
        raise upstream_error(body, "INVALID_QUERY")
    # an earlier version does not have this call
    raise ApiError("LOGGER_UNAVAILABLE", f"the logger answered {status}; upgrade it", headers={"Retry-After": "10"})


_REFUSALS = frozenset({"INVALID_QUERY", "CONFIRMATION_MISMATCH"})
_LOST = ("JOB_NOT_FOUND", "LOGGER_UNAVAILABLE")

OPERATIONS = [
    Operation("POST", "/messages", "sendMessage", "Send one message to one recipient", _post_message, "send",
              MessageAnswer, (202, 200), body=Body({JSON: MessageRequest}), parameters=(IDEMPOTENCY,),
              errors=INTAKE_ERRORS, guarded=True),
    Operation("POST", "/messages/retry", "retryMatching",
              "Send all failed messages that match a filter again; without `confirm`, count them",
              _retry_matching, "send", RetryMatchingAnswer, body=Body({JSON: RetryMatchingRequest}, required=False),
              parameters=FILTER, queue=False,
              errors=("LOGGER_UNAVAILABLE", "INVALID_QUERY", "CONFIRMATION_MISMATCH", "VALIDATION_FAILED",
                      *BODY_ERRORS)),
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
