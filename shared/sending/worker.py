"""One attempt: load the blast, render, hand the message to the provider, and settle the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Generic

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
from shared.sending.attempt import Attempt
from shared.sending.outcomes import Tried, accepted, refused, short_event, untouched
from shared.sending.parts import WorkerParts
from shared.sending.provider import ChainingProvider, MessageT, NotStartedError, Receipt, Start
from shared.sending.settings import REPEAT


async def conclude(parts: WorkerParts[MessageT], tried: Tried, error: SendError) -> None:
    """Settle an attempt that ended with `error`, and suppress the address if that follows; raises no Exception."""
    settled = False
    try:
        outcome = refused(tried, error, parts.policy)
        parts.settler.add(outcome.move)
        settled = True
        if outcome.suppress:
            await parts.consequences.suppress(tried.lease.job, outcome.suppress, error.reply or error.message)
        _note(parts, tried, outcome.name, outcome.error_class, outcome.code)
    except Exception as unexpected:
        if not settled:
            plain = TransientError(f"{type(error).__name__}, and its outcome could not be determined")
            parts.settler.add(refused(tried, plain, parts.policy).move)
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
        self._next: Attempt[MessageT] | None = None
        self._turn: Attempt[MessageT]

    async def run(self) -> None:
        """Send ready jobs until cancelled; a hand-over that is cancelled is uncertain."""
        try:
            while True:
                attempt, self._next = self._next, None
                if attempt is None:
                    begun = await self._parts.holdings.next_begun()
                    attempt = Attempt(self._parts, begun, begun.lease)
                await self._attempt(attempt)
                # it may be large, and an idle worker keeps its last attempt
                self._turn.message = None
        finally:
            if self._next is not None:
                self._withdraw(self._next.message)
                self._give_back_lease(self._next.lease, "its sender stopped")

    async def _attempt(self, attempt: Attempt[MessageT]) -> None:
        """Send one job, and those that are chained to it, and settle their outcomes.

        An exception on the way affects only the job whose turn it is.
        """
        self._turn = attempt
        self._parts.holdings.note_taken(attempt.begun)
        attempt.started_at = self._parts.clock.monotonic()
        try:
            answer = await self._send(attempt)
            if isinstance(answer, Receipt):
                self._accept(self._turn, answer)
            else:
                await self._conclude(self._turn, answer)
        except asyncio.CancelledError as error:
            if not is_stopping():  # cancelled by its own job: that must not end this worker
                self._end_unexpected(self._turn, error)
                return
            await self._end_cancelled(self._turn)
            raise
        except Exception as error:
            self._end_unexpected(self._turn, error)

    async def _send(self, attempt: Attempt[MessageT]) -> Receipt | Exception:
        """Render and hand over; return the receipt, or the exception if the provider has not accepted the message.

        Both are about the job whose turn it is then: the provider may have gone on to further ones (`_proceed`).
        """
        try:
            if attempt.message is None:
                attempt.message = self._rendered_now(attempt.lease.job) or await self._render(attempt.lease)
            attempt.begin(self._parts.clock.monotonic())
            try:
                return await self._hand_over(attempt.message, attempt.start)
            finally:
                self._turn.end()
        except Exception as error:
            return error

    def _proceed(self, receipt: Receipt) -> Start | None:
        """Settle the job that was accepted, and turn to the one that the provider has announced (`Proceed`)."""
        done, following = self._turn, self._next
        if following is None or following.message is None:
            return None
        done.end()
        try:
            self._accept(done, receipt)
        except Exception as error:
            self._end_unexpected(done, error)
        self._turn, self._next = following, None
        following.begin(self._parts.clock.monotonic())
        return following.start

    async def _conclude(self, attempt: Attempt[MessageT], error: Exception) -> None:
        """Settle by the provider's acceptance if there is one, whatever was raised after it, else by the exception."""
        if attempt.acceptance is not None:
            _log_unexpected("failed_after_acceptance", attempt, error)
            if not attempt.settled:
                self._accept(attempt, Receipt(*attempt.acceptance))
        elif isinstance(error, NotStartedError):
            note("not_started", job_id=attempt.lease.job_id, channel=attempt.lease.job.channel, reason=error.reason)
            self._give_back(attempt, error.reason)
        elif isinstance(error, SendError):
            await self._refuse(attempt, error)
        else:
            _log_unexpected("attempt_error", attempt, error)
            await self._refuse(attempt, _unexpected(attempt, error))

    async def _end_cancelled(self, attempt: Attempt[MessageT]) -> None:
        """Settle an attempt that the end of the sender interrupts."""
        if attempt.settled:
            return
        if attempt.acceptance is not None:
            self._accept(attempt, Receipt(*attempt.acceptance))
        elif attempt.begun.sending and self._parts.policy.on_uncertain != REPEAT:
            await self._refuse(attempt, UncertainError("cut off by the end of the sender"))
        else:
            self._give_back(attempt, "its sender stopped")

    def _end_unexpected(self, attempt: Attempt[MessageT], error: BaseException) -> None:
        """Settle an attempt whose outcome could not be determined or reported, by its acceptance or its error."""
        if not attempt.settled:
            tried = Tried(attempt.lease, self._parts.clock.now_ms(), 0, "")
            if attempt.acceptance is not None:
                self._settle(attempt, accepted(tried, Receipt(attempt.acceptance[0], "")))
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
        if self._next is not None or not parts.shares.lease_fresh(parts.clock.monotonic()):
            return None
        # in one step: a job that was taken and is not the next one would be nobody's
        self._next = following = (
            Attempt(parts, begun, begun.lease) if (begun := parts.holdings.next_begun_that_may_wait()) else None
        )
        if following is None:
            return None
        parts.holdings.note_taken(following.begun)
        try:
            following.message = self._rendered_now(following.lease.job)
        except Exception:
            return None  # the job's own attempt will fail the same way and report it
        return following.message

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

    def _give_back(self, attempt: Attempt[MessageT], reason: str) -> None:
        self._parts.holdings.note_refusal(attempt.begun)
        self._give_back_lease(attempt.lease, reason)
        attempt.settled = True

    def _give_back_lease(self, lease: Lease, reason: str) -> None:
        self._parts.settler.add(untouched(lease, self._parts.clock.now_ms(), reason))

    def _settle(self, attempt: Attempt[MessageT], move: Move) -> None:
        self._parts.settler.add(move)
        attempt.settled = True

    def _tried(self, attempt: Attempt[MessageT], lasted_s: float) -> Tried:
        subject = attempt.message.subject if attempt.message is not None else ""
        return Tried(attempt.lease, self._parts.clock.now_ms(), int(lasted_s * 1000), subject)

    def _accept(self, attempt: Attempt[MessageT], receipt: Receipt) -> None:
        """Settle an attempt by the provider's acceptance."""
        if attempt.acceptance is None:  # the channel did not note it
            attempt.accepted(receipt.message_id, receipt.response)
        parts, lasted_s = self._parts, attempt.lasted_s()
        tried = self._tried(attempt, lasted_s)
        if secrets := self._secrets(attempt.lease):
            receipt = Receipt(receipt.message_id, without(receipt.response, secrets))
        move = accepted(tried, receipt)
        parts.holdings.note_acceptance(attempt.begun, short_event(move.event))
        parts.settler.add(move)
        attempt.settled = True
        parts.holdings.pace.sent(lasted_s)
        parts.consequences.provider_worked()
        _note(parts, tried, "sent")

    async def _refuse(self, attempt: Attempt[MessageT], error: SendError) -> None:
        """Settle an attempt by its error; pause the channel or blast first, so that no sender begins the job again."""
        tried = self._tried(attempt, attempt.lasted_s())
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
        elif attempt.asked and not isinstance(error, UncertainError | StopChannelError | ServerFailedError):
            consequences.provider_worked()

    async def _weigh(self, attempt: Attempt[MessageT], tried: Tried, error: SendError) -> SendError | None:
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


def _unexpected(attempt: Attempt[MessageT], error: BaseException) -> SendError:
    """Return an unexpected error as UncertainError if the hand-over had started, else as TransientError."""
    kind = UncertainError if attempt.begun.sending else TransientError
    return kind(f"{type(error).__name__}: {error}")


def _log_unexpected(event: str, attempt: Attempt[MessageT], error: BaseException) -> None:
    get_logger().error(event, job_id=attempt.lease.job_id, error=type(error).__name__, exc_info=error)
