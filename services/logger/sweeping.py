"""Sweeping: ends the messages of whole ranges of recipient indexes, with a statement for each few hundred.

Nearly all of these messages wait as they were queued, and all get the same state. Others (those without a row yet, or
whose row lacks what their `Queued` says, or has a state of a higher rank) are merged one by one, as with an `Ended` of
each. That changes nothing in the rows that were ended together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from services.logger.database import Database
from services.logger.folding import JobChange, rank_of_swept
from services.logger.merging import Tally
from services.logger.row_writing import RowWriter, Together
from shared.clock import rfc3339
from shared.events import SweptRanges

_JOBS_A_STATEMENT = 500
_MINUTE_MS = 60_000
_WAITING = ("queued", "scheduled")


def end_ranges(connection: Database, rows: RowWriter, event: SweptRanges, tally: Tally) -> list[JobChange]:
    """End the messages that wait, and count them; return the changes of those that have to be merged."""
    left: list[JobChange] = []
    for job_ids in _parts(event):
        if not _end(connection, rows, event, job_ids, tally):
            left += changes_of(event, job_ids)
    return left


def job_ids_of(event: SweptRanges) -> Iterator[str]:
    """Yield the job ids of an event."""
    return (f"{event.blast_id}:{index}:{event.channel}" for index in event.indexes())


def changes_of(event: SweptRanges, job_ids: Sequence[str]) -> Iterator[JobChange]:
    """Yield the change of each of these jobs."""
    rank = rank_of_swept(event, event.run)
    for job_id in job_ids:
        yield JobChange(
            job_id, rank, event.status, event.at_ms, event.at_ms, event.run,
            error_class=event.error_class, error_code="", error_message=event.message, duration_ms=0,
        )  # fmt: skip


def _parts(event: SweptRanges) -> Iterator[list[str]]:
    every = job_ids_of(event)
    while part := list(islice(every, _JOBS_A_STATEMENT)):
        yield part


def _end(connection: Database, rows: RowWriter, event: SweptRanges, job_ids: Sequence[str], tally: Tally) -> bool:
    """End these messages as far as they wait; return whether all did."""
    together = Together(
        event.blast_id, job_ids, event.status, event.error_class, event.message, event.run, rfc3339(event.at_ms),
        rank_of_swept(event, event.run),
    )  # fmt: skip
    left = len(job_ids)
    for was in _WAITING:
        if left:
            ended = rows.end_together(connection, together, was)
            left -= ended
            move = (event.blast_id, event.channel, was, event.status, 0, event.at_ms // _MINUTE_MS)
            tally.count(move, ended)
    return not left
