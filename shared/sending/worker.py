"""One attempt: load the blast, render, hand the message to the provider, and settle the outcome."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic

import msgspec

from shared.blasts import Blast
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
from shared.queue.leases import Lease, Move
from shared.sealing import SealError, without
from shared.sending.holdings import BegunJob
from shared.sending.outcomes import Tried, accepted, late_event, refused, short_event, untouched
from shared.sending.parts import WorkerParts
from shared.sending.provider import ChainingProvider, MessageT, NotStartedError, Receipt, Start
from shared.sending.settings import REPEAT
from shared.sending.settler import Settlement
from shared.sending.starts import GrantedStart


class NextJob(msgspec.Struct, Generic[MessageT], eq=False):
    """A job that a worker will send next, and its message once rendered."""

    begun: BegunJob
    message: MessageT | None = None


class _Attempt(msgspec.Struct, eq=False):
    """An attempt under way; `started_at` is when rendering ended, until then the attempt's start (monotonic clock).

    `lease` is that of the job; `receipt` is what the channel returned.
    """

    lease: Lease
    begun: BegunJob
    start: GrantedStart
    started_at: float
    subject: str = ""
    receipt: Receipt | None = None
    settled: bool = False


async def conclude(parts: WorkerParts[MessageT], tried: Tried, error: SendError) -> None:
    """Settle an attempt that ended with `error`, and suppress the address if that follows; raises no Exception."""
    settled = False
    try:
        outcome = refused(tried, error, parts.policy)
        parts.settler.add(Settlement(outcome.move))
        settled = True
        if outcome.suppress:
            await parts.consequences.suppress(tried.lease.job, outcome.suppress, error.reply or error.message)
        _note(parts, tried, outcome.name, outcome.error_class, outcome.code)
    except Exception as unexpected:
        if not settled:
            plain = TransientError(f"{type(error).__name__}, and its outcome could not be determined")
            parts.settler.add(Settlement(refused(tried, plain, parts.policy).move))
        get_logger().error("outcome_error", job_id=tried.lease.job_id, exc_info=unexpected)


def _note(parts: WorkerParts[MessageT], tried: Tried, outcome: str, error_class: str = "", code: str = "") -> None:
    job = tried.lease.job
    parts.observer.attempt(job.channel, outcome, error_class, tried.duration_ms / 1000)
    note(
        "attempt",
        job_id=tried.lease.job_id,
        blast_id=job.blast_id,
        channel=job.channel,
        attempt=tried.lease.attempt,
        outcome=outcome,
        error_class=error_class,
        code=code,
        duration_ms=tried.duration_ms,
    )


class Worker(Generic[MessageT]):
    """Sends one job at a time; a sender has as many workers as its concurrency."""

    def __init__(self, parts: WorkerParts[MessageT]) -> None:
        self._parts = parts
        self._chain = parts.provider if isinstance(parts.provider, ChainingProvider) else None
        self._held_since = parts.consequences.lease_held_since
        self._started = self._note_start
        self._next: NextJob[MessageT] | None = None
        self._turn: _Attempt

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
        """Send one job, and those that are chained to it, and settle their outcomes.

        An exception on the way affects only the job whose turn it is.
        """
        self._parts.holdings.note_taken(begun)
        self._turn = self._new_attempt(begun)
        try:
            error = await self._send(message)
            acceptance = self._turn.start.acceptance
            if error is None and acceptance is not None:
                self._accept(self._turn, acceptance)
            else:
                await self._conclude(self._turn, error)
        except asyncio.CancelledError as error:
            if not is_stopping():  # cancelled by its own job: that must not end this worker
                self._end_unexpected(self._turn, error)
                return
            await self._end_cancelled(self._turn)
            raise
        except Exception as error:
            self._end_unexpected(self._turn, error)

    def _new_attempt(self, begun: BegunJob) -> _Attempt:
        clock = self._parts.clock
        start = GrantedStart(begun, clock, self._parts.holdings.pace, self._held_since, self._started)
        return _Attempt(begun.lease, begun, start, clock.monotonic())

    async def _send(self, message: MessageT | None) -> Exception | None:
        """Render and hand over; return the exception, or None once the provider has accepted the message.

        Both are about the job whose turn it is then: the provider may have gone on to further ones (`_proceed`).
        """
        attempt = self._turn
        try:
            if message is None:
                message = self._rendered_now(attempt.lease.job) or await self._render(attempt.lease)
            attempt.subject = message.subject
            attempt.started_at = now = self._parts.clock.monotonic()
            attempt.start.begin(now)
            try:
                receipt = await self._hand_over(message, attempt.start)
            finally:
                self._turn.start.end()
            self._note_receipt(self._turn, receipt)
        except Exception as error:
            return error
        return None

    def _note_receipt(self, attempt: _Attempt, receipt: Receipt) -> None:
        start = attempt.start
        if start.acceptance is None:  # the channel did not note it
            start.accepted(receipt.message_id, receipt.response)
        attempt.receipt = receipt

    def _proceed(self, receipt: Receipt) -> Start | None:
        """Settle the job that was accepted, and turn to the one that the provider has announced (`Proceed`)."""
        done, following = self._turn, self._next
        if following is None or following.message is None:
            return None
        done.start.end()
        self._note_receipt(done, receipt)
        try:
            self._accept(done, (receipt.message_id, receipt.response))
        except Exception as error:
            self._end_unexpected(done, error)
        attempt = self._new_attempt(following.begun)
        attempt.subject = following.message.subject
        self._turn, self._next = attempt, None
        attempt.start.begin(attempt.started_at)
        return attempt.start

    async def _conclude(self, attempt: _Attempt, error: Exception | None) -> None:
        """Settle by the provider's acceptance if there is one, whatever was raised after it, else by the exception."""
        if attempt.start.acceptance is not None:
            if error is not None:
                _log_unexpected("failed_after_acceptance", attempt, error)
            if not attempt.settled:
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
                self._settle(attempt, refused(tried, _unexpected(attempt, error), self._parts.policy).move)
        _log_unexpected("outcome_error", attempt, error)

    def _hand_over(self, message: MessageT, start: Start) -> Awaitable[Receipt]:
        if self._chain is None:
            return self._parts.provider.send(message, start)
        return self._chain.send_chained(message, self._take_next, start, self._proceed)

    def _take_next(self) -> MessageT | None:
        """Take the job that this worker sends next, so that the provider can announce it, if any."""
        parts = self._parts
        if self._next is not None or not parts.consequences.lease_fresh():
            return None
        # in one step: a job that was taken and is not the next one would be nobody's
        self._next = NextJob(begun) if (begun := parts.holdings.next_begun_that_may_wait()) is not None else None
        if self._next is None:
            return None
        parts.holdings.note_taken(self._next.begun)
        try:
            self._next.message = self._rendered_now(self._next.begun.lease.job)
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
        if begun.latest_start < math.inf and parts.holdings.is_low():
            parts.holdings.wake.set()  # the provider may be able to start another
        if begun.lease.attempt == 1:
            latency_s = max(0.0, (parts.clock.now_ms() - job.enqueued_at_ms) / 1000)
            parts.observer.queue_latency(job.channel, job.lane, latency_s)

    def _give_back(self, attempt: _Attempt, reason: str) -> None:
        self._parts.holdings.note_refusal(attempt.begun)
        self._give_back_lease(attempt.lease, reason)
        attempt.settled = True

    def _give_back_lease(self, lease: Lease, reason: str) -> None:
        self._parts.settler.add(Settlement(untouched(lease, self._parts.clock.now_ms(), reason)))

    def _settle(self, attempt: _Attempt, move: Move, late: Callable[[], bytes] | None = None) -> None:
        self._parts.settler.add(Settlement(move, late))
        attempt.settled = True

    def _lasted_s(self, attempt: _Attempt) -> float:
        return self._parts.clock.monotonic() - attempt.started_at - attempt.start.waited_s

    def _tried(self, attempt: _Attempt, lasted_s: float) -> Tried:
        return Tried(attempt.lease, self._parts.clock.now_ms(), int(lasted_s * 1000), attempt.subject)

    def _accept(self, attempt: _Attempt, acceptance: tuple[str, str]) -> None:
        parts, lasted_s = self._parts, self._lasted_s(attempt)
        tried, receipt = self._tried(attempt, lasted_s), attempt.receipt or Receipt(*acceptance)
        if secrets := self._secrets(attempt.lease):
            receipt = Receipt(receipt.message_id, without(receipt.response, secrets))
        move = accepted(tried, receipt)
        parts.holdings.note_acceptance(attempt.begun, short_event(move.event, tried, receipt))
        self._settle(attempt, move, partial(late_event, tried, receipt))
        parts.holdings.pace.sent(lasted_s)
        parts.consequences.provider_worked()
        _note(parts, tried, "sent")

    async def _refuse(self, attempt: _Attempt, error: SendError) -> None:
        """Settle an attempt by its error; pause the channel or blast first, so that no sender begins the job again."""
        tried = self._tried(attempt, self._lasted_s(attempt))
        if not isinstance(error, UncertainError):
            self._parts.holdings.note_refusal(attempt.begun)
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
