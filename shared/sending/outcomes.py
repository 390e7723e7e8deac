"""Map the outcome of an attempt to one move in the queue, without I/O. The policy in two tables:

| raised | move |
| --- | --- |
| nothing | sent |
| TransientError | another attempt after 2, 4, 8 s …; failed when all attempts are used |
| TryLaterError | the same, but deferred when all attempts are used |
| ServerFailedError | as TransientError; with the server in trouble, deferred briefly, no attempt used |
| DeferredError | deferred as the provider asks, or 30 s, 1, 2, 5 … min; failed (`gave_up`) after a day, or expired |
| PermanentError | failed; a hard bounce suppresses the address |
| UnavailableError, StopChannelError, StopBlastError, RefusesAllError | given back, no attempt used |
| UncertainError | by policy: one more attempt, or failed; as TransientError where receivers recognise repetitions |

| not begun, because | move |
| --- | --- |
| cancelled, expired, suppressed; uncertain under `hold`; poison | ended without an attempt |
| its blast is paused | shelved |
| its channel is paused, or this sender's heartbeat has lapsed | given back |
| the limit of its domain or recipient is reached | waits in the list of that limit; given back if the list is full |
| it was sent already | dropped |
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shared.errors import (
    DeferredError,
    PermanentError,
    RefusesAllError,
    SendError,
    ServerFailedError,
    StopBlastError,
    StopChannelError,
    TransientError,
    TryLaterError,
    UnavailableError,
    UncertainError,
)
from shared.events import Deferred, Ended, Retrying, Returned, Sent, pack_event
from shared.jobs import Status, pack_job
from shared.queue.leases import (
    Grant,
    Lease,
    Move,
    awaiting,
    deferred,
    dropped,
    ended,
    given_back,
    parked,
    postponed,
    sent,
    shelved,
)
from shared.retry import RetryPolicy
from shared.sending.journal import EVENT_BYTES
from shared.sending.provider import Receipt
from shared.sending.settings import REPEAT

_SHORT_CHARS = 80
_sent_decoder = msgspec.msgpack.Decoder(Sent)


class Tried(msgspec.Struct, frozen=True):
    """An attempt that has ended: when (ms since the epoch), its duration, and the message's subject.

    `made` is False for a job that was not begun.
    """

    lease: Lease
    at_ms: int
    duration_ms: int
    subject: str
    made: bool = True


class Outcome(msgspec.Struct, frozen=True):
    """The result of an attempt that was not accepted: the move, and the labels for logs and metrics.

    `name` is `retrying`, `deferred`, `failed`, `expired` or `returned`; `suppress` is the reason to suppress
    the address, "" for none.
    """

    move: Move
    name: str
    error_class: str = ""
    code: str = ""
    suppress: str = ""


class GaveUpError(SendError):
    """The provider deferred the message until the time to give up; carries the provider's last reply."""

    error_class = "gave_up"


