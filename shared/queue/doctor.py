"""The doctor: finds inconsistencies in a partition's keys, repairs them, and reports both.

Each check and its repair are one script, so that the running system cannot change anything between them. Jobs that are
open for the logger and no longer in Redis (its data was lost) are ended through events, as `failed` of class `lost`. A
job is only ended if it was open before Redis was searched, was not found, and is still open when the logger has written
all earlier events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from shared.clock import Clock, SystemClock
from shared.events import Ended, EventBatch, pack_batch
from shared.jobs import legible_job_id, parse_job_id
from shared.queue.blast_counts import BlastCounts
from shared.queue.connection import translated
from shared.queue.file_check import FileCheck
from shared.queue.keys import GATEWAY_EVENTS
from shared.queue.later_jobs import later_pages
from shared.queue.partitions import Partition, existing_partitions
from shared.queue.scripts import Argument
from shared.queue.suppressions import Suppressions
from shared.queue.timing import UNSCALED

PAGE = 500
MOST_AT_ONCE = 2000
ONLY_THE_CHANNEL = -1
LOGGER_PATIENCE_S = 30.0
INDEXES = {
    "ring": "turns of streams that do not exist",
    "starts": "starts of streams that do not exist",
    "streams": "listed streams that do not exist",
    "parked": "times of retries that are not parked",
    "later": "times of jobs that do not exist",
    "later:jobs": "jobs due later without a time",
    "filed": "blasts listed with files that have none",
    "limits": "limits whose list gets no turns",
    "limits:high": "turns of limits that no job waits for",
    "limits:due": "turns of limits that no job waits for",
    "places": "recorded entries of jobs that do not exist",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency: what, how often, and whether it was repaired; a notice if not `wrong`.

    `channel` names the partition: `email`, `webhook.3`.
    """

    channel: str
    what: str
    count: int
    repaired: bool
    detail: str = ""
    wrong: bool = True


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that is open for the logger."""

    job_id: str
    run: int
    attempts: int


class OpenJobs(Protocol):
    """The source of the logger's open jobs."""

    def list_open(self) -> AsyncIterator[list[OpenJob]]:
        """Yield pages of open jobs that have not changed for a while."""
        ...


