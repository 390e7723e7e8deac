"""Folding: turns a batch of events in any order into one change per job.

Within a run, `sent` outranks every other terminal state, and a terminal state outranks the others; among those, the
higher attempt wins, then the later time. `rank_of` encodes this as one integer. A job's state is the one with the
highest rank so far, so its events give the same row in any order and any repetition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from shared.events import (
    ApiRequest,
    Begun,
    BlastAccepted,
    BlastChanged,
    BlastChannelEnded,
    ChannelChanged,
    Deferred,
    Ended,
    Event,
    Processing,
    Queued,
    Receipts,
    Retrying,
    Returned,
    Sent,
    SuppressionsAdded,
    Swept,
    SweptRanges,
    SystemEvent,
)

EPOCH_MS = 1_577_836_800_000
_LATEST, _MOST_RUNS, _MOST_ATTEMPTS = (1 << 41) - 1, 1023, 63
_SENT, _ENDED, _UNDERWAY = 2, 1, 0
# the order of events of one attempt in the same millisecond
_ORDINALS = {
    "scheduled": 0, "queued": 1, "processing": 2, "retrying": 4, "cancelled": 1, "expired": 2, "suppressed": 3,
    "failed": 4,
}  # fmt: skip
_RETURNED = 3
# ended before an attempt: their `attempt` counts earlier attempts, each of which has its own row
UNTRIED = frozenset({"cancelled", "expired", "suppressed"})


def rank_of(run: int, kind: int, attempt: int, at_ms: int, ordinal: int) -> int:
    """Return a state's rank as an integer of 62 bits: run, kind, attempt, time, ordinal."""
    since = at_ms - EPOCH_MS
    # comparisons: calls of `min` would take half of the time
    if not 0 <= since <= _LATEST or run > _MOST_RUNS or attempt > _MOST_ATTEMPTS:
        since, run, attempt = min(max(since, 0), _LATEST), min(run, _MOST_RUNS), min(attempt, _MOST_ATTEMPTS)
    return run << 52 | kind << 50 | attempt << 44 | since << 3 | ordinal


def rank_of_swept(event: Swept | SweptRanges, run: int) -> int:
    """Return the rank of jobs that were swept."""
    return rank_of(run, _ENDED, 0, event.at_ms, _ORDINALS[event.status])


class JobChange(msgspec.Struct, gc=False):
    """A batch's change to one job: the state with the highest rank, and the details from any of its events."""

    job_id: str
    rank: int = -1
    status: str = ""
    at_ms: int = 0
    created_ms: int = 0
    run: int = 0
    attempts: int = 0
    error_class: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    message_id: str | None = None
    response: str | None = None
    duration_ms: int | None = None
    next_at_ms: int = 0
    subject: str = ""
    address: str = ""
    name: str = ""
    template_id: str = ""
    template_name: str = ""
    reference: str = ""
    letter: bytes = b""
    letter_run: int = 0


class Folded(msgspec.Struct):
    """A folded batch of events; `passed` counts the retries and deferrals, which a row's final state does not show.

    `swept` changes jobs too, after those of `jobs`; `unlike` are the changes of those that had to be merged one by one.
    `notices` change no row: only webhooks report them.
    """

    jobs: dict[str, JobChange] = {}
    swept: list[SweptRanges] = []
    unlike: list[JobChange] = []
    attempts: list[tuple[Any, ...]] = []
    blasts: list[BlastAccepted | BlastChanged | BlastChannelEnded] = []
    requests: list[ApiRequest] = []
    system: list[SystemEvent] = []
    notices: list[ChannelChanged | SuppressionsAdded] = []
    passed: Counter[tuple[str, str, int]] = msgspec.field(default_factory=Counter)
    errors: Counter[tuple[int, str, str]] = msgspec.field(default_factory=Counter)


def fold(events: Iterable[Event]) -> Folded:
    """Fold events into changes; cheap enough for tens of thousands of events per second."""
    folded = Folded()
    for event in events:
        _FOLDERS[type(event)](folded, event)
    return folded


