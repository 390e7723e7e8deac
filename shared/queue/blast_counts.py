"""The doctor's count of more jobs than one call may read: page by page, each blast by itself.

The system runs meanwhile. Each script that moves a job changes the hash of its blast. So what was found of a blast
holds if its hash is the same before the first page and when its counts are compared, in one script.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import DecodeError
from shared.jobs import TERMINAL, unpack_job
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.later_jobs import later_pages, limit_of_later, packed_later
from shared.queue.partitions import Partition
from shared.queue.scripts import Argument
from shared.queue.timing import UNSCALED

PAGE = 1000
TRIES = 3
_BLASTS_A_CALL = 100
_OPEN = ("processing", "retrying", "scheduled", "limited")
_STATE = ("changed_at", "moved_at", "enqueued", *_OPEN, *TERMINAL)

Found = dict[str, Counter[str]]


@dataclass(slots=True)
class BlastsChecked:
    """Blasts whose counts were wrong (id, jobs missing, jobs too many), and those whose jobs kept moving."""

    wrong: list[tuple[str, int, int]] = field(default_factory=list)
    moving: list[str] = field(default_factory=list)


class BlastCounts:
    """Compares the counts of a partition's blasts with its jobs; corrects them with `repair`."""

    def __init__(self, partition: Partition, heads: Numbered, *, repair: bool) -> None:
        self._partition = partition
        self._heads = heads
        self._repair = repair

    async def check(self, blasts: Iterable[str], list_streams: Callable[[], Awaitable[list[str]]]) -> BlastsChecked:
        """Check blasts, and others of which there are jobs in the streams or due later.

        A blast whose jobs move is counted again, a few times. Raises QueueUnavailableError.
        """
        checked, left = BlastsChecked(), set(blasts)
        done: set[str] = set()
        for _ in range(TRIES):
            before = await self._states(sorted(left))
            found = await self._find(await list_streams())  # listed after the states were read: new ones change a state
            left |= found.keys() - done
            still = {blast: state for blast, state in before.items() if not found[blast]["unread"]}
            done |= before.keys() - still.keys()
            done |= await self._compare(still, found, checked)
            left -= done
            if not left:
                break
        checked.moving = sorted(left)
        return checked

    async def _states(self, blasts: Sequence[str]) -> dict[str, bytes]:
        """Return the state of each blast, but not of those that changed in this millisecond: they may change unseen."""
        redis: Any = self._partition.redis
        states: dict[str, bytes] = {}
        for first in range(0, len(blasts), _BLASTS_A_CALL):
            some = blasts[first : first + _BLASTS_A_CALL]
            with translated("counts of blasts"):
                async with redis.pipeline(transaction=False) as pipe:
                    pipe.time()
                    for blast in some:
                        pipe.hmget(self._partition.keys.blast(blast), _STATE)
                    (seconds, micros), *rows = await pipe.execute()
            now_ms = seconds * 1000 + micros // 1000
            for blast, values in zip(some, rows, strict=True):
                if max(int(values[0] or 0), int(values[1] or 0)) < now_ms:
                    states[blast] = b"".join((value or b"") + b"," for value in values)
        return states

    async def _find(self, streams: Sequence[str]) -> Found:
        found: Found = defaultdict(Counter)
        await self._find_later(found)
        for stream in streams:
            start = "-"
            while start:
                following, *sums = await self._partition.call("count_jobs", (stream, start, PAGE))
                start = following.decode()
                for blast, status, number in zip(sums[::3], sums[1::3], sums[2::3], strict=True):
                    found[blast.decode()][status.decode()] += number
        return found

    async def _find_later(self, found: Found) -> None:
        seen: set[bytes] = set()
        async for rows in later_pages(self._partition):
            for job_id, kept in rows.items():
                if job_id in seen:
                    continue
                seen.add(job_id)
                counts = found[job_id.partition(b":")[0].decode()]
                counts[_status_of(kept)] += 1
                counts["limited"] += bool(limit_of_later(kept))

    async def _compare(self, states: dict[str, bytes], found: Found, checked: BlastsChecked) -> set[str]:
        """Compare the counts of blasts whose state is known; return those that have not changed since."""
        done: set[str] = set()
        blasts = list(states)
        for first in range(0, len(blasts), _BLASTS_A_CALL):
            some = blasts[first : first + _BLASTS_A_CALL]
            _, head = self._heads.next()
            args: list[Argument] = [int(self._repair), head, UNSCALED.keep_ended_ms, " ".join(_STATE)]
            for blast in some:
                counts = found[blast]
                args += (blast, states[blast], counts.total() - counts["limited"], *(counts[name] for name in _OPEN))
            answers = await self._partition.call("correct_counts", args)
            for blast, answer in zip(some, answers, strict=True):
                if answer == b"moved":
                    continue
                done.add(blast)
                if answer:
                    missing, many = map(int, answer.split())
                    checked.wrong.append((blast, missing, many))
        return done


def _status_of(kept: bytes) -> str:
    """Return the status of a job that is due later or waits for a limit, "unread" if it is not a job."""
    if kept[:1] == b"s":
        return "scheduled"
    try:
        job = unpack_job(packed_later(kept))
    except DecodeError:
        return "unread"
    return "retrying" if job.attempts or job.deferrals else "queued"