class NotBegunError(SendError):
    """The queue did not begin a job; `error_class` is the reason."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


@dataclass(frozen=True, slots=True)
class OutcomePolicy:
    """The settings that decide about outcomes; without `dead_letters` failed jobs are not kept."""

    retry: RetryPolicy
    on_uncertain: str
    park_ms: int
    dead_letters: bool = True


@dataclass(frozen=True, slots=True)
class _Ending:
    status: Status
    error_class: str
    message: str
    uncertain: bool = False


_ENDINGS = {
    "cancelled": _Ending("cancelled", "cancelled", "cancelled before it was sent"),
    "expired": _Ending("expired", "expired", "expired before it was sent"),
    "suppressed": _Ending("suppressed", "suppressed", "the address is suppressed"),
    "uncertain": _Ending("failed", "uncertain", "an earlier attempt may have been delivered", uncertain=True),
    "poison": _Ending("failed", "poison", "its sender was lost in mid-send too often"),
}


def accepted(tried: Tried, receipt: Receipt) -> Move:
    """Return the move of a message that the provider accepted."""
    lease = tried.lease
    event = Sent(
        tried.at_ms,
        lease.job_id,
        lease.job.run,
        lease.attempt,
        receipt.message_id,
        receipt.response,
        tried.duration_ms,
        tried.subject,
    )
    return sent(lease, pack_event(event))


def late_event(event: bytes) -> bytes:
    """Return a `sent` event as one of an acceptance after the lease was lost."""
    return pack_event(msgspec.structs.replace(_sent_decoder.decode(event), late=True))


def short_event(event: bytes) -> bytes:
    """Return a `sent` event, with its texts cut if it is too long for the journal."""
    if len(event) <= EVENT_BYTES:
        return event
    whole = _sent_decoder.decode(event)
    subject, response = whole.subject[:_SHORT_CHARS], whole.response[:_SHORT_CHARS]
    return pack_event(msgspec.structs.replace(whole, subject=subject, response=response))


def refused(tried: Tried, error: SendError, policy: OutcomePolicy) -> Outcome:
    """Return the outcome of an attempt that ended with `error`."""
    if isinstance(error, UnavailableError | StopChannelError | StopBlastError | RefusesAllError):
        return _returned(tried, error)
    if isinstance(error, PermanentError):
        return failed(tried, error, policy)
    if isinstance(error, UncertainError) and policy.on_uncertain == "hold":
        return failed(tried, error, policy, uncertain=True)
    wait_s = _deferral_wait_s(tried.lease, error, policy.retry)
    return _retried(tried, error, policy) if wait_s is None else _deferred(tried, error, wait_s, policy)


def _deferral_wait_s(lease: Lease, error: SendError, retry: RetryPolicy) -> float | None:
    """Return for how many seconds an answer defers the job; None if it uses an attempt."""
    number, exhausted = lease.job.deferrals + 1, lease.attempt >= retry.max_attempts
    if isinstance(error, ServerFailedError) and _is_servers_fault(error, retry, exhausted=exhausted):
        return retry.trouble_wait_s(number)
    if not retry.defers:
        return None
    if isinstance(error, DeferredError):
        return retry.deferral_wait_s(number, error.wait_s)
    # a job on the deferral schedule stays on it, unless its channel has a long schedule of its own
    stays = isinstance(error, TransientError) and lease.job.deferrals > 0 and not retry.waits_s
    later = stays or isinstance(error, TryLaterError)
    return retry.deferral_wait_s(number, None) if later and exhausted else None


def _is_servers_fault(error: ServerFailedError, retry: RetryPolicy, *, exhausted: bool) -> bool:
    """Whether the server is at fault: in trouble, or failing repeatedly when a job would lose its last attempt."""
    return error.in_trouble or (exhausted and error.in_a_row >= min(2, retry.max_attempts))


def untouched(lease: Lease, now_ms: int, reason: str) -> Move:
    """Return the move of a begun job that was not handed over: it waits again as before."""
    status: Status = "retrying" if lease.waits_as == "r" else "queued"
    event = Returned(now_ms, lease.job_id, lease.job.run, lease.attempt, status, "untried", reason)
    return given_back(lease, pack_event(event))


def _returned(tried: Tried, error: SendError) -> Outcome:
    lease = tried.lease
    status: Status = "retrying" if lease.waits_as == "r" else "queued"
    event = Returned(tried.at_ms, lease.job_id, lease.job.run, lease.attempt, status, error.error_class, _words(error))
    return Outcome(given_back(lease, pack_event(event)), "returned", error.error_class, error.code)


def _deferred(tried: Tried, error: SendError, wait_s: float, policy: OutcomePolicy) -> Outcome:
    lease, job = tried.lease, tried.lease.job
    first_ms = job.first_deferred_at_ms or tried.at_ms
    wished_ms = tried.at_ms + int(wait_s * 1000)
    due_ms = policy.retry.deferred_until_ms(wished_ms, tried.at_ms, first_ms, job.expires_at_ms)
    if due_ms is None:
        return _gave_up(tried, error, wished_ms, policy)
    event = Deferred(
        tried.at_ms,
        lease.job_id,
        job.run,
        lease.attempt,
        job.deferrals + 1,
        error.error_class,
        error.code,
        _words(error),
        tried.duration_ms,
        due_ms,
        tried.subject,
    )
    move = deferred(lease, pack_event(event), due_ms - tried.at_ms, first_ms)
    return Outcome(move, "deferred", error.error_class, error.code)


def _gave_up(tried: Tried, error: SendError, wished_ms: int, policy: OutcomePolicy) -> Outcome:
    expires_ms = tried.lease.job.expires_at_ms
    last = GaveUpError(error.message, code=error.code, reply=error.reply)
    return failed(tried, last, policy, status="expired" if expires_ms and wished_ms > expires_ms else "failed")


def _retried(tried: Tried, error: SendError, policy: OutcomePolicy) -> Outcome:
    lease = tried.lease
    uncertain = isinstance(error, UncertainError) and policy.on_uncertain != REPEAT
    delay_s = policy.retry.delay_s(lease.attempt, lease.job_id)
    if delay_s is None:
        return failed(tried, error, policy, uncertain=uncertain)
    if isinstance(error, DeferredError) and error.wait_s is not None:
        delay_s = max(delay_s, error.wait_s)
    delay_ms = int(delay_s * 1000)
    event = pack_event(
        Retrying(
            tried.at_ms,
            lease.job_id,
            lease.job.run,
            lease.attempt,
            error.error_class,
            error.code,
            _words(error),
            tried.duration_ms,
            tried.at_ms + delay_ms,
            tried.subject,
        )
    )
    if delay_ms > policy.park_ms and not uncertain:
        move = postponed(lease, event, delay_ms)
    else:
        move = parked(lease, event, min(delay_ms, policy.park_ms), uncertain=uncertain)
    return Outcome(move, "retrying", error.error_class, error.code)


def failed(
    tried: Tried, error: SendError, policy: OutcomePolicy, *, status: Status = "failed", uncertain: bool = False
) -> Outcome:
    """Return the outcome of a job that ends unsent; a hard bounce suppresses the address."""
    move = end(tried, error, status, uncertain=uncertain, dead_letter=policy.dead_letters)
    suppress = error.suppress if isinstance(error, PermanentError) else ""
    return Outcome(move, status, error.error_class, error.code, suppress)


def end(tried: Tried, error: SendError, status: Status, *, uncertain: bool = False, dead_letter: bool = True) -> Move:
    """Return the move that ends a job unsent; with `dead_letter` a failed job is kept whole."""
    lease, job = tried.lease, tried.lease.job
    event = Ended(
        tried.at_ms,
        lease.job_id,
        job.run,
        lease.attempt if tried.made else lease.attempt - 1,
        status,
        error.error_class,
        error.code,
        _words(error),
        tried.duration_ms,
        pack_job(job) if status == "failed" and dead_letter else b"",
        job.recipient.address,
        job.recipient.name,
        "",
        tried.subject,
    )
    return ended(lease, pack_event(event), status, uncertain=uncertain)


def _words(error: SendError) -> str:
    return error.reply or error.message


def not_begun_move(lease: Lease, grant: Grant, now_ms: int) -> Move | None:
    """Return the move of a job that the queue did not begin; None if the job is no longer this sender's."""
    ending = _ENDINGS.get(grant.kind)
    if ending is not None:
        error = NotBegunError(ending.error_class, ending.message)
        return end(_untried(lease, now_ms), error, ending.status, uncertain=ending.uncertain)
    if grant.kind == "paused":
        return shelved(lease)
    if grant.kind in {"held", "full"}:
        return given_back(lease)
    if grant.kind == "beyond":
        return awaiting(lease, grant.limit)
    if grant.kind == "sent":
        return dropped(lease)
    return None


def unsendable_move(lease: Lease, error: Exception, now_ms: int) -> Move:
    """Return the move that ends a job for which no begin request can be made."""
    cause = NotBegunError("permanent", f"it cannot be sent: {type(error).__name__}: {error}")
    return end(_untried(lease, now_ms), cause, "failed")


def _untried(lease: Lease, now_ms: int) -> Tried:
    return Tried(lease, now_ms, 0, "", made=False)
