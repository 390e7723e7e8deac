"""Enqueueing: the second pass, from the spool to chunks of jobs on the queue.

A blast's jobs in a partition of a channel have the order of its accepted recipients. A repeated call therefore builds
the same sequence, and the queue's watermark lets it add only the missing jobs. While one chunk is on its way to Redis,
the next is built. After a failover, Redis may lack the snapshot and confirmed chunks: the snapshot is stored again
before a chunk is repeated, and if chunks are missing, the pass starts over from the watermark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from services.ingest.blasts.duplicates import Places
from services.ingest.blasts.recipients import Accepted
from services.ingest.blasts.spool import BLOCK
from services.ingest.http.gateway import Queue
from shared.blasts import Blast
from shared.clock import Clock
from shared.errors import KurirError, QueueFullError, QueueUnavailableError
from shared.jobs import Job, Recipient
from shared.logs import get_logger
from shared.queue.producer import MAX_CHUNK, Chunk, GapError

_MOST_WALKS = 3
_PATIENCE_S = 20.0
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0

T = TypeVar("T")
log = get_logger()


@dataclass(slots=True)
class _Line:
    """The sequence of jobs of one partition of a channel; `done` is the watermark from which it continues."""

    channel: str
    done: int
    position: int = 0
    jobs: list[Job] = field(default_factory=list)
    chunks: asyncio.Queue[Chunk | None] = field(default_factory=lambda: asyncio.Queue(maxsize=1))


_Lines = dict[int, _Line]


def _every(lines: list[_Lines]) -> list[_Line]:
    return [line for by_index in lines for line in by_index.values()]


class Enqueueing:
    """Puts one blast on the queue."""

    def __init__(self, queue: Queue, clock: Clock, blast: Blast) -> None:
        self._queue = queue
        self._clock = clock
        self._blast = blast
        self._cancelled = False

    async def run(
        self, read_blocks: Callable[[], Iterable[list[Accepted]]], dropped: Places, *, fresh: bool = False
    ) -> None:
        """Enqueue every job that is not queued yet; `dropped` are the positions of duplicates.

        A `fresh` blast was created by this request, so none of its jobs can be queued yet.

        Returns when Redis has confirmed every chunk, and enough replicas have them, or when the blast turns out to be
        cancelled. Raises QueueUnavailableError and QueueFullError if they persist.
        """
        for walk in range(_MOST_WALKS):
            try:
                await self._walk(read_blocks(), dropped, fresh=fresh and walk == 0)
                if self._cancelled or await self._is_confirmed():
                    return
                reason = "a failover lost them"
            except GapError as gap:
                reason = str(gap)
            log.warning("redis lost chunks of a blast; adding them again", blast=self._blast.blast_id, reason=reason)
            await self._queue.blasts.create(self._blast)
        raise QueueUnavailableError("Redis keeps losing writes that it confirmed")

    async def _walk(self, blocks: Iterable[list[Accepted]], dropped: Places, *, fresh: bool) -> None:
        lines = [await self._lines_of(channel, fresh=fresh) for channel in self._blast.channels]
        try:
            async with asyncio.TaskGroup() as tasks:
                for line in _every(lines):
                    tasks.create_task(self._send(line))
                await self._build(lines, blocks, dropped)
        except* KurirError as group:
            raise group.exceptions[0] from None

    async def _lines_of(self, channel: str, *, fresh: bool) -> _Lines:
        """Return the lines of a channel's partitions, by their index; those without jobs of the blast stay empty."""
        blast, marks = self._blast, self._queue.blasts
        shares = blast.shares(channel) if channel in blast.totals else {0: 0}
        return {
            index: _Line(channel, 0 if fresh else await marks.watermark(blast.blast_id, channel, index))
            for index in shares
        }

    async def _build(self, lines: list[_Lines], blocks: Iterable[list[Accepted]], dropped: Places) -> None:
        place = 0
        for block in blocks:
            place = self._take(lines, block, place, dropped)
            # a short block was cut by its size in bytes, or is the last
            most = MAX_CHUNK - BLOCK if len(block) == BLOCK else 0
            for line in _every(lines):
                if len(line.jobs) > most:
                    await self._pass_on(line)
            await asyncio.sleep(0)
        for line in _every(lines):
            await self._pass_on(line)
            await line.chunks.put(None)

    def _take(self, lines: list[_Lines], block: list[Accepted], place: int, dropped: Places) -> int:
        """Build the jobs of a block of recipients, the first of which is at `place`; return the next place."""
        now_ms, repeats = self._clock.now_ms(), len(dropped) > 0
        for accepted in block:
            for by_index, address in zip(lines, accepted.addresses, strict=True):
                if address and not (repeats and place in dropped):
                    line = self._line(by_index, accepted.index)
                    line.position += 1
                    if line.position > line.done:
                        line.jobs.append(job_of(self._blast, accepted, line.channel, address, now_ms))
                place += 1
        return place

    def _line(self, lines: _Lines, index: int) -> _Line:
        if len(lines) == 1:
            return next(iter(lines.values()))
        return lines[self._blast.partition_of(next(iter(lines.values())).channel, index)]

    async def _pass_on(self, line: _Line) -> None:
        jobs, line.jobs = line.jobs, []
        if jobs:
            await line.chunks.put(Chunk(self._blast, line.channel, line.position - len(jobs), jobs))

    async def _send(self, line: _Line) -> None:
        while (chunk := await line.chunks.get()) is not None:
            # the lines share this: what another line has found meanwhile stays
            if not self._cancelled and await self._enqueue(chunk):
                self._cancelled = True

    async def _is_confirmed(self) -> bool:
        """Wait until enough replicas have the blast, for as long as for a chunk; False if it is incomplete."""
        until = self._clock.monotonic() + _PATIENCE_S
        while True:
            try:
                return await self._queue.blasts.confirm(self._blast)
            except QueueUnavailableError:
                if self._clock.monotonic() > until:
                    raise
            await self._clock.sleep(_FIRST_WAIT_S)

    async def _enqueue(self, chunk: Chunk) -> bool:
        """Enqueue one chunk, with retries: a restart of Redis must not cost the client its whole upload."""
        repeated = False

        async def enqueue() -> bool:
            nonlocal repeated
            if repeated:
                await self._queue.blasts.create(self._blast)
            repeated = True
            return (await self._queue.producer.enqueue(chunk)).cancelled

        return await patiently(self._clock, enqueue)


async def patiently(clock: Clock, call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call for about 20 s while Redis is away or full; then raise QueueUnavailableError or QueueFullError."""
    until, wait_s = clock.monotonic() + _PATIENCE_S, _FIRST_WAIT_S
    while True:
        try:
            return await call()
        except (QueueUnavailableError, QueueFullError):
            if clock.monotonic() + wait_s > until:
                raise
        await clock.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


def job_of(blast: Blast, accepted: Accepted, channel: str, address: str, now_ms: int) -> Job:
    """Return the job to an accepted recipient on a channel."""
    recipient = Recipient(address, accepted.name, accepted.variables, accepted.reference, accepted.attachments)
    marketing = blast.template.category == "marketing"
    return Job(
        blast.blast_id,
        accepted.index,
        channel,
        blast.lane,
        recipient,
        now_ms,
        blast.expires_at_ms,
        marketing=marketing,
    )
