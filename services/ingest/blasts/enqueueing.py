"""Enqueueing: the second pass, from the spool to chunks of jobs on the queue.

A blast's jobs on a channel have the order of its accepted recipients. A repeated call therefore builds the same
sequence, and the queue's watermark lets it add only the missing jobs. While one chunk is on its way to Redis, the next
is built. After a failover, Redis may lack the snapshot and confirmed chunks: the snapshot is stored again before a
chunk is repeated, and if chunks are missing, the pass starts over from the watermark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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

log = get_logger()


@dataclass(slots=True)
class _Line:
    """One channel's sequence of jobs; `done` is the watermark from which it continues."""

    channel: str
    done: int
    position: int = 0
    jobs: list[Job] = field(default_factory=list)
    chunks: asyncio.Queue[Chunk | None] = field(default_factory=lambda: asyncio.Queue(maxsize=1))


class Enqueueing:
    """Puts one blast on the queue."""

    def __init__(self, queue: Queue, clock: Clock, blast: Blast) -> None:
        self._queue = queue
        self._clock = clock
        self._blast = blast
        self._marketing = blast.template.category == "marketing"

    async def run(
        self, read_blocks: Callable[[], Iterable[list[Accepted]]], dropped: Places, *, fresh: bool = False
    ) -> None:
        """Enqueue every job that is not queued yet; `dropped` are the positions of duplicates.

        A `fresh` blast was created by this request, so none of its jobs can be queued yet.

        Returns when Redis has confirmed every chunk, or when the blast turns out to be cancelled. Raises
        QueueUnavailableError and QueueFullError if they persist.
        """
        for walk in range(_MOST_WALKS):
            try:
                await self._walk(read_blocks(), dropped, fresh=fresh and walk == 0)
            except GapError as gap:
                log.warning(
                    "redis lost chunks of a blast; adding them again", blast=self._blast.blast_id, reason=str(gap)
                )
            else:
                return
            await self._queue.blasts.create(self._blast)
        raise QueueUnavailableError("Redis keeps losing writes that it confirmed")

    async def _walk(self, blocks: Iterable[list[Accepted]], dropped: Places, *, fresh: bool) -> None:
        lines = [
            _Line(channel, 0 if fresh else await self._queue.blasts.watermark(self._blast.blast_id, channel))
            for channel in self._blast.channels
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                for line in lines:
                    tasks.create_task(self._send(line))
                await self._build(lines, blocks, dropped)
        except* KurirError as group:
            raise group.exceptions[0] from None

    async def _build(self, lines: list[_Line], blocks: Iterable[list[Accepted]], dropped: Places) -> None:
        place = 0
        for block in blocks:
            place = self._take(lines, block, place, dropped)
            # a short block was cut by its size in bytes, or is the last
            most = MAX_CHUNK - BLOCK if len(block) == BLOCK else 0
            for line in lines:
                if len(line.jobs) > most:
                    await self._pass_on(line)
            await asyncio.sleep(0)
        for line in lines:
            await self._pass_on(line)
            await line.chunks.put(None)

    def _take(self, lines: list[_Line], block: list[Accepted], place: int, dropped: Places) -> int:
        """Build the jobs of a block of recipients, the first of which is at `place`; return the next place."""
        now_ms, repeats = self._clock.now_ms(), len(dropped) > 0
        for accepted in block:
            for line, address in zip(lines, accepted.addresses, strict=True):
                if address and not (repeats and place in dropped):
                    line.position += 1
                    if line.position > line.done:
                        line.jobs.append(self._job(accepted, line.channel, address, now_ms))
                place += 1
        return place

    async def _pass_on(self, line: _Line) -> None:
        jobs, line.jobs = line.jobs, []
        if jobs:
            await line.chunks.put(Chunk(self._blast, line.channel, line.position - len(jobs), jobs))

    async def _send(self, line: _Line) -> None:
        cancelled = False
        while (chunk := await line.chunks.get()) is not None:
            if not cancelled:
                cancelled = await self._enqueue(chunk)

    async def _enqueue(self, chunk: Chunk) -> bool:
        """Enqueue one chunk, with retries: a restart of Redis must not cost the client its whole upload."""
        until, wait_s = self._clock.monotonic() + _PATIENCE_S, _FIRST_WAIT_S
        repeated = False
        while True:
            try:
                if repeated:
                    await self._queue.blasts.create(self._blast)
                return (await self._queue.producer.enqueue(chunk)).cancelled
            except (QueueUnavailableError, QueueFullError):
                if self._clock.monotonic() + wait_s > until:
                    raise
            repeated = True
            await self._clock.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _job(self, accepted: Accepted, channel: str, address: str, now_ms: int) -> Job:
        recipient = Recipient(address, accepted.name, accepted.variables, accepted.reference, accepted.attachments)
        blast = self._blast
        return Job(
            blast.blast_id,
            accepted.index,
            channel,
            blast.lane,
            recipient,
            now_ms,
            blast.expires_at_ms,
            marketing=self._marketing,
        )
