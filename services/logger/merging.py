"""Merging: combines a batch's changes with the existing rows into rows to write and counts to change.

Pure functions. A state replaces the row's state only if its rank is higher, so any order of events gives the same row.
Counts of current states always match the rows; totals of what happened only increase.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.logger.folding import JobChange
from shared.addresses import other_identity
from shared.clock import rfc3339
from shared.jobs import TERMINAL

_TERMINAL = frozenset(TERMINAL)
_MINUTE_MS = 60_000
# positions in a minute's counts
QUEUED, SENT, FAILED, RETRIED, OTHER, DURATION = range(6)
_MINUTE_FIELDS = {"sent": SENT, "failed": FAILED}
# the columns of a message in the order in which `Merged` gives their values
INSERTED = (
    "job_id", "channel", "recipient_email", "recipient_phone", "recipient_name", "template_id", "template_name",
    "subject", "status", "error_message", "message_id", "attempts", "created_at", "updated_at", "blast_id",
    "reference", "run", "error_class", "error_code", "response", "duration_ms", "next_at", "state_rank",
    "recipient_identity",
)  # fmt: skip
UPDATED = (
    "status", "error_message", "message_id", "attempts", "updated_at", "run", "error_class", "error_code", "response",
    "duration_ms", "next_at", "state_rank", "subject",
)  # fmt: skip


# blast, channel, old status ("" for a new row), new status, minutes in which a run began and ended (0 for none)
Move = tuple[str, str, str, str, int, int]


class Known(msgspec.Struct, frozen=True, gc=False):
    """The columns of an existing row that merging needs; `template_name` is None until the job's `Queued` arrived."""

    row_id: int
    job_id: str
    status: str
    rank: int
    run: int
    attempts: int
    created_at: str
    template_name: str | None


