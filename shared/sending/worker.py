"""One attempt: load the blast, render, hand the message to the provider, and settle the outcome."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol

from shared.blasts import Blast
from shared.clock import Clock
from shared.errors import (
    PermanentError,
    SendError,
    ServerFailedError,
    StopBlastError,
    StopChannelError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from shared.jobs import Job
from shared.lifecycle import is_stopping
from shared.logs import get_logger, note
from shared.queue.leases import Lease
from shared.sealing import Seal, SealError, without
from shared.sending.caches import FileCache, SnapshotCache
from shared.sending.holdings import BegunJob, Holdings
from shared.sending.outcomes import Outcome, OutcomePolicy, Tried, accepted, refused, sent_event, untouched
from shared.sending.provider import ChainingProvider, MessageT, NotStartedError, Provider, Receipt, Start
from shared.sending.settings import REPEAT
from shared.sending.settler import Settlement, Settler
from shared.sending.starts import GrantedStart
from shared.sending.verdicts import Verdicts


class SendObserver(Protocol):
    """The metrics of a sender; implemented in `shared/sender_metrics.py`."""

    def attempt(self, channel: str, outcome: str, error_class: str, duration_s: float) -> None:
        """Count one attempt with its outcome and the seconds it took."""
        ...

    def queue_latency(self, channel: str, lane: str, seconds: float) -> None:
        """Observe the time from enqueueing to the first attempt."""
        ...

    def housekeeping_failed(self, channel: str, task: str) -> None:
        """Count an unexpected error in the sender's housekeeping."""
        ...


class Consequences(Protocol):
    """The effects of an outcome beyond the job itself."""

    async def stop_channel(self, error: StopChannelError) -> None:
        """Pause the channel with the provider's reason."""
        ...

    async def stop_blast(self, blast_id: str, error: StopBlastError) -> None:
        """Pause a blast with the provider's reason."""
        ...

    async def suppress(self, job: Job, reason: str, words: str) -> None:
        """Suppress a job's address, with a reason and the provider's reply."""
        ...

    def provider_failed(self) -> None:
        """Note that the server failed, not the message: pause dispatching briefly."""
        ...

    def provider_worked(self) -> None:
        """Note that the server works: it accepted a message, or answered why it did not."""
        ...

    def lease_fresh(self) -> bool:
        """Return whether the lease allows jobs to begin."""
        ...

    def lease_held_since(self, moment: float) -> bool:
        """Return whether a job granted at a moment (monotonic clock) may still be sent."""
        ...


@dataclass(slots=True)
class NextJob(Generic[MessageT]):
    """A job that a worker will send next, and its message once rendered."""

    begun: BegunJob
    message: MessageT | None = None


@dataclass(slots=True)
class _Attempt:
    """An attempt under way; `started_at` is when rendering ended, until then the attempt's start (monotonic clock).

    `receipt` is what the channel returned.
    """

    begun: BegunJob
    start: GrantedStart
    started_at: float
    subject: str = ""
    receipt: Receipt | None = None
    settled: bool = False

    @property
    def lease(self) -> Lease:
        return self.begun.lease


@dataclass(frozen=True, slots=True)
class WorkerParts(Generic[MessageT]):
    """The parts that the workers of a sender share."""

    provider: Provider[MessageT]
    snapshots: SnapshotCache
    files: FileCache
    settler: Settler
    holdings: Holdings
    policy: OutcomePolicy
    observer: SendObserver
    consequences: Consequences
    clock: Clock
    verdicts: Verdicts
    seal: Seal


async def conclude(parts: WorkerParts[MessageT], tried: Tried, error: SendError) -> None:
    """Settle an attempt that ended with `error`, and suppress the address if that follows; raises no Exception."""
    settled = False
    try:
        outcome = refused(tried, error, parts.policy)
        parts.settler.add(Settlement(outcome.move))
        settled = True
        if outcome.suppress:
            await parts.consequences.suppress(tried.lease.job, outcome.suppress, error.reply or error.message)
        _note(parts, tried, outcome)
    except Exception as unexpected:
        if not settled:
            plain = TransientError(f"{type(error).__name__}, and its outcome could not be determined")
            parts.settler.add(Settlement(refused(tried, plain, parts.policy).move))
        get_logger().error("outcome_error", job_id=tried.lease.job_id, exc_info=unexpected)


def _note(parts: WorkerParts[MessageT], tried: Tried, outcome: Outcome) -> None:
    job = tried.lease.job
    parts.observer.attempt(job.channel, outcome.name, outcome.error_class, tried.duration_ms / 1000)
    note(
        "attempt",
        job_id=job.job_id,
        blast_id=job.blast_id,
        channel=job.channel,
        attempt=tried.lease.attempt,
        outcome=outcome.name,
        error_class=outcome.error_class,
        code=outcome.code,
        duration_ms=tried.duration_ms,
    )


