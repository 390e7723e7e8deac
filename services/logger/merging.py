"""Merging: what a batch says about a job meets what its row says; out come rows to write and counts to move.

Pure. A state replaces the row's only where its rank is higher, so any order of events comes to the same row. The
counts of what is follow the rows exactly; the totals of what happened only ever go up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.logger.folding import JobChange, run_of
from shared.clock import rfc3339
from shared.jobs import TERMINAL

_TERMINAL = frozenset(TERMINAL)
_MINUTE_MS = 60_000
# where a status is counted in a minute: queued, sent, failed, retried, other
QUEUED, SENT, FAILED, RETRIED, OTHER, DURATION = range(6)
_MINUTE_FIELDS = {"sent": SENT, "failed": FAILED}


class Known(NamedTuple):
    """What merging needs of a row that exists; `template_name` is None until the job's `Queued` was seen."""

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
    """Counts that a batch moves.

    `rows` by (channel, status) and `blasts` by (blast, channel, status) count what is; `totals` by (channel,
    status) and `minutes` by (minute, channel) what happened.
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    blasts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    totals: Counter[tuple[str, str]] = field(default_factory=Counter)
    minutes: dict[tuple[int, str], list[int]] = field(default_factory=dict)

    def minute(self, at_ms: int, channel: str) -> list[int]:
        """Return the counts of the minute of a time on a channel, to be added to."""
        key = (at_ms // _MINUTE_MS, channel)
        counts = self.minutes.get(key)
        if counts is None:
            counts = self.minutes[key] = [0] * 6
        return counts


@dataclass(slots=True)
class Merged:
    """What is to be written: parameters of the statements in `writing`, and the counts that move."""

    inserts: list[tuple[Any, ...]] = field(default_factory=list)
    updates: list[tuple[Any, ...]] = field(default_factory=list)
    completions: list[tuple[Any, ...]] = field(default_factory=list)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    created: list[tuple[int, str]] = field(default_factory=list)
    letters: list[tuple[Any, ...]] = field(default_factory=list)
    settled: list[tuple[str]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def merge(changes: Iterable[JobChange], known: Mapping[str, Known]) -> Merged:
    """Merge each job's change with its row, if it has one."""
    merged = Merged()
    for change in changes:
        row = known.get(change.job_id)
        blast_id, _, channel = change.job_id.split(":", 2)
        if row is None:
            _begin(merged, change, blast_id, channel)
        else:
            _go_on(merged, change, row, blast_id, channel)
        _settle_letter(merged, change, row, blast_id, channel)
    return merged


def _begin(merged: Merged, change: JobChange, blast_id: str, channel: str) -> None:
    """Write the row of a job that was not known."""
    created_at = rfc3339(change.created_ms)
    is_email = "@" in change.address
    merged.inserts.append(
        (change.job_id, channel, change.address if is_email else None,
         change.address if change.address and not is_email else None, change.name, change.template_id,
         change.template_name or None, change.subject or None, change.status, change.error_message,
         change.message_id, change.attempts, created_at, rfc3339(change.at_ms), blast_id, change.reference or None,
         change.run, change.error_class, change.error_code, change.response, change.duration_ms,
         rfc3339(change.next_at_ms) if change.next_at_ms else None, change.rank)
    )  # fmt: skip
    merged.created.append((change.created_ms // _MINUTE_MS, change.job_id))
    tally, status = merged.tally, change.status
    tally.rows[channel, status] += 1
    tally.blasts[blast_id, channel, status] += 1
    _count_life(tally, change.created_ms, channel)
    if status in _TERMINAL:
        _count_end(tally, change, channel)


def _go_on(merged: Merged, change: JobChange, row: Known, blast_id: str, channel: str) -> None:
    """Bring the row of a known job up to date."""
    if (change.template_name and row.template_name is None) or (change.address and row.template_name is None):
        _complete(merged, change, row)
    tally = merged.tally
    if change.rank <= row.rank:
        if change.run == row.run and change.attempts > row.attempts:
            merged.attempts.append((change.attempts, row.row_id))
        return
    attempts = change.attempts if change.run > row.run else max(change.attempts, row.attempts)
    status = change.status
    merged.updates.append(
        (status, change.error_message, change.message_id, attempts, rfc3339(change.at_ms), change.run,
         change.error_class, change.error_code, change.response, change.duration_ms,
         rfc3339(change.next_at_ms) if change.next_at_ms else None, change.rank, change.subject or None, row.row_id)
    )  # fmt: skip
    if status != row.status:
        tally.rows[channel, row.status] -= 1
        tally.rows[channel, status] += 1
        tally.blasts[blast_id, channel, row.status] -= 1
        tally.blasts[blast_id, channel, status] += 1
    if change.run > row.run:
        _count_life(tally, change.created_ms, channel)
    if status in _TERMINAL and (status != row.status or change.run > row.run):
        _count_end(tally, change, channel)


def _complete(merged: Merged, change: JobChange, row: Known) -> None:
    """Fill in what a row lacks whose first events came before its `Queued`."""
    created_at = rfc3339(change.created_ms)
    if created_at < row.created_at:
        merged.created.append((change.created_ms // _MINUTE_MS, change.job_id))
    is_email = "@" in change.address
    merged.completions.append(
        (change.address if is_email else None, change.address if change.address and not is_email else None,
         change.name, change.template_id, change.template_name or None, change.reference or None, created_at,
         row.row_id)
    )  # fmt: skip


def _count_life(tally: Tally, at_ms: int, channel: str) -> None:
    """Count the begin of a job's run."""
    tally.totals[channel, "queued"] += 1
    tally.minute(at_ms, channel)[QUEUED] += 1


def _count_end(tally: Tally, change: JobChange, channel: str) -> None:
    """Count that a job came to an end."""
    status = change.status
    tally.totals[channel, status] += 1
    minute = tally.minute(change.at_ms, channel)
    minute[_MINUTE_FIELDS.get(status, OTHER)] += 1
    if status == "sent" and change.duration_ms:
        minute[DURATION] += change.duration_ms


def _settle_letter(merged: Merged, change: JobChange, row: Known | None, blast_id: str, channel: str) -> None:
    """Keep the dead letter of a job whose state is `failed`; remove it once the job has another."""
    if row is not None and row.rank > change.rank:
        status, run = row.status, row.run
    else:
        status, run = change.status, run_of(change.rank)
    if status != "failed":
        if row is not None and row.status == "failed":
            merged.settled.append((change.job_id,))
        return
    if change.letter and change.letter_run == run:
        merged.letters.append(
            (change.job_id, blast_id, channel, run, change.error_class or "", change.letter, change.at_ms)
        )
