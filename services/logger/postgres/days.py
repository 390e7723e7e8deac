"""Days: the partitions of messages, by the day on which their blast was accepted.

A blast's id contains that time, and a job's id contains the blast's, so a job id names its partition. The row id of a
message has the day in its upper bits: an id names its partition too, and a list by descending id begins with the latest
day. An id without a time, which only tests make, belongs to day 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from shared.blasts import time_of_blast_id

DAY_BITS = 36
"""Bits of a row's number within its day; with 15 bits for the day, ids stay exact in JSON numbers."""
_DAY_MS = 86_400_000


@lru_cache(4096)
def day_of_blast(blast_id: str) -> int:
    """Return the day of a blast, in days since 1970; 0 if its id has no time."""
    at_ms = time_of_blast_id(blast_id)
    return at_ms // _DAY_MS if at_ms is not None else 0


def day_of(job_id: str) -> int:
    """Return the day of a job."""
    return day_of_blast(job_id.partition(":")[0])


def first_id(day: int) -> int:
    """Return the lowest row id of a day; that of the next day is above all of the day's ids."""
    return day << DAY_BITS


def day_range(job_ids: Iterable[str]) -> tuple[int, int]:
    """Return the first and the last day of jobs; (1, 0) without any."""
    days = {day_of(job_id) for job_id in job_ids}
    return (min(days), max(days)) if days else (1, 0)
