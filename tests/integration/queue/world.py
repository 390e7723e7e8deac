"""A small world around the queue: blasts, chunks, and a sender whose steps the tests call."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from redis.asyncio import Redis

from shared.blasts import Blast
from shared.events import Deferred, Ended, Event, EventBatch, Retrying, Returned, Sent, Swept, pack_event
from shared.jobs import TERMINAL, Attachment, Job, Lane, Recipient, Status, unpack_job
from shared.queue.blasts import BlastStore, ChannelProgress
from shared.queue.connection import connect
from shared.queue.consumer import BeginPolicy, BeginRequest, Consumer
from shared.queue.control import ChannelStats, Control
from shared.queue.event_log import EventLog
from shared.queue.files import FileStore
from shared.queue.keys import PartitionKeys
from shared.queue.leases import Grant, Lease, Move, deferred, ended, given_back, parked, sent
from shared.queue.partitions import Partition
from shared.queue.producer import Chunk, Enqueued, Producer
from shared.queue.reaper import Reaper
from shared.queue.timing import Timing
from shared.sending.caches import FileCache
from shared.sending.job_limits import LimitOf
from shared.sending.outcomes import not_begun_move, processing_event
from shared.templates import Template
from tests.integration.queue.truth import Truth, find_truth
from tests.servers import wait_for

TEMPLATE = Template(id="t", name="T", channels=["email"], subject="s", text="x")
FILES = [Attachment("a.pdf", "application/pdf", b"\xff" * size) for size in (0, 200, 300, 70_000)]
WITH_FILES = Recipient(
    "files@example.com", "Files", {"x": {"y": [1, -70_000, 2.5, None, "z" * 300], "n": 2**40}}, "r", FILES
)
LISTS = "{email}:limits:jobs:"
LANES = {f"{{email}}:jobs:{name}" for name in ("high", "normal", "high:released", "released")}
_numbers = itertools.count(1)


@dataclass
class World:
    """Everything that a test of the queue needs, on one server."""

    redis: Redis
    timing: Timing = field(default_factory=Timing)
    index: int = 0
    producer: Producer = field(init=False)
    blasts: BlastStore = field(init=False)
    control: Control = field(init=False)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.producer = Producer(self.redis, f"p{next(_numbers)}")
        self.blasts = BlastStore(self.redis, f"b{next(_numbers)}")
        self.control = Control(self.redis, f"c{next(_numbers)}")

    async def blast(self, count: int, lane: Lane = "normal", **changes: Any) -> Blast:
        """Accept a blast of `count` jobs on email, without enqueueing any."""
        blast = self.unknown_blast(count, lane, **changes)
        await self.blasts.create(blast)
        return blast

    def unknown_blast(self, count: int, lane: Lane = "normal", **changes: Any) -> Blast:
        """Make a blast that Redis does not know."""
        blast = Blast(f"b{next(_numbers)}", TEMPLATE, ["email"], lane, 0, {"email": count}, count)
        return msgspec.structs.replace(blast, **changes)

    def jobs(self, blast: Blast, indexes: Sequence[int], **changes: Any) -> list[Job]:
        """Make jobs of a blast."""
        return [
            msgspec.structs.replace(
                Job(blast.blast_id, index, "email", blast.lane, Recipient(f"r{index}@example.com", f"R{index}"), 0),
                **changes,
            )
            for index in indexes
        ]

    async def whole(self, job: Job) -> Job:
        """Return a job that contains its files, as a sender loads them."""
        return await FileCache(FileStore(self.redis)).whole(job)

    async def enqueue(self, blast: Blast, first: int = 0, count: int | None = None, **changes: Any) -> Enqueued:
        """Enqueue one chunk of a blast."""
        count = blast.totals["email"] - first if count is None else count
        jobs = self.jobs(blast, range(first, first + count), **changes)
        return await self.producer.enqueue(Chunk(blast, "email", first, jobs), self.partition)

    async def given(self, count: int, lane: Lane = "normal", **changes: Any) -> Blast:
        """Accept and enqueue a blast."""
        blast = await self.blast(count, lane, **changes)
        for first in range(0, count, 500):
            await self.enqueue(blast, first, min(500, count - first))
        return blast

    async def given_with(self, recipient: Recipient) -> Blast:
        """Accept and enqueue a blast for only this recipient."""
        blast = await self.blast(1)
        await self.enqueue(blast, recipient=recipient)
        return blast

    async def again(self, blast: Blast, indexes: Sequence[int], run: int) -> Enqueued:
        """Send dead letters again, as the logger's run of that number."""
        jobs = self.jobs(blast, indexes, run=run)
        return await self.producer.enqueue(Chunk(blast, "email", 0, jobs, series=f"run:{run}"))

    async def sender(self, name: str = "", policy: BeginPolicy | None = None) -> HandSender:
        """Start a new sender with a heartbeat."""
        consumer = Consumer(
            self.partition,
            name or f"s{next(_numbers)}",
            self.timing,
            policy or BeginPolicy(concurrency=1000),
        )
        await consumer.heartbeat({"host": "h"}, first=True)
        return HandSender(consumer)

    @property
    def partition(self) -> Partition:
        """The partition of email's queue in this world."""
        return Partition(self.redis, PartitionKeys("email", self.index))

    def reaper(self, sender_id: str) -> Reaper:
        """Make a reaper for a sender."""
        return Reaper(self.partition, sender_id, self.timing)

    async def progress(self, blast: Blast) -> ChannelProgress:
        """Return a blast's progress on email, after checking that its counts add up (G4)."""
        progress = await self.blasts.progress(blast.blast_id)
        assert progress is not None
        one = progress.channels["email"]
        assert sum(one.counts.values()) == one.enqueued, one
        assert all(value >= 0 for value in one.counts.values()), one
        return one

    async def check_balance(self, *blasts: Blast) -> Truth:
        """Check G4 against the contents of Redis: counters, gauges, the counts of these blasts, and every index."""
        truth = await find_truth(self.redis)
        assert not truth.doubles, truth.doubles
        stats = await self.control.channel_stats("email")
        ended_count = sum(stats.counters[name] for name in TERMINAL)
        assert stats.counters["enqueued"] == ended_count + len(truth.jobs), (stats, truth)
        assert stats.active == truth.count("processing"), (stats, truth)
        assert stats.scheduled == truth.count("scheduled"), (stats, truth)
        assert stats.delayed == truth.delayed, (stats, truth)
        assert stats.waiting_by_lane == {lane: truth.waiting[lane] for lane in stats.waiting_by_lane}, (stats, truth)
        await self._check_paused(truth, stats)
        for blast in blasts:
            progress = await self.progress(blast)
            counts = progress.counts
            assert progress.limited == truth.limited[blast.blast_id], (blast.blast_id, progress, truth)
            open_counts = {name: counts[name] for name in ("queued", "processing", "retrying", "scheduled")}
            found = truth.of_blast(blast.blast_id)
            assert open_counts == {name: found[name] for name in open_counts}, (blast.blast_id, counts, found)
        await self._check_indexes(truth)
        return truth

    async def _check_paused(self, truth: Truth, stats: ChannelStats) -> None:
        """Check the number of waiting jobs that pauses of blasts hold; a paused channel reports all that wait."""
        held = 0
        async for key in self.redis.scan_iter("{email}:blast:*", count=1000):
            if await self.redis.hexists(key, "paused"):
                found = truth.of_blast(key.decode().rpartition(":")[2])
                held += found["queued"] + found["retrying"]
        assert stats.pause_reason or stats.paused == held, (stats, held)

    async def _check_indexes(self, truth: Truth) -> None:
        redis: Any = self.redis
        parked = {member.decode() for member in await redis.zrange("{email}:parked", 0, -1)}
        assert parked == truth.parked
        later = set(await redis.zrange("{email}:later", 0, -1)) | await self._check_limits()
        assert later == set(await redis.hkeys("{email}:later:jobs"))
        for job_id, place in (await redis.hgetall("{email}:places")).items():
            stream, entry_id = place.split(b" ")
            ((_, fields),) = await redis.xrange(stream, entry_id, entry_id)
            assert unpack_job(fields[b"d"]).job_id == job_id.decode(), "a place that its job has left"
        streams = {f"{{email}}:jobs:bulk:{name.decode()}" for name in await redis.smembers("{email}:streams")}
        assert streams == truth.bulk_streams
        ring = {member.decode() for member in await redis.zrange("{email}:ring", 0, -1)}
        ring |= {member.decode() for member in await redis.zrange("{email}:starts", 0, -1)}
        for stream in truth.takeable - ring:
            blast_id = stream.rpartition(":")[2]
            lane = stream in LANES
            assert lane or await redis.hexists(f"{{email}}:blast:{blast_id}", "paused"), f"{stream} gets no turns"

    async def _check_limits(self) -> set[bytes]:
        """Check that the limits with a list, and no others, have a pace and turns; return the jobs of the lists."""
        redis: Any = self.redis
        lists = {key.decode().removeprefix(LISTS): key async for key in redis.scan_iter(f"{LISTS}*", count=1000)}
        heads = {name: (await redis.zrange(key, 0, 0, withscores=True))[0][1] for name, key in lists.items()}
        assert set(lists) == {name.decode() for name in await redis.hkeys("{email}:limits")}
        high = {name.decode() for name in await redis.zrange("{email}:limits:high", 0, -1)}
        due = {name.decode() for name in await redis.zrange("{email}:limits:due", 0, -1)}
        assert high == {name for name, head in heads.items() if head < 1e15}
        assert due == {name for name, head in heads.items() if head >= 1e15}
        return {job_id for key in lists.values() for job_id in await redis.zrange(key, 0, -1)}

    async def wakes(self, action: Callable[[], Awaitable[object]]) -> bool:
        """Return whether an action wakes senders."""
        before = await self.redis.xrevrange("{email}:bell", count=1)
        await action()
        return bool(await self.redis.xrevrange("{email}:bell", count=1) != before)

    async def written(self) -> list[Event]:
        """Read and acknowledge all events of the channel so far, as the logger would."""
        log = EventLog(self.redis)
        while entries := await log.read(1000, 0.0) or await log.read(1000, 0.0):
            for entry in entries:
                assert isinstance(entry.batch, EventBatch)
                self.events.extend(entry.batch.events)
            await log.ack(entries)
        return self.events


