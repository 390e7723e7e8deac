"""The moves after the queue refuses to begin a job: most refusals end it, some move it elsewhere in the queue."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import SendError
from shared.jobs import Status
from shared.queue.leases import Grant, Lease, Move, awaiting, dropped, given_back, shelved
from shared.sending.outcomes import Tried, end


class RefusedError(SendError):
    """The queue refused to begin a job; `error_class` is the reason."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


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


def refusal_move(lease: Lease, grant: Grant, now_ms: int) -> Move | None:
    """Return the move for a refusal; None if the job is no longer this sender's."""
    ending = _ENDINGS.get(grant.kind)
    if ending is not None:
        error = RefusedError(ending.error_class, ending.message)
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
    cause = RefusedError("permanent", f"it cannot be sent: {type(error).__name__}: {error}")
    return end(_untried(lease, now_ms), cause, "failed")


def _untried(lease: Lease, now_ms: int) -> Tried:
    return Tried(lease, now_ms, 0, "", made=False)