class Worker(Generic[MessageT]):
    """Sends one job at a time; a sender has as many workers as its concurrency."""

    def __init__(self, parts: WorkerParts[MessageT]) -> None:
        self._parts = parts
        self._chain = parts.provider if isinstance(parts.provider, ChainingProvider) else None
        self._next: NextJob[MessageT] | None = None

    async def run(self) -> None:
        """Send ready jobs until cancelled; a hand-over that is cancelled is uncertain."""
        try:
            while True:
                job, self._next = self._next, None
                if job is None:
                    await self._attempt(await self._parts.holdings.next_begun(), None)
                else:
                    await self._attempt(job.begun, job.message)
        finally:
            if self._next is not None:
                self._withdraw(self._next.message)
                self._give_back_lease(self._next.begun.lease, "its sender stopped")

    async def _attempt(self, begun: BegunJob, message: MessageT | None) -> None:
        """Send one job and settle its outcome; an exception on the way affects only this job."""
        parts = self._parts
        held_since = parts.consequences.lease_held_since
        start = GrantedStart(begun, parts.clock, parts.holdings.pace, held_since, self._note_start)
        attempt = _Attempt(begun, start, parts.clock.monotonic())
        try:
            error = await self._send(attempt, message)
            if error is None and start.acceptance is not None:
                self._accept(attempt, start.acceptance)
            else:
                await self._conclude(attempt, error)
        except asyncio.CancelledError as error:
            if not is_stopping():  # cancelled by its own job: that must not end this worker
                self._end_unexpected(attempt, error)
                return
            await self._end_cancelled(attempt)
            raise
        except Exception as error:
            self._end_unexpected(attempt, error)

    async def _send(self, attempt: _Attempt, message: MessageT | None) -> Exception | None:
        """Render and hand over; return the exception, or None once the provider has accepted the message."""
        start, clock = attempt.start, self._parts.clock
        try:
            if message is None:
                message = self._rendered_now(attempt.lease.job) or await self._render(attempt.lease)
            attempt.subject = message.subject
            attempt.started_at = clock.monotonic()
            with start:
                receipt = await self._hand_over(message, start)
            start.accepted(receipt.message_id, receipt.response)
            attempt.receipt = receipt
            self._parts.holdings.pace.sent(clock.monotonic() - attempt.started_at - start.waited_s)
        except Exception as error:
            return error
        return None

    async def _conclude(self, attempt: _Attempt, error: Exception | None) -> None:
        """Settle by the provider's acceptance if there is one, whatever was raised after it, else by the exception."""
        if attempt.start.acceptance is not None:
            if error is not None:
                _log_unexpected("failed_after_acceptance", attempt, error)
            self._accept(attempt, attempt.start.acceptance)
        elif isinstance(error, NotStartedError):
            note("not_started", job_id=attempt.lease.job_id, channel=attempt.lease.job.channel, reason=error.reason)
            self._give_back(attempt, error.reason)
        elif isinstance(error, SendError):
            await self._refuse(attempt, error)
        elif error is not None:
            _log_unexpected("attempt_error", attempt, error)
            await self._refuse(attempt, _unexpected(attempt, error))

    async def _end_cancelled(self, attempt: _Attempt) -> None:
        """Settle an attempt that the end of the sender interrupts."""
        if attempt.settled:
            return
        if attempt.start.acceptance is not None:
            self._accept(attempt, attempt.start.acceptance)
        elif attempt.begun.sending and self._parts.policy.on_uncertain != REPEAT:
            await self._refuse(attempt, UncertainError("cut off by the end of the sender"))
        else:
            self._give_back(attempt, "its sender stopped")

    def _end_unexpected(self, attempt: _Attempt, error: BaseException) -> None:
        """Settle an attempt whose outcome could not be determined or reported, by its acceptance or its error."""
        if not attempt.settled:
            lease, acceptance = attempt.lease, attempt.start.acceptance
            tried = Tried(lease, self._parts.clock.now_ms(), 0, "")
            if acceptance is not None:
                self._settle(attempt, accepted(tried, Receipt(acceptance[0], "")))
            else:
                self._settle(attempt, refused(tried, _unexpected(attempt, error), self._parts.policy))
        _log_unexpected("outcome_error", attempt, error)

    def _hand_over(self, message: MessageT, start: Start) -> Awaitable[Receipt]:
        if self._chain is None:
            return self._parts.provider.send(message, start)
        return self._chain.send_chained(message, self._take_next, start)

    def _take_next(self) -> MessageT | None:
        """Take the job that this worker sends next, so that the provider can announce it, if any."""
        parts = self._parts
        if self._next is not None or not parts.consequences.lease_fresh():
            return None
        begun = parts.holdings.next_begun_that_may_wait()
        if begun is None:
            return None
        self._next = NextJob(begun)
        try:
            self._next.message = self._rendered_now(begun.lease.job)
        except Exception:
            return None  # the job's own attempt will fail the same way and report it
        return self._next.message

    def _withdraw(self, message: MessageT | None) -> None:
        if self._chain is not None and message is not None:
            self._chain.withdraw(message)

    def _rendered_now(self, job: Job) -> MessageT | None:
        """Render a job whose snapshot is loaded and that needs no files; None for any other."""
        blast = self._parts.snapshots.kept(job.blast_id)
        return None if blast is None or job.recipient.files else self._rendered(job, blast)

    async def _render(self, lease: Lease) -> MessageT:
        parts, job = self._parts, lease.job
        blast = await parts.snapshots.get(job.blast_id)
        if blast is None:
            raise PermanentError("its blast no longer exists", code="blast_gone")
        return self._rendered(await parts.files.whole(job), blast)

    def _rendered(self, job: Job, blast: Blast) -> MessageT:
        seal = self._parts.seal
        try:
            return self._parts.provider.render(seal.opened_job(job), seal.opened_blast(blast))
        except SealError as error:
            raise StopBlastError(str(error), code="sealed") from error

    def _secrets(self, lease: Lease) -> list[str]:
        """Return the sensitive values of a job, which the provider may quote in its reply."""
        seal, own = self._parts.seal, lease.job.recipient.variables
        blast = self._parts.snapshots.kept(lease.job.blast_id)
        found = seal.secrets(own) if own else []
        return found + seal.secrets(blast.variables) if blast is not None and blast.variables else found

    def _note_start(self, begun: BegunJob) -> None:
        parts, job = self._parts, begun.lease.job
        if begun.latest_start < math.inf:
            parts.holdings.wake.set()  # the provider may be able to start another
        if begun.lease.attempt == 1:
            latency_s = max(0.0, (parts.clock.now_ms() - job.enqueued_at_ms) / 1000)
            parts.observer.queue_latency(job.channel, job.lane, latency_s)

    def _give_back(self, attempt: _Attempt, reason: str) -> None:
        self._give_back_lease(attempt.lease, reason)
        attempt.settled = True

    def _give_back_lease(self, lease: Lease, reason: str) -> None:
        self._parts.settler.add(Settlement(untouched(lease, self._parts.clock.now_ms(), reason)))

    def _settle(self, attempt: _Attempt, outcome: Outcome, late: Callable[[], bytes] | None = None) -> None:
        self._parts.settler.add(Settlement(outcome.move, late))
        attempt.settled = True

    def _tried(self, attempt: _Attempt) -> Tried:
        clock = self._parts.clock
        lasted_s = clock.monotonic() - attempt.started_at - attempt.start.waited_s
        return Tried(attempt.lease, clock.now_ms(), int(lasted_s * 1000), attempt.subject)

    def _accept(self, attempt: _Attempt, acceptance: tuple[str, str]) -> None:
        tried, receipt = self._tried(attempt), attempt.receipt or Receipt(*acceptance)
        secrets = self._secrets(attempt.lease)
        if secrets:
            receipt = Receipt(receipt.message_id, without(receipt.response, secrets))
        outcome = accepted(tried, receipt)
        self._settle(attempt, outcome, partial(sent_event, tried, receipt, late=True))
        self._parts.consequences.provider_worked()
        _note(self._parts, tried, outcome)

    async def _refuse(self, attempt: _Attempt, error: SendError) -> None:
        """Settle an attempt by its error; pause the channel or blast first, so that no sender begins the job again."""
        tried = self._tried(attempt)
        secrets = self._secrets(tried.lease)
        error.message, error.reply = without(error.message, secrets), without(error.reply, secrets)
        weighed = await self._weigh(attempt, tried, error)
        consequences = self._parts.consequences
        try:
            if isinstance(error, StopChannelError):
                await consequences.stop_channel(error)
            elif isinstance(error, StopBlastError):
                await consequences.stop_blast(tried.lease.job.blast_id, error)
        finally:
            if weighed is not None:
                attempt.settled = True
                await conclude(self._parts, tried, weighed)
        if isinstance(error, UnavailableError) or (isinstance(error, ServerFailedError) and error.in_trouble):
            consequences.provider_failed()
        elif attempt.start.asked and not isinstance(error, UncertainError | StopChannelError | ServerFailedError):
            consequences.provider_worked()

    async def _weigh(self, attempt: _Attempt, tried: Tried, error: SendError) -> SendError | None:
        """Return the error to settle by; None for a refusal that is held until it is clear whom it concerns."""
        if not isinstance(error, PermanentError) or error.refusal is None:
            return error
        try:
            weighed = await self._parts.verdicts.weigh(tried, error, partial(conclude, self._parts))
        except asyncio.CancelledError:
            self._give_back(attempt, "its sender stopped")
            raise
        attempt.settled = weighed is None
        return weighed


def _unexpected(attempt: _Attempt, error: BaseException) -> SendError:
    """Return an unexpected error as UncertainError if the hand-over had started, else as TransientError."""
    kind = UncertainError if attempt.begun.sending else TransientError
    return kind(f"{type(error).__name__}: {error}")


def _log_unexpected(event: str, attempt: _Attempt, error: BaseException) -> None:
    get_logger().error(event, job_id=attempt.lease.job_id, error=type(error).__name__, exc_info=error)