def _seen(folded: Folded, job_id: str, run: int, attempt: int, at_ms: int) -> JobChange:
    """Return the job's change after updating it with the fields that every event has."""
    change = folded.jobs.get(job_id)
    if change is None:
        change = folded.jobs[job_id] = JobChange(job_id, created_ms=at_ms, run=run, attempts=attempt)
        return change
    if at_ms < change.created_ms:  # noqa: PLR1730 -- a call of `min` costs more, three times for a message
        change.created_ms = at_ms
    if run > change.run:
        change.run, change.attempts = run, attempt
    elif attempt > change.attempts and run == change.run:
        change.attempts = attempt
    return change


def _queued(folded: Folded, event: Queued) -> None:
    rank = rank_of(event.run, _UNDERWAY, 0, event.at_ms, _ORDINALS[event.status])
    for recipient in event.recipients:
        job_id = f"{event.blast_id}:{recipient.index}:{event.channel}"
        if job_id not in folded.jobs:
            folded.jobs[job_id] = JobChange(
                job_id, rank, event.status, event.at_ms, event.at_ms, event.run, address=recipient.address,
                name=recipient.name, template_id=event.template_id, template_name=event.template_name,
                reference=recipient.reference,
            )  # fmt: skip
            continue
        change = _seen(folded, job_id, event.run, 0, event.at_ms)
        change.address, change.name = recipient.address, recipient.name
        change.reference = recipient.reference
        change.template_id, change.template_name = event.template_id, event.template_name
        if rank > change.rank:
            _set_state(change, rank, event.status, event.at_ms)


def _begun(folded: Folded, event: Begun) -> None:
    at_ms, run, attempt = event.at_ms, event.run, event.attempt
    rank = rank_of(run, _UNDERWAY, attempt, at_ms, _ORDINALS["processing"])
    jobs = folded.jobs
    for job_id in event.jobs.split():
        if job_id not in jobs:
            jobs[job_id] = JobChange(job_id, rank, "processing", at_ms, at_ms, run, attempt)
            continue
        change = _seen(folded, job_id, run, attempt, at_ms)
        if rank > change.rank:
            _set_state(change, rank, "processing", at_ms)


def _processing(folded: Folded, event: Processing) -> None:
    change = _seen(folded, event.job_id, event.run, event.attempt, event.at_ms)
    rank = rank_of(event.run, _UNDERWAY, event.attempt, event.at_ms, _ORDINALS["processing"])
    if rank > change.rank:
        _set_state(change, rank, "processing", event.at_ms)


def _set_state(change: JobChange, rank: int, status: str, at_ms: int) -> None:
    """Set a state and clear the error or reply of the previous one."""
    change.rank, change.status, change.at_ms = rank, status, at_ms
    if change.error_class is not None or change.message_id is not None or change.next_at_ms:
        change.error_class = change.error_code = change.error_message = None
        change.message_id = change.response = change.duration_ms = None
        change.next_at_ms = 0


def _sent(folded: Folded, event: Sent) -> None:
    change = _seen(folded, event.job_id, event.run, event.attempt, event.at_ms)
    _complete(change, event)
    rank = rank_of(event.run, _SENT, event.attempt, event.at_ms, 0 if event.late else 1)
    if rank > change.rank:
        _set_state(change, rank, "sent", event.at_ms)
        change.message_id, change.response = event.message_id, event.response
        change.duration_ms = event.duration_ms


def _complete(change: JobChange, event: Sent | Ended) -> None:
    """Add the fields that a row lacks while its `Queued` has not arrived."""
    if event.subject:
        change.subject = event.subject
    if event.address and not change.address:
        change.address, change.name = event.address, event.name
    if event.template_id and not change.template_id:
        change.template_id = event.template_id


def _returned(folded: Folded, event: Returned) -> None:
    change = _seen(folded, event.job_id, event.run, max(event.attempt - 1, 0), event.at_ms)
    rank = rank_of(event.run, _UNDERWAY, event.attempt, event.at_ms, _RETURNED)
    if rank > change.rank:
        _set_state(change, rank, event.status, event.at_ms)
        if event.error_class:
            change.error_class, change.error_message = event.error_class, event.message


def _retrying(folded: Folded, event: Retrying) -> None:
    _failed_attempt(folded, event, event.attempt, 0, "retrying")


