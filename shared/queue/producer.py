"""Enqueues jobs: chunks of a blast, each added once even if it is sent several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.blasts import Blast
from shared.clock import Clock, SystemClock
from shared.errors import KurirError, QueueFullError, QueueUnavailableError
from shared.events import Event, EventBatch, Queued, QueuedRecipient, pack_batch, pack_event
from shared.jobs import TERMINAL, Job, pack_job, with_files_apart
from shared.queue.batches import Numbered
from shared.queue.connection import RETRY_WHEN_FULL_S, translated
from shared.queue.event_log import most_event_bytes
from shared.queue.files import FILES_A_CALL, FileStore
from shared.queue.keys import GATEWAY_EVENTS
from shared.queue.partitions import Partition, partition_at, partitions, partitions_of
from shared.queue.scripts import Argument
from shared.queue.timing import UNSCALED, Timing

MAX_CHUNK = 500
OWN_STREAM_FROM = 100
MEMORY_SHARE = 0.8
# a sweep removes several chunks without reading them in one call
_SMALL_CHUNK_BYTES = 1_000_000
# the free bytes for gateway events are divided by this: more processes seldom emit them at the same time
_PROCESSES = 16
_SHARE_FOR_S = 1.0


class FilesGoneError(QueueUnavailableError):
    """A file was freed after it was written and before its chunk was enqueued: repeat the chunk."""


class GapError(KurirError):
    """A chunk was sent before the one that precedes it; the watermark is where to continue."""


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """The back-pressure limits: jobs waiting on a channel, events unread by the logger, share of maxmemory."""

    jobs: int = 1_000_000
    events: int = 500_000
    memory_share: float = MEMORY_SHARE
    retry_after_s: int = 30


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most 500 jobs of a blast on a channel.

    `first` is the position (from 0) of `jobs[0]` in the blast's sequence in their partition of this channel. The series
    is `jobs` for the blast's own, and `run:<id>` for dead letters sent again. These have their own positions, from 0,
    and may be in several partitions. `lenient` accepts that files of its jobs are lost: these jobs fail when they are
    sent.
    """

    blast: Blast
    channel: str
    first: int
    jobs: Sequence[Job]
    series: str = "jobs"
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The result of a chunk: jobs added by this call, the watermark after it, and whether the blast is cancelled.

    A dead letter whose message was accepted after all is not added; the watermark passes it.
    """

    added: int
    watermark: int
    cancelled: bool


class Producer:
    """Adds jobs and gateway events; `name` must be unique to the process (see `boot_name`)."""

    def __init__(
        self,
        redis: Redis,
        name: str,
        backlog: BacklogLimits = BacklogLimits(),
        timing: Timing = UNSCALED,
        clock: Clock | None = None,
    ) -> None:
        self._redis = redis
        self._timing = timing
        self._files = FileStore(redis)
        self._backlog = backlog
        self._clock = clock or SystemClock()
        self._chunks = Numbered(name, "enqueue")
        self._gateway = Numbered(name, "gateway")
        self._share, self._share_until = 0, 0.0

    async def enqueue(self, chunk: Chunk, partition: Partition | None = None) -> Enqueued:
        """Add a chunk's jobs and its `queued` event in one step; a repeated chunk adds nothing twice.

        They go to their own partitions of the channel, or all to the one that is given; a step adds jobs of one of
        them. Their attachments are written first, under their own keys; a chunk with very many attachments is added in
        several steps.

        Raises QueueFullError, QueueUnavailableError (repeat the same chunk) and GapError.
        """
        if len(chunk.jobs) > MAX_CHUNK:
            raise ValueError(f"a chunk holds at most {MAX_CHUNK} jobs, not {len(chunk.jobs)}")
        every = [(partition, chunk)] if partition else self._by_partition(chunk)
        done = [await self._enqueue_in_steps(part, where) for where, part in every]
        if len(done) == 1:
            return done[0]
        return Enqueued(sum(one.added for one in done), len(chunk.jobs), any(one.cancelled for one in done))

    async def _enqueue_in_steps(self, chunk: Chunk, partition: Partition) -> Enqueued:
        if not _carry_files(chunk.jobs):
            return await self._enqueue(chunk, partition, chunk.jobs)
        first, added = chunk.first, 0
        for jobs in _steps(chunk.jobs):
            part = replace(chunk, first=first, jobs=jobs)
            done = await self._enqueue(part, partition, await self._without_files(part, partition), files=True)
            first, added = first + len(jobs), added + done.added
        return replace(done, added=added)

    async def _enqueue(
        self, chunk: Chunk, partition: Partition, jobs: Sequence[Job], *, files: bool = False
    ) -> Enqueued:
        """Add the jobs of a chunk as they are stored; `files` if any of them needs files."""
        _, head = self._chunks.next()
        blast = chunk.blast
        shares = blast.shares(chunk.channel)
        args: list[Argument] = [
            blast.blast_id,
            chunk.series,
            chunk.first,
            shares.get(partition.keys.index, blast.totals[chunk.channel]),
            blast.lane,
            blast.scheduled_at_ms * 1000 if chunk.series == "jobs" else 0,
            head,
            pack_event(_queued_event(chunk, self._clock.now_ms())),
            OWN_STREAM_FROM,
            self._timing.keep_ended_ms,
            int(not chunk.lenient),
            "".join(map(_needs, jobs)) if files else "",
            jobs[0].run if jobs else 1,
            f"{len(shares)} {blast.count_shares()}",
            "" if chunk.series == "jobs" else await self._pause_elsewhere(chunk, partition),
        ]
        pairs = [(job.job_id, pack_job(job)) for job in jobs]
        is_small = sum(len(packed) for _, packed in pairs) <= _SMALL_CHUNK_BYTES
        args.append(_ranges(jobs) if is_small and chunk.series == "jobs" else "")
        args += chain.from_iterable(pairs)
        try:
            added, watermark, cancelled = await partition.call("enqueue", args)
        except ResponseError as error:
            if str(error).startswith("GAP"):
                raise GapError(str(error)) from error
            if str(error).startswith("FILES"):
                raise FilesGoneError(str(error)) from error
            raise
        return Enqueued(added, watermark, bool(cancelled))

    async def _pause_elsewhere(self, chunk: Chunk, partition: Partition) -> bytes:
        """Return why a blast is paused in its other partitions, b"" if it is not; where it has ended, it is not."""
        redis: Any = self._redis
        for other in partitions_of(self._redis, chunk.blast, chunk.channel):
            if other.keys != partition.keys:
                with translated("pause"):
                    reason, ended = await redis.hmget(other.keys.blast(chunk.blast.blast_id), "paused", "ended_at")
                if reason and not ended:
                    return bytes(reason)
        return b""

    async def put_files(self, chunk: Chunk, contents: Mapping[str, bytes]) -> None:
        """Write files, by digest, that jobs of a chunk need and do not contain; raises as `enqueue` does.

        Raises QueueUnavailableError also while a sender of an earlier version is alive.
        """
        parts = self._by_partition(chunk)
        for partition, part in parts:
            needed = {one.digest for job in part.jobs for one in job.recipient.files}
            some = {digest: contents[digest] for digest in contents if len(parts) == 1 or digest in needed}
            if not await self._files.put(partition, chunk.blast.blast_id, some):
                raise QueueUnavailableError(
                    "a sender of an earlier version is running; it cannot read jobs whose files are stored separately"
                )

    def _by_partition(self, chunk: Chunk) -> list[tuple[Partition, Chunk]]:
        """Return the parts of a chunk, each with its partition; only dead letters are of several."""
        if not chunk.blast.parts:
            return [(partition_at(self._redis, chunk.channel, 0), chunk)]
        found: dict[int, list[Job]] = {}
        for job in chunk.jobs:
            found.setdefault(chunk.blast.partition_of(chunk.channel, job.index), []).append(job)
        if len(found) > 1 and (chunk.series == "jobs" or chunk.first):
            raise ValueError(
                "the jobs of a chunk are in one partition, unless they are all of a series of dead letters"
            )
        return [
            (partition_at(self._redis, chunk.channel, index), replace(chunk, jobs=jobs))
            for index, jobs in (found or {next(iter(chunk.blast.shares(chunk.channel))): []}).items()
        ]

    async def _without_files(self, chunk: Chunk, partition: Partition) -> list[Job]:
        """Write the attachments of the jobs to their own keys; return the jobs without them.

        They stay in the jobs while a sender of an earlier version is alive, because it cannot read other jobs.
        """
        pairs = [with_files_apart(job) for job in chunk.jobs]
        contents = {digest: content for _, files in pairs for digest, content in files.items()}
        if contents and not await self._files.put(partition, chunk.blast.blast_id, contents):
            return list(chunk.jobs)
        return [job for job, _ in pairs]

    async def check_backlog(self, channel: str, adding: int = 0) -> None:
        """Raise QueueFullError if `adding` more jobs would exceed the limits of the backlog.

        Raises QueueUnavailableError if Redis is away.
        """
        waiting, memories = 0, []
        for partition in partitions(self._redis, channel):
            keys = partition.keys
            with translated("backlog"):
                async with partition.redis.pipeline(transaction=False) as pipe:
                    pipe.hgetall(keys.key("counters"))
                    pipe.xlen(keys.events)
                    pipe.info("memory")
                    pipe.memory_usage(keys.events)  # not every server allows it
                    *answers, size = await pipe.execute(raise_on_error=False)
                counters, events, memory = map(_answered, answers)
            most = most_event_bytes(int(memory.get("maxmemory", 0)))
            self._check_events(events, size if isinstance(size, int) else 0, most)
            waiting += int(counters.get(b"enqueued", 0)) - sum(int(counters.get(name.encode(), 0)) for name in TERMINAL)
            memories.append(memory)
        limits = self._backlog
        if waiting + adding > limits.jobs:
            raise QueueFullError(f"{waiting} jobs wait on {channel}, {limits.jobs} is the limit", limits.retry_after_s)
        for memory in memories:
            self._check_memory(memory)

    def _check_memory(self, memory: Mapping[str, Any]) -> None:
        limits, maximum = self._backlog, int(memory.get("maxmemory", 0))
        if maximum and int(memory["used_memory"]) > maximum * limits.memory_share:
            share = f"{limits.memory_share:.0%}"
            raise QueueFullError(f"Redis uses more than {share} of its memory limit", limits.retry_after_s)

    def _check_events(self, count: int, size: int, most: int) -> None:
        """Raise QueueFullError if the events of a channel that wait for the logger are near their limits."""
        limits = self._backlog
        if count > limits.events:
            raise QueueFullError(f"{count} events wait for the logger", limits.retry_after_s)
        if size > most // 2:
            words = f"the events that wait for the logger take {size:,} bytes, {most // 2:,} is the limit"
            raise QueueFullError(words, limits.retry_after_s)

    async def check_events(self, channel: str) -> None:
        """Raise QueueFullError if the events of a channel that wait for the logger take too many bytes.

        For callers that add events and no jobs. Raises QueueUnavailableError if Redis is away.
        """
        for partition in partitions(self._redis, channel):
            self._check_events(0, *await self._event_bytes(partition.keys.events))

    async def _check_gateway_events(self, adding: int) -> None:
        """Raise QueueFullError if the events of requests and of the system have reached their limit.

        A check reserves a part of the free bytes for this process, which it may use for a second without another check.
        """
        now = self._clock.monotonic()
        if adding <= self._share and now < self._share_until:
            self._share -= adding
            return
        size, most = await self._event_bytes(GATEWAY_EVENTS)
        if size > most:
            raise QueueFullError("too many requests and system events wait for the logger", RETRY_WHEN_FULL_S)
        self._share, self._share_until = (most - size) // _PROCESSES, now + _SHARE_FOR_S

    async def _event_bytes(self, stream: str) -> tuple[int, int]:
        """Return the approximate bytes of a stream of events, 0 if the server does not report them, and their limit."""
        with translated("size of events"):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.memory_usage(stream)
                pipe.info("memory")
                size, memory = await pipe.execute(raise_on_error=False)
        maxmemory = int(memory.get("maxmemory", 0)) if isinstance(memory, dict) else 0
        return size if isinstance(size, int) else 0, most_event_bytes(maxmemory)

    async def emit(self, *events: Event) -> None:
        """Add one batch of gateway events (API requests, system events, blasts).

        Raises QueueUnavailableError, and QueueFullError while too many wait for the logger: callers keep the last
        events and count those that they drop.
        """
        if not events:
            return
        number, _ = self._gateway.next()
        batch = pack_batch(EventBatch(self._gateway.producer, number, list(events)))
        await self._check_gateway_events(len(batch))
        with translated("emit"):
            await self._redis.xadd(GATEWAY_EVENTS, {"d": batch})


def queued_event(blast: Blast, channel: str, jobs: Sequence[Job], now_ms: int, *, later: bool = False) -> Queued:
    """Return the event that jobs of a blast were enqueued, `later` to be sent at its time."""
    template = blast.template
    return Queued(
        at_ms=now_ms,
        blast_id=blast.blast_id,
        channel=channel,
        template_id=template.id,
        template_name=template.name,
        recipients=[
            QueuedRecipient(job.index, job.recipient.address, job.recipient.name, job.recipient.reference)
            for job in jobs
        ],
        status="scheduled" if later else "queued",
        run=jobs[0].run,
    )


def _queued_event(chunk: Chunk, now_ms: int) -> Queued:
    later = chunk.series == "jobs" and chunk.blast.scheduled_at_ms > now_ms
    return queued_event(chunk.blast, chunk.channel, chunk.jobs, now_ms, later=later)


def _answered(answer: Any) -> Any:
    """Return one answer of a pipeline; raise it where it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def _steps(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Split the jobs of a chunk into parts with a bounded number of files each; at least one part."""
    start = files = 0
    for at, job in enumerate(jobs):
        files += len(job.recipient.attachments or job.recipient.files)
        if files > FILES_A_CALL and at > start:
            yield jobs[start:at]
            start, files = at, len(job.recipient.attachments or job.recipient.files)
    yield jobs[start:]


def _ranges(jobs: Sequence[Job]) -> str:
    """Return the first and the last index of each range of jobs with consecutive indexes; they are in their order."""
    ends: list[int] = []
    for job in jobs:
        if ends and job.index == ends[-1] + 1:
            ends[-1] = job.index
        else:
            ends += (job.index, job.index)
    return " ".join(map(str, ends))


def _carry_files(jobs: Sequence[Job]) -> bool:
    """Return whether any of the jobs has a file of its own; most chunks have none."""
    return any(job.recipient.attachments or job.recipient.files for job in jobs)


def _needs(job: Job) -> str:
    """Return the files that a job needs, as `enqueue.lua` reads them."""
    if not job.recipient.files:
        return ""
    digests = dict.fromkeys(one.digest for one in job.recipient.files)
    return f"{job.index} {job.run} {' '.join(digests)}\n"
