"""The message that a path names: what the log knows of it, or Redis where the log does not have it yet."""

from __future__ import annotations

from typing import Any

from services.ingest.http.errors import ApiError
from services.ingest.http.operation import Call
from shared.blasts import Blast
from shared.clock import rfc3339
from shared.jobs import JobId, parse_job_id


def job_of(call: Call) -> JobId:
    """Return the job that the path names; raises 404 for a text that is no job's id."""
    parsed = parse_job_id(call.request.match_info["jobId"])
    if parsed is None or len(parsed.blast_id) > 64 or not (parsed.blast_id + parsed.channel).isascii():
        raise ApiError("JOB_NOT_FOUND")
    return parsed


def job_text(job: JobId) -> str:
    """Return the id as one text."""
    return f"{job.blast_id}:{job.index}:{job.channel}"


async def find_message(call: Call, job: JobId) -> dict[str, Any]:
    """Return a message as logged; one that was just accepted may not be in the log yet, and is shown as queued.

    Raises 404 for one that nobody knows.
    """
    message = await logged(call, job)
    if message is None:
        message = await _just_accepted(call, job)
    if message is None:
        # the row may have been written between the two reads
        message = await logged(call, job)
    if message is None:
        raise ApiError("JOB_NOT_FOUND")
    return message


async def logged(call: Call, job: JobId) -> dict[str, Any] | None:
    """Return a message with its history from the log, None if the log does not have it."""
    if not (job.blast_id.isalnum() and job.channel.isalnum()):
        return None
    status, body = await call.gateway.logger.call("GET", f"/api/messages/{job_text(job)}")
    return body.get("message") if status == 200 else None


async def is_enqueued(call: Call, blast: Blast, job: JobId) -> bool:
    """Return whether all jobs of a blast that share the job's partition are enqueued."""
    place = blast.partition_of(job.channel, job.index)
    enqueued = await call.gateway.queue.blasts.watermark(job.blast_id, job.channel, place)
    return enqueued >= blast.shares(job.channel).get(place, 0)


async def _just_accepted(call: Call, job: JobId) -> dict[str, Any] | None:
    """Return a substitute for a row that the logger has not written yet, None where it has written every event."""
    queue = call.gateway.queue
    blast = await queue.blasts.load(job.blast_id)
    if blast is None or job.channel not in blast.totals:
        return None
    lag = (await queue.control.channel_stats(job.channel)).events_lag
    if not lag and await is_enqueued(call, blast, job):
        return None
    created_at = rfc3339(blast.created_at_ms)
    return {
        "job_id": job_text(job),
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