class Doctor:
    """Examines one partition, and repairs it with `repair`. `name` must be unique to the process."""

    def __init__(self, partition: Partition, name: str, *, repair: bool, clock: Clock | None = None) -> None:
        self._partition = partition
        self._redis = partition.redis
        self._channel = partition.channel
        self._name = partition.name
        self._keys = partition.keys
        self._repair = repair
        self._clock = clock or SystemClock()
        self._recounts = partition.numbered(name, f"recount {self._channel}")
        self._lost = partition.numbered(name, f"lost {self._channel}")

    async def examine(self) -> list[Finding]:
        """Examine indexes, streams, counts, files and suppressions, in this order.

        A repair can reveal further inconsistencies that a later check finds.
        """
        findings = [await self._check_index(index) for index in INDEXES]
        findings.append(await self._check_lists())
        findings += await self._check_streams()
        findings += await self._recount()
        findings += await self._check_files()
        findings.append(await self._check_suppressions())
        return [finding for finding in findings if finding.count]

    def _found(self, what: str, count: int, detail: str = "") -> Finding:
        return Finding(self._name, what, count, self._repair, detail)

    async def _call(self, script: str, args: Sequence[Argument]) -> Any:
        return await self._partition.call(script, args)

    async def _check_index(self, index: str) -> Finding:
        return self._found(INDEXES[index], await self._wrong_in(index))

    async def _wrong_in(self, index: str) -> int:
        wrong = 0
        async for members in self._pages(index):
            start = 0
            while start < len(members):
                found, checked = await self._call("check_index", (index, int(self._repair), *members[start:]))
                wrong, start = wrong + found, start + checked
        return wrong

    async def _check_lists(self) -> Finding:
        """Check the lists of limits; checking a limit twice does no harm."""
        wrong = 0
        async for names in self._pages("limits"):
            for name in names:
                wrong += await self._wrong_in(f"limits:jobs:{name.decode()}")
        return self._found("jobs in the lists of limits that do not wait for them", wrong)

    async def _check_files(self) -> list[Finding]:
        found = await FileCheck(self._partition, repair=self._repair).run(self.list_jobs)
        detail = "their messages will fail as `file_gone`; send them again with their attachments"
        return [
            self._found("jobs that are no longer in Redis but have files", found.of_lost_jobs),
            self._found("files that nothing needs", found.unneeded),
            self._found("files that would expire although jobs need them", found.expiring),
            Finding(self._name, "files that jobs need and that are gone", found.gone, False, detail),
        ]

    async def _check_suppressions(self) -> Finding:
        spelled = await Suppressions(self._redis).rekey(self._partition, repair=self._repair)
        return self._found("suppressions that are not under the identity of their address", spelled)

    async def _pages(self, index: str) -> AsyncIterator[list[bytes]]:
        """Yield the members of an index, page by page; a repeated member does no harm."""
        if index == "later:jobs":
            async for rows in later_pages(self._partition):
                yield list(rows)
            return
        redis: Any = self._redis
        scans = {"streams": redis.sscan, "filed": redis.sscan, "limits": redis.hscan, "places": redis.hscan}
        scan = scans.get(index, redis.zscan)
        cursor = 0
        while True:
            with translated("doctor"):
                cursor, found = await scan(self._keys.key(index), cursor, count=PAGE)
            members = [one[0] if isinstance(one, tuple) else one for one in found]
            if members:
                yield members
            if not cursor:
                return

    async def _streams(self) -> list[str]:
        pattern = self._keys.key("jobs:*")
        server = await self._partition.server()
        with translated("doctor"):
            return sorted([key.decode() async for key in server.scan_iter(pattern, count=1000)])

    async def _check_streams(self) -> list[Finding]:
        sums = [0] * 6
        for stream in await self._streams():
            start = "-"
            while start:
                args = (stream, int(self._repair), UNSCALED.park_ms, start, PAGE)
                following, *found = await self._call("check_stream", args)
                sums = [total + one for total, one in zip(sums, found, strict=True)]
                start = following.decode()
        names = (
            "pending entries that are not in their stream",
            "parked retries without a time",
            "consumers of senders that are gone",
            "streams that are not listed",
            "streams with work that get no turns",
            "empty streams",
        )
        return [self._found(what, count) for what, count in zip(names, sums, strict=True)]

    async def _open_blasts(self) -> list[str]:
        prefix = self._keys.blast("")
        server = await self._partition.server()
        with translated("doctor"):
            keys = [key.decode() async for key in server.scan_iter(f"{prefix}*", count=1000)]
            ended: list[Any] = []
            for first in range(0, len(keys), PAGE):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for key in keys[first : first + PAGE]:
                        pipe.hexists(key, "ended_at")
                    ended += await pipe.execute()
        return [key.removeprefix(prefix) for key, has_ended in zip(keys, ended, strict=True) if not has_ended]

    async def _recount(self) -> list[Finding]:
        blasts = await self._open_blasts()
        counted = await self._recount_once(MOST_AT_ONCE, blasts)
        wrong: list[tuple[str, int, int]] = counted["blasts"] or []
        moving: list[str] = []
        if not counted["by_blast"]:
            counts = BlastCounts(self._partition, self._recounts, repair=self._repair)
            checked = await counts.check(blasts, self._streams)
            wrong, moving = checked.wrong, checked.moving
            counted = await self._recount_once(ONLY_THE_CHANNEL, blasts)
        findings = [
            self._found("counts of a blast that do not add up", 1, f"{name}: {missing} jobs missing, {many} too many")
            for name, missing, many in wrong
        ]
        findings.append(self._found("jobs by which the channel's counters are off", abs(counted["off"])))
        gauges: list[str] = counted["gauges"] or []
        findings.append(self._found("gauges that are off", len(gauges), ", ".join(gauges)))
        what, detail = "blasts whose counts were not checked", "their jobs moved while they were counted"
        findings.append(Finding(self._name, what, len(moving), False, detail, wrong=False))
        return findings

    async def _recount_once(self, most: int, blasts: Sequence[str]) -> dict[str, Any]:
        _, head = self._recounts.next()
        args: list[Argument] = [int(self._repair), head, UNSCALED.keep_ended_ms, most, *blasts]
        counted: dict[str, Any] = orjson.loads(await self._call("recount", args))
        return counted

    async def find_lost(self, logger: OpenJobs) -> list[Finding]:
        """Find jobs of the channel that are open for the logger and in no partition; end them."""
        candidates = await self._open(logger)
        if not candidates:
            return []
        every = await existing_partitions(self._redis, self._channel)
        for partition in every:
            for _ in range(2):  # a job may move from one place to the next while the search passes between them
                async for job_id in Doctor(partition, "", repair=False).list_jobs():
                    candidates.pop(job_id, None)
        if not candidates:
            return []
        if not await self._logger_caught_up([*(one.keys.events for one in every), GATEWAY_EVENTS]):
            detail = f"the logger did not catch up with the events within {LOGGER_PATIENCE_S:g} s: run the doctor again"
            return [Finding(self._name, "jobs that may be lost", len(candidates), False, detail)]
        still_open = await self._open(logger)
        lost = [job for job_id, job in candidates.items() if job_id in still_open]
        if self._repair:
            for first in range(0, len(lost), PAGE):
                await self._end(lost[first : first + PAGE])
        return [self._found("jobs of the log that are no longer in Redis", len(lost))] if lost else []

    async def _open(self, logger: OpenJobs) -> dict[str, OpenJob]:
        found: dict[str, OpenJob] = {}
        async for page in logger.list_open():
            for job in page:
                parsed = parse_job_id(job.job_id)
                if parsed is not None and parsed.channel == self._channel:
                    found[job.job_id] = job
        return found

    async def list_jobs(self) -> AsyncIterator[str]:
        """Yield the ids of the partition's jobs; one that moves meanwhile may be missed."""
        for stream in await self._streams():
            start = "-"
            while True:
                # pages are bounded by their bytes; an empty prefix matches every job
                following, at_end, *rows = await self._call("find_jobs", (stream, start, "+", PAGE, b""))
                start = following.decode()
                for raw in rows[1::2]:
                    if job_id := legible_job_id(raw):  # otherwise it is not a job, and its sender ends it
                        yield job_id
                if at_end:
                    break
        async for members in self._pages("later:jobs"):
            for member in members:
                yield member.decode()

    async def _logger_caught_up(self, streams: Sequence[str]) -> bool:
        """Wait until the logger has written all events that these streams have now; return whether it did."""
        redis: Any = self._redis
        last: dict[str, bytes] = {}
        with translated("doctor"):
            for stream in streams:
                for entry_id, _ in await redis.xrevrange(stream, count=1):
                    last[stream] = entry_id
        until = self._clock.monotonic() + LOGGER_PATIENCE_S
        while last and self._clock.monotonic() < until:
            for stream, entry_id in list(last.items()):
                with translated("doctor"):
                    if not await redis.xrange(stream, "-", entry_id, count=1):
                        del last[stream]
            await asyncio.sleep(0.05)
        return not last

    async def _end(self, lost: Sequence[OpenJob]) -> None:
        number, _ = self._lost.next()
        now_ms = self._clock.now_ms()
        words = "the doctor did not find it in Redis"
        ends = [Ended(now_ms, job.job_id, job.run, job.attempts, "failed", "lost", "", words) for job in lost]
        batch = EventBatch(self._lost.producer, number, list(ends))
        await self._call("emit_event", (pack_batch(batch),))