def _deferred(folded: Folded, event: Deferred) -> None:
    _failed_attempt(folded, event, max(event.attempt - 1, 0), event.deferral, "deferred")


def _failed_attempt(folded: Folded, event: Retrying | Deferred, attempts: int, deferral: int, outcome: str) -> None:
    change = _seen(folded, event.job_id, event.run, attempts, event.at_ms)
    if event.subject:
        change.subject = event.subject
    rank = rank_of(event.run, _UNDERWAY, event.attempt, event.at_ms, _ORDINALS["retrying"])
    if rank > change.rank:
        _set_state(change, rank, "retrying", event.at_ms)
        _set_error(change, event)
        change.next_at_ms = event.next_at_ms
    folded.attempts.append(
        (event.job_id, event.run, event.attempt, deferral, outcome, event.error_class, event.code, event.message,
         event.duration_ms, event.at_ms, event.next_at_ms)
    )  # fmt: skip
    channel = event.job_id.rpartition(":")[2]
    folded.passed[channel, outcome, event.at_ms // 60_000] += 1
    folded.errors[event.at_ms // 86_400_000, channel, event.error_class] += 1


def _set_error(change: JobChange, event: Retrying | Deferred | Ended) -> None:
    change.error_class, change.error_code = event.error_class, event.code
    change.error_message, change.duration_ms = event.message, event.duration_ms


def _ended(folded: Folded, event: Ended) -> None:
    change = _seen(folded, event.job_id, event.run, event.attempt, event.at_ms)
    _complete(change, event)
    rank = rank_of(event.run, _ENDED, event.attempt, event.at_ms, _ORDINALS[event.status])
    if rank > change.rank:
        _set_state(change, rank, event.status, event.at_ms)
        _set_error(change, event)
    if event.job and event.run >= change.letter_run:
        change.letter, change.letter_run = event.job, event.run
    if event.attempt and event.error_class not in UNTRIED:
        folded.attempts.append(
            (event.job_id, event.run, event.attempt, 0, event.status, event.error_class, event.code, event.message,
             event.duration_ms, event.at_ms, 0)
        )  # fmt: skip
    if event.error_class not in UNTRIED:
        folded.errors[event.at_ms // 86_400_000, event.job_id.rpartition(":")[2], event.error_class] += 1


def _swept(folded: Folded, event: Swept) -> None:
    for job in event.jobs:
        change = _seen(folded, job.job_id, job.run, 0, event.at_ms)
        if not change.address:
            change.address, change.name = job.recipient.address, job.recipient.name
        rank = rank_of_swept(event, job.run)
        if rank > change.rank:
            _set_state(change, rank, event.status, event.at_ms)
            change.error_class, change.error_code = event.error_class, ""
            change.error_message, change.duration_ms = event.message, 0


def _swept_ranges(folded: Folded, event: SweptRanges) -> None:
    folded.swept.append(event)


def _blast(folded: Folded, event: BlastAccepted | BlastChanged | BlastChannelEnded) -> None:
    folded.blasts.append(event)


def _api_request(folded: Folded, event: ApiRequest) -> None:
    folded.requests.append(event)


def _system(folded: Folded, event: SystemEvent) -> None:
    folded.system.append(event)


def _receipts(_folded: Folded, _event: Receipts) -> None:
    """Leave receipts to `receipts`: which message they belong to depends on their stream and on the database."""


def _for_webhooks(folded: Folded, event: ChannelChanged | SuppressionsAdded) -> None:
    folded.notices.append(event)


_FOLDERS: dict[type, Callable[[Folded, Any], None]] = {
    Queued: _queued,
    Begun: _begun,
    Processing: _processing,
    Returned: _returned,
    Sent: _sent,
    Retrying: _retrying,
    Deferred: _deferred,
    Ended: _ended,
    Swept: _swept,
    SweptRanges: _swept_ranges,
    BlastAccepted: _blast,
    BlastChanged: _blast,
    BlastChannelEnded: _blast,
    ApiRequest: _api_request,
    SystemEvent: _system,
    Receipts: _receipts,
    ChannelChanged: _for_webhooks,
    SuppressionsAdded: _for_webhooks,
}
