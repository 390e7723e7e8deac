"""Finds waiting jobs and ends them: those of a cancelled blast, and single cancelled jobs.

A sweep walks the streams in chunks, so that a cancelled million ends within seconds and does not block Redis. Jobs in
flight are left to finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from shared.blasts import Blast
from shared.clock import Clock, SystemClock
from shared.errors import DecodeError, KurirError
from shared.events import Ended, pack_event
from shared.jobs import TERMINAL, Job, JobId, Status, unpack_job
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.files import FILES_A_CALL
from shared.queue.later_jobs import later_pages, packed_later
from shared.queue.partitions import Partition, partitions_of
from shared.queue.scripts import Argument
from shared.queue.timing import UNSCALED, Timing

CHUNK = 500
CHUNKS_A_CALL = 10
LATER_LANES = ("high", "due", "high:released", "released")
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job found in a stream, or due later (`stream` is "")."""

    stream: str
    entry_id: str
    job: Job


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The jobs of a blast in a partition, or one of them."""

    partition: Partition
    blast_id: str
    index: int | None = None

    @property
    def beginning(self) -> bytes:
        """The bytes of such a job after its first byte."""
        return _packed(self.blast_id) if self.index is None else _packed(self.blast_id, self.index)


@dataclass(slots=True)
class _Place:
    """A range of a stream; its start advances during the walk."""

    stream: str
    start: str = "-"
    end: str = "+"


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of a sweep: jobs ended, and jobs left because they are being sent."""

    ended: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How swept jobs end."""

    status: Status
    error_class: str
    message: str


CANCELLED = Verdict("cancelled", "cancelled", "cancelled before it was sent")


class Sweeper:
    """Finds waiting jobs and ends them."""

    def __init__(self, redis: Redis, name: str, timing: Timing = UNSCALED, clock: Clock | None = None) -> None:
        self._redis = redis
        self._timing = timing
        self._clock = clock or SystemClock()
        self._heads = Numbered(name, "sweep")

    async def sweep_blast(self, blast: Blast, verdict: Verdict = CANCELLED) -> Swept:
        """End every waiting job of a blast on all its channels."""
        ended = in_flight = 0
        for partition in (one for channel in blast.totals for one in partitions_of(self._redis, blast, channel)):
            ended += await self._sweep_chunks(partition, blast.blast_id, verdict)
            own = await self._sweep_blast_stream(partition, blast.blast_id, verdict)
            wanted = _Wanted(partition, blast.blast_id)
            swept = await self._sweep(wanted, await self._places(wanted), verdict)
            ended += own.ended + swept.ended
            in_flight += max(own.in_flight, swept.in_flight)
        return Swept(ended, in_flight)

    async def _sweep_chunks(self, partition: Partition, blast_id: str, verdict: Verdict) -> int:
        """End the chunks of the blast's own stream that nobody has touched; return the number of jobs."""
        together = _packed(verdict.status, verdict.error_class, verdict.message)
        ended = number = 0
        while number >= 0:
            _, head = self._heads.next()
            args = (head, self._timing.keep_ended_ms, verdict.status, blast_id, number, CHUNKS_A_CALL, together)
            number, gone = await partition.call("sweep_chunks", args)
            ended += gone
        return ended

    async def _sweep_blast_stream(self, partition: Partition, blast_id: str, verdict: Verdict) -> Swept:
        """End the waiting jobs of the blast's own stream, page by page within Redis."""
        ending = _packed(verdict.status, verdict.error_class, "", verdict.message, 0, b"")
        together = _packed(verdict.status, verdict.error_class, verdict.message)
        ended = in_flight = 0
        start = "-"
        while start:
            _, head = self._heads.next()
            args = (head, self._timing.keep_ended_ms, verdict.status, blast_id, start, CHUNK, ending, together)
            following, gone, flying = await partition.call("sweep_blast_stream", args)
            start = following.decode()
            ended += gone
            in_flight += flying
        return Swept(ended, in_flight)

    async def cancel_job(self, partition: Partition, job: JobId) -> str:
        """End one waiting job; return `processing` if it is being sent, and then it is not tried again."""
        job_id = f"{job.blast_id}:{job.index}:{job.channel}"
        if not await self._any_open(partition, job.blast_id):
            return "unknown"
        await partition.call("cancel_job", (job_id, self._timing.keep_ended_ms))
        wanted = _Wanted(partition, job.blast_id, job.index)
        places = await self._places(wanted)
        # Twice: a job may become due, or be deferred, after the walk has passed its new place. It is then after the
        # walked part, so the second walk is short.
        for _ in range(2):
            swept = await self._sweep(wanted, places, CANCELLED)
            if swept.ended:
                return "cancelled"
            if swept.in_flight:
                return "processing"
        with translated("cancel job"):
            await partition.redis.hdel(partition.keys.key("cancels"), job_id)
        return "unknown"

    async def find(self, partition: Partition, job: JobId) -> Job | None:
        """Return a job that waits or is being sent; None if it has ended. Reads what lies before it in its streams."""
        if not await self._any_open(partition, job.blast_id):
            return None
        wanted = _Wanted(partition, job.blast_id, job.index)
        async for chunk in self._waiting(wanted, await self._places(wanted)):
            return chunk[0].job
        return None

    async def _any_open(self, partition: Partition, blast_id: str) -> bool:
        """Return whether any job of a blast has not ended, by its counts, which move with its jobs."""
        with translated("cancel job"):
            known: Any = await partition.redis.hmget(partition.keys.blast(blast_id), "enqueued", *TERMINAL)
        enqueued, *ended = (int(count or 0) for count in known)
        return known[0] is None or enqueued > sum(ended)

    async def _sweep(self, wanted: _Wanted, places: list[_Place], verdict: Verdict) -> Swept:
        """End the wanted jobs; read the next chunk while Redis ends one."""
        marks: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                ending: asyncio.Task[str] | None = None
                async for chunk in self._waiting(wanted, places):
                    if ending is not None:
                        marks.append(await ending)
                    ending = group.create_task(self._end(wanted.partition, chunk, verdict))
                if ending is not None:
                    marks.append(await ending)
        except* KurirError as failed:
            raise failed.exceptions[0] from None
        return Swept(sum(mark.count("1") for mark in marks), sum(mark.count("t") for mark in marks))

    async def _waiting(self, wanted: _Wanted, places: list[_Place]) -> AsyncIterator[list[Waiting]]:
        for place in places:
            async for entries in self._entries(place, wanted):
                for some in _calls(entries):
                    yield some
        async for due in self._due_later(wanted):
            for some in _calls(due):
                yield some

    async def _places(self, wanted: _Wanted) -> list[_Place]:
        """Return where a blast's jobs may be; in the shared streams only from the entry of its first job on.

        Jobs that were deferred, scheduled or waited for a limit enter the shared streams later; `normal` receives such
        jobs only from scheduled blasts.
        """
        keys, blast_id = wanted.partition.keys, wanted.blast_id
        with translated("sweep"):
            known: Any = await wanted.partition.redis.hmget(keys.blast(blast_id), "from", "to", "scheduled_at")
        first, last, scheduled_at = known
        start = first.decode() if first is not None else "-"
        places = [_Place(keys.bulk(blast_id)), *(_Place(keys.lane(lane), start) for lane in LATER_LANES)]
        if scheduled_at is not None:
            places.append(_Place(keys.lane("normal"), start))
        elif last is not None:
            places.append(_Place(keys.lane("normal"), start, last.decode()))
        return places

    async def _entries(self, place: _Place, wanted: _Wanted) -> AsyncIterator[list[Waiting]]:
        at_end = 0
        while not at_end:
            args = (place.stream, place.start, place.end, CHUNK, wanted.beginning)
            following, at_end, *rows = await wanted.partition.call("find_jobs", args)
            place.start = following.decode()
            found = [
                Waiting(place.stream, entry_id.decode(), job)
                for entry_id, raw in zip(rows[::2], rows[1::2], strict=True)
                if (job := _job(raw)) is not None
            ]
            if found:
                yield found

    async def _due_later(self, wanted: _Wanted) -> AsyncIterator[list[Waiting]]:
        partition = wanted.partition
        if wanted.index is not None:
            key, job_id = partition.keys.key("later:jobs"), f"{wanted.blast_id}:{wanted.index}:{partition.channel}"
            with translated("sweep"):
                raw: Any = await partition.redis.hget(key, job_id)
            if raw is not None and (only := _job(packed_later(raw))) is not None:
                yield [Waiting("", "", only)]
            return
        async for rows in later_pages(partition, wanted.blast_id):
            found = [Waiting("", "", job) for raw in rows.values() if (job := _job(packed_later(raw))) is not None]
            if found:
                yield found

    async def _end(self, partition: Partition, chunk: list[Waiting], verdict: Verdict) -> str:
        _, head = self._heads.next()
        now_ms = self._clock.now_ms()
        args: list[Argument] = [head, self._timing.keep_ended_ms, verdict.status]
        for one in chunk:
            job = one.job
            waits = "r" if job.attempts or job.deferrals else "q"
            event = pack_event(_ended(job, now_ms, verdict))
            args += (one.stream, one.entry_id, job.job_id, waits, event)
        raw = await partition.call("sweep", args)
        return str(raw.decode())


def _calls(found: list[Waiting]) -> Iterator[list[Waiting]]:
    """Split jobs into calls with a bounded number of files each."""
    some: list[Waiting] = []
    files = 0
    for one in found:
        files += len(one.job.recipient.files)
        if some and files > FILES_A_CALL:
            yield some
            some, files = [], len(one.job.recipient.files)
        some.append(one)
    yield some


def _ended(job: Job, now_ms: int, verdict: Verdict) -> Ended:
    recipient = job.recipient
    return Ended(
        now_ms, job.job_id, job.run, job.attempts, verdict.status, verdict.error_class, "", verdict.message,
        address=recipient.address, name=recipient.name,
    )  # fmt: skip


def _packed(*parts: object) -> bytes:
    return b"".join(map(_encoder.encode, parts))


def _job(raw: bytes) -> Job | None:
    """Return the job, None if the bytes are not a job: the senders report those."""
    try:
        return unpack_job(raw)
    except DecodeError:
        return None