def ends(events: Iterable[Event]) -> Counter[tuple[str, int]]:
    """Count the events that end each run of a job, by job id and run; a late answer has its own."""
    told: Counter[tuple[str, int]] = Counter()
    for event in events:
        if isinstance(event, Swept):
            told.update((job.job_id, job.run) for job in event.jobs)
        elif isinstance(event, Ended) or (isinstance(event, Sent) and not event.late):
            told[event.job_id, event.run] += 1
    return told


def no_limit(job: Job) -> None:
    """Limit nothing."""
    del job


@dataclass
class HandSender:
    """A sender whose steps the tests call."""

    consumer: Consumer
    limit_of: LimitOf = no_limit

    @property
    def name(self) -> str:
        return self.consumer.sender_id

    async def fetch(self, want: int = 10) -> list[Lease]:
        return (await self.consumer.fetch(want)).leases

    async def begin(self, leases: Sequence[Lease]) -> list[Grant]:
        return await self.consumer.begin([self._request(lease) for lease in leases])

    def _request(self, lease: Lease) -> BeginRequest:
        event, limit = processing_event(lease, 0, self.name), self.limit_of(lease.job)
        if limit is None:
            return BeginRequest(lease, event)
        return BeginRequest(lease, event, limit=limit.name, limit_gap_us=limit.gap_us, limit_burst=limit.burst)

    async def take(self, want: int = 10) -> list[Lease]:
        """Fetch and begin; every job must be granted."""
        leases = await self.fetch(want)
        if leases:
            assert {grant.kind for grant in await self.begin(leases)} <= {"granted", "alone"}
        return leases

    async def finish(self, *leases: Lease) -> list[bool]:
        return await self.consumer.settle([sent_move(lease) for lease in leases])

    async def retry(self, lease: Lease, delay_ms: int) -> bool:
        event = Retrying(0, lease.job_id, lease.job.run, lease.attempt, "transient", "451", "later", 1, 0)
        return (await self.consumer.settle([parked(lease, pack_event(event), delay_ms)]))[0]

    async def retry_all(self, leases: Sequence[Lease], delay_ms: int) -> list[bool]:
        return await self.consumer.settle([parked(lease, b"", delay_ms) for lease in leases])

    async def uncertain(self, lease: Lease, delay_ms: int) -> bool:
        event = Retrying(0, lease.job_id, lease.job.run, lease.attempt, "uncertain", "", "lost", 1, 0)
        return (await self.consumer.settle([parked(lease, pack_event(event), delay_ms, uncertain=True)]))[0]

    async def defer(self, lease: Lease, wait_ms: int, first_deferred_at_ms: int = 1) -> bool:
        due_ms = time.time_ns() // 1_000_000 + wait_ms
        event = Deferred(0, lease.job_id, lease.job.run, lease.attempt, 1, "deferred", "450", "later", 1, due_ms)
        move = deferred(lease, pack_event(event), wait_ms, first_deferred_at_ms)
        return (await self.consumer.settle([move]))[0]

    async def fail(self, lease: Lease) -> bool:
        return await self.end(lease, "failed")

    async def end(self, lease: Lease, status: Status, error_class: str = "permanent") -> bool:
        event = Ended(0, lease.job_id, lease.job.run, lease.attempt, status, error_class, "550", "no")
        return (await self.consumer.settle([ended(lease, pack_event(event), status)]))[0]

    async def obey(self, leases: Sequence[Lease]) -> list[str]:
        """Begin jobs and settle every refusal as the sending loop does; return the answers."""
        return await self.settle_refusals(leases, await self.begin(leases))

    async def settle_refusals(self, leases: Sequence[Lease], grants: Sequence[Grant]) -> list[str]:
        """Settle every refusal as the sending loop does; return the answers."""
        moves = [not_begun_move(lease, grant, 0) for lease, grant in zip(leases, grants, strict=True)]
        refused = [move for move in moves if move is not None]
        if refused:
            assert all(await self.consumer.settle(refused))
        return [grant.kind for grant in grants]

    async def give_back(self, lease: Lease) -> bool:
        event = Returned(0, lease.job_id, lease.job.run, lease.attempt, "queued")
        return (await self.consumer.settle([given_back(lease, pack_event(event))]))[0]

    async def late(self, lease: Lease) -> bool:
        event = Sent(0, lease.job_id, lease.job.run, lease.attempt, "m", "250", 1, "", True)
        return (await self.consumer.sent_late([(lease, pack_event(event))]))[0]


def sent_move(lease: Lease) -> Move:
    """The provider accepted it."""
    return sent(lease, pack_event(Sent(0, lease.job_id, lease.job.run, lease.attempt, "m", "250", 1)))


def open_world(url: str, timing: Timing | None = None, max_connections: int = 16) -> World:
    """Connect a world to a server."""
    return World(connect(url, max_connections=max_connections), timing or Timing())


async def eventually(fetch: Callable[[], Awaitable[list[Lease]]], what: str, timeout_s: float = 5.0) -> list[Lease]:
    """Call until there is a result; fail with the description of the wait."""
    found: list[Lease] = []

    async def came() -> bool:
        found.extend(await fetch())
        return bool(found)

    await wait_for(came, timeout_s, what)
    return found
