"""The entries that a sender holds, and the moves that it can ask for, as Python and the scripts exchange them."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.jobs import Job, Status, pack_job


class HeldEntry(msgspec.Struct, frozen=True):
    """An entry that a sender holds, without its job, and its delivery count."""

    stream: str
    entry_id: str
    deliveries: int

    @property
    def key(self) -> str:
        """The entry's key, unique across all streams of the channel."""
        return f"{self.stream} {self.entry_id}"


class Lease(msgspec.Struct):
    """An entry of a stream that this sender has fetched; it never changes.

    `deliveries` counts the attempts of this entry, including the next one. The job has the number of attempts made
    before the entry was written. What is asked for several times per message is kept: the entry's `key`, unique across
    all streams of the channel, the job's id, and the number of the next `attempt` of this run, from 1.
    """

    stream: str
    entry_id: str
    deliveries: int
    job: Job
    key: str = ""
    job_id: str = ""
    attempt: int = 0

    def __post_init__(self) -> None:
        """Set what is kept."""
        # not frozen for this: in a frozen struct each field is set by a call
        job = self.job
        self.key = f"{self.stream} {self.entry_id}"
        self.job_id = job.job_id
        self.attempt = job.attempts + self.deliveries

    @property
    def waits_as(self) -> Literal["q", "r"]:
        """How the job waits: `q`ueued, or `r`etrying after an attempt or a deferral."""
        return "r" if self.attempt > 1 or self.job.deferrals else "q"

    @property
    def waited_as(self) -> Literal["q", "r"]:
        """How the job waited when this entry was written, before any attempt of the entry."""
        return "r" if self.job.attempts or self.job.deferrals else "q"

    def rewritten(self, *, attempts_used: int, **changes: object) -> bytes:
        """Pack the job for a new entry, with the attempts used so far."""
        return pack_job(msgspec.structs.replace(self.job, attempts=attempts_used, unused_ms=0, **changes))


GrantKind = Literal[
    "granted", "alone", "lost", "cancelled", "expired", "suppressed", "sent", "paused", "held", "limited", "beyond",
    "full", "uncertain", "poison", "wait", "crowded", "away", "ask",
]  # fmt: skip


STARTING: frozenset[GrantKind] = frozenset({"granted", "alone"})
"""The answers to a begin that begin the job."""


class Grant(msgspec.Struct, frozen=True):
    """The answer to a begin; "away" if the job's partition has not answered yet, "ask" if limits must be asked before.

    `after_us` is the wait before the start, or until a start may be free. A `spaced` start was granted under a limit,
    the channel's or the job's own, and must not come much later. `limit` is the limit that a job is `beyond`.
    `waited_us` of the wait had passed when `begin` was answered, since the limits had granted the start before.
    """

    kind: GrantKind
    after_us: int = 0
    spaced: Literal["", "channel", "own"] = ""
    limit: str = ""
    waited_us: int = 0

    @property
    def starts(self) -> bool:
        """Whether the job is begun."""
        return self.kind in STARTING


GRANTED: dict[str, Grant] = {"g": Grant("granted"), "G": Grant("alone"), "ask": Grant("ask")}
"""The words of `begin`'s answer that say nothing else."""

_SPACED: dict[str, Literal["channel", "own"]] = {"s": "channel", "o": "own"}


def parse_grant(word: str, limit: str = "") -> Grant:
    """Read one word of `begin`'s answer about a job with this limit, "" for none."""
    if word in GRANTED:
        return GRANTED[word]
    if word.startswith("limited"):
        return Grant("limited", after_us=int(word[7:]))
    if word == "beyond":
        return Grant("beyond", limit=limit)
    if word[0] in "sSoO" and word[1:].isdigit():
        kind: GrantKind = "granted" if word[0].islower() else "alone"
        return Grant(kind, after_us=int(word[1:]), spaced=_SPACED[word[0].lower()])
    return Grant(word)  # type: ignore[arg-type]  # the closed set of begin.lua


class Move(msgspec.Struct, frozen=True):
    """One move of a held job, as `settle.lua` reads it; `event` is packed, empty for none."""

    kind: str
    lease: Lease
    event: bytes = b""
    value: str = ""
    packed: bytes = b""


def sent(lease: Lease, event: bytes) -> Move:
    """Return the move of a job that the provider accepted."""
    return Move("sent", lease, event, lease.waited_as)


def ended(lease: Lease, event: bytes, status: Status, *, uncertain: bool = False) -> Move:
    """Return the move of a job that ends with a status other than sent."""
    return Move("ended", lease, event, f"{status} {lease.waits_as} {int(uncertain)}")


def parked(lease: Lease, event: bytes, delay_ms: int, *, uncertain: bool = False) -> Move:
    """Return the move of a job whose next attempt follows after `delay_ms`, which must not exceed V."""
    kind = "uncertain" if uncertain else "park"
    return Move(kind, lease, event, f"{max(delay_ms, 0)} {lease.deliveries}")


def deferred(lease: Lease, event: bytes, delay_ms: int, first_deferred_at_ms: int) -> Move:
    """Return the move of a job that the provider deferred; it uses no attempt. Redis measures the delay."""
    packed = lease.rewritten(
        attempts_used=lease.attempt - 1,
        deferrals=lease.job.deferrals + 1,
        first_deferred_at_ms=first_deferred_at_ms,
    )
    return Move("later", lease, event, f"{max(delay_ms, 0)} {lease.job.lane} deferred", packed)


def postponed(lease: Lease, event: bytes, delay_ms: int) -> Move:
    """Return the move of a job whose next attempt follows after `delay_ms`, too long to be parked."""
    packed = lease.rewritten(attempts_used=lease.attempt)
    return Move("later", lease, event, f"{max(delay_ms, 0)} {lease.job.lane} retried", packed)


def awaiting(lease: Lease, limit: str) -> Move:
    """Return the move of a job that waits in the list of its domain's or recipient's limit; it uses no attempt."""
    return Move("await", lease, b"", limit, lease.rewritten(attempts_used=lease.attempt - 1))


def given_back(lease: Lease, event: bytes = b"") -> Move:
    """Return the move of a job that was not tried: any sender may take it, at no cost."""
    return Move("back", lease, event, f"{lease.deliveries - 1} {lease.waits_as}")


def shelved(lease: Lease) -> Move:
    """Return the move of a job whose blast is paused: it waits in the blast's own stream."""
    packed = lease.rewritten(attempts_used=lease.attempt - 1)
    return Move("shelve", lease, b"", str(lease.deliveries - 1), packed)


def dropped(lease: Lease) -> Move:
    """Return the move that removes a copy of a job that a late answer counted as sent."""
    return Move("drop", lease)