@dataclass(slots=True)
class Tally:
    """The changes that a batch makes to the counts.

    `rows` by (channel, status) and `blasts` by (blast, channel, status) count current states; `totals` by (channel,
    status) and `minutes` by (minute, channel) count what happened.
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    blasts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    totals: Counter[tuple[str, str]] = field(default_factory=Counter)
    minutes: dict[tuple[int, str], list[int]] = field(default_factory=dict)

    def minute(self, minute: int, channel: str) -> list[int]:
        """Return the counts of a channel in a minute; the caller adds to the list."""
        counts = self.minutes.get((minute, channel))
        if counts is None:
            counts = self.minutes[minute, channel] = [0] * 6
        return counts

    def count(self, move: Move, n: int, duration_ms: int = 0) -> None:
        """Count `n` jobs that made the same move, whose last attempts took this long in all."""
        blast_id, channel, old, new, began, ended = move
        if old != new:
            self.rows[channel, new] += n
            self.blasts[blast_id, channel, new] += n
            if old:
                self.rows[channel, old] -= n
                self.blasts[blast_id, channel, old] -= n
        if began:
            self.totals[channel, "queued"] += n
            self.minute(began, channel)[QUEUED] += n
        if ended:
            self.totals[channel, new] += n
            counts = self.minute(ended, channel)
            counts[_MINUTE_FIELDS.get(new, OTHER)] += n
            if new == "sent":
                counts[DURATION] += duration_ms


@dataclass(slots=True)
class Merged:
    """What to write: parameters for the statements of a `RowWriter`, and the changes to the counts.

    `inserts` have a value for each column of INSERTED; `updates` one for each of UPDATED, then the id of the row.
    `ended` has each change that brought its run to a terminal status, or to another one, and the run's attempts.
    """

    inserts: list[tuple[Any, ...]] = field(default_factory=list)
    updates: list[tuple[Any, ...]] = field(default_factory=list)
    completions: list[tuple[Any, ...]] = field(default_factory=list)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    created: list[tuple[int, str]] = field(default_factory=list)
    predated: list[tuple[int, int]] = field(default_factory=list)
    letters: list[tuple[Any, ...]] = field(default_factory=list)
    settled: list[tuple[str]] = field(default_factory=list)
    ended: list[tuple[JobChange, int]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def merge(changes: Iterable[JobChange], known: Mapping[str, Known], tally: Tally | None = None) -> Merged:
    """Merge each job's change with its row, if it has one; count in `tally`, which has other jobs' counts already."""
    merged = Merged(tally=tally if tally is not None else Tally())
    # most jobs of a batch make the same few moves, so count each move first: its jobs, and how long their attempts took
    moves: defaultdict[Move, list[int]] = defaultdict(lambda: [0, 0])
    for change in changes:
        row = known.get(change.job_id)
        blast_id, _, channel = change.job_id.split(":", 2)
        if row is None:
            _begin(merged, change, blast_id, channel)
            old, began, attempts = "", change.created_ms // _MINUTE_MS, change.attempts
        else:
            if not row.template_name or rfc3339(change.created_ms) < row.created_at:
                _complete(merged, change, row)
            if change.rank <= row.rank:
                _lag_behind(merged, change, row, blast_id, channel)
                continue
            attempts = _go_on(merged, change, row)
            old, began = row.status, change.created_ms // _MINUTE_MS if change.run > row.run else 0
        status = change.status
        if status == "failed":
            _keep_letter(merged, change, change.run, blast_id, channel)
        elif old == "failed":
            merged.settled.append((change.job_id,))
        ended = 0
        if status in _TERMINAL and (status != old or began):
            ended = change.at_ms // _MINUTE_MS
            merged.ended.append((change, attempts))
        move = (blast_id, channel, old, status, began, ended)
        counted = moves[move]
        counted[0] += 1
        counted[1] += change.duration_ms or 0
    for move, (n, duration_ms) in moves.items():
        merged.tally.count(move, n, duration_ms)
    return merged


def _begin(merged: Merged, change: JobChange, blast_id: str, channel: str) -> None:
    """Add the row of a new job."""
    email, phone, other = _recipient(change.address)
    merged.inserts.append(
        (change.job_id, channel, email, phone, change.name, change.template_id,
         change.template_name or None, change.subject or None, change.status, change.error_message,
         change.message_id, change.attempts, rfc3339(change.created_ms), rfc3339(change.at_ms), blast_id,
         change.reference or None, change.run, change.error_class, change.error_code, change.response,
         change.duration_ms, rfc3339(change.next_at_ms) if change.next_at_ms else None, change.rank,
         other)
    )  # fmt: skip
    merged.created.append((change.created_ms // _MINUTE_MS, change.job_id))


def _go_on(merged: Merged, change: JobChange, row: Known) -> int:
    """Update the row of a known job to its new state; return its attempts."""
    attempts = change.attempts if change.run > row.run else max(change.attempts, row.attempts)
    merged.updates.append(
        (change.status, change.error_message, change.message_id, attempts, rfc3339(change.at_ms), change.run,
         change.error_class, change.error_code, change.response, change.duration_ms,
         rfc3339(change.next_at_ms) if change.next_at_ms else None, change.rank, change.subject or None, row.row_id)
    )  # fmt: skip
    return attempts


def _lag_behind(merged: Merged, change: JobChange, row: Known, blast_id: str, channel: str) -> None:
    """Add to the row what it lacks from a change that is older than its state."""
    if change.run == row.run and change.attempts > row.attempts:
        merged.attempts.append((change.attempts, row.row_id))
    if row.status == "failed":
        _keep_letter(merged, change, row.run, blast_id, channel)


def _keep_letter(merged: Merged, change: JobChange, run: int, blast_id: str, channel: str) -> None:
    """Keep the whole job of a failed run, if the change has it."""
    if change.letter and change.letter_run == run:
        merged.letters.append(
            (change.job_id, blast_id, channel, run, change.error_class or "", change.letter, change.at_ms)
        )


def _complete(merged: Merged, change: JobChange, row: Known) -> None:
    """Fill in the columns that a row lacks because other events arrived before its `Queued`."""
    created_at = rfc3339(change.created_ms)
    if created_at < row.created_at:
        merged.predated.append((change.created_ms // _MINUTE_MS, row.row_id))
    email, phone, other = _recipient(change.address)
    merged.completions.append(
        (email, phone, change.name, change.template_id, change.template_name or None, change.reference or None,
         created_at, other, row.row_id)
    )  # fmt: skip


def _recipient(address: str) -> tuple[str | None, str | None, str | None]:
    """Return a recipient's columns: email, phone, and the identity if it differs from the address."""
    # nearly every address is its own identity, as one sees at once
    if "@" in address:
        return address, None, None if address.isascii() and address.islower() else other_identity(address)
    return None, address or None, other_identity(address)
