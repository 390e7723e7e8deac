"""A small world around the queue: blasts, chunks, and a sender whose steps the tests call."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import pytest
from redis.asyncio import Redis

from shared.blasts import SPAN, Blast, partition_of, parts_of
from shared.errors import QueueUnavailableError
from shared.events import (
    Begun,
    Deferred,
    Ended,
    Event,
    EventBatch,
    Retrying,
    Returned,
    Sent,
    Swept,
    SweptRanges,
    pack_event,
)
from shared.jobs import TERMINAL, Attachment, Job, Lane, Recipient, Status, unpack_job
from shared.queue.blasts import BlastStore, ChannelProgress
from shared.queue.connection import connect
from shared.queue.consumer import BeginPolicy, BeginRequest, Consumer
from shared.queue.consumers import Consumers
from shared.queue.control import ChannelStats, Control
from shared.queue.copies import Copies
from shared.queue.event_log import EventLog
from shared.queue.files import FileStore
from shared.queue.keys import PartitionKeys
from shared.queue.leases import Grant, Lease, Move, deferred, ended, given_back, parked, sent
from shared.queue.partitions import Partition, count_partitions, partitions, server_of
from shared.queue.producer import Chunk, Enqueued, Producer
from shared.queue.reaper import Reaper
from shared.queue.scripts import Argument
from shared.queue.timing import Timing
from shared.sending.caches import FileCache
from shared.sending.job_limits import LimitOf
from shared.sending.outcomes import not_begun_move
from shared.templates import Template
from tests.integration.queue.truth import Truth, find_truth
from tests.servers import PATIENCE_S, wait_for

TEMPLATE = Template(id="t", name="T", channels=["email"], subject="s", text="x")
FILES = [Attachment("a.pdf", "application/pdf", b"\xff" * size) for size in (0, 200, 300, 70_000)]
WITH_FILES = Recipient(
    "files@example.com", "Files", {"x": {"y": [1, -70_000, 2.5, None, "z" * 300], "n": 2**40}}, "r", FILES
)
LANES = ("high", "normal", "high:released", "released")
ValueT = TypeVar("ValueT")
KEEP_MS = 3_600_000
LASTING = replace(Timing(), heartbeat_ttl_ms=KEEP_MS)
"""For senders whose heartbeat nothing renews."""
AT_ONCE = replace(Timing(), checks_apart_ms=0, redis_up_ms=0, buffer_idle_ms=KEEP_MS)
"""For reapers that need no second check, and free no buffer of a sender that a busy machine only made slow."""
_numbers = itertools.count(1)
_blast_ids = (f"b{number}" for number in _numbers)


@dataclass
class World:
    """Everything that a test of the queue needs, on one server.

    Its queue is one partition, or all of a connection for several; its blasts then begin in the first, or `spread`.
    """

    redis: Redis
    timing: Timing = field(default_factory=Timing)
    index: int = 0
    spread: bool = False
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
        n = count_partitions(self.redis)
        blast_id = next(one for one in _blast_ids if self.spread or not partition_of(one, 0, n))
        turns = [sum(index // SPAN % n == turn for index in range(count)) for turn in range(n)]
        parts = {"email": parts_of(blast_id, turns)} if n > 1 else {}
        blast = Blast(blast_id, TEMPLATE, ["email"], lane, 0, {"email": count}, count, parts=parts)
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
        if count_partitions(self.redis) == 1:
            return await self.producer.enqueue(Chunk(blast, "email", first, jobs), self.partition)
        done = [await self.producer.enqueue(chunk) for chunk in _chunks(blast, first, jobs)]
        return Enqueued(sum(one.added for one in done), first + count, any(one.cancelled for one in done))

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
        """Start a new sender, whose heartbeat lapses only if a test deletes it: nothing renews it."""
        name, policy = name or f"s{next(_numbers)}", policy or BeginPolicy(concurrency=1000)
        timing = replace(self.timing, heartbeat_ttl_ms=KEEP_MS)
        each = [Consumer(partition, name, timing, policy) for partition in self.partitions]
        consumer = each[0] if len(each) == 1 else Several(each)
        await consumer.heartbeat({"host": "h"}, first=True)
        if len(each) > 1:
            copies = Copies(self.redis, "email", name)
            for partition in self.partitions:
                await copies.correct(partition)
        return HandSender(consumer)

    @property
    def partition(self) -> Partition:
        """The partition of email's queue in this world."""
        return Partition(self.redis, PartitionKeys("email", self.index))

    @property
    def url(self) -> str:
        """The URL of its server."""
        return f"redis://127.0.0.1:{self.redis.connection_pool.connection_kwargs['port']}/0"

    @property
    def partitions(self) -> list[Partition]:
        """The partitions of email's queue in this world: only its own, unless the connection is for several."""
        return [self.partition] if count_partitions(self.redis) == 1 else list(partitions(self.redis, "email"))

    def reaper(self, sender_id: str) -> Reaper:
        """Make a reaper for a sender."""
        return Reaper(self.partition, sender_id, replace(self.timing, buffer_idle_ms=KEEP_MS))

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
        for partition in self.partitions:
            await self._check_indexes(partition.keys, truth)
        return truth

    async def _check_paused(self, truth: Truth, stats: ChannelStats) -> None:
        """Check the number of waiting jobs that pauses of blasts hold; a paused channel reports all that wait."""
        paused: set[str] = set()
        for partition in self.partitions:
            server = await partition.server()
            async for key in server.scan_iter(partition.keys.blast("*"), count=1000):
                if await self.redis.hexists(key, "paused"):
                    paused.add(key.decode().rpartition(":")[2])
        counts = [truth.of_blast(blast_id) for blast_id in paused]
        held = sum(found["queued"] + found["retrying"] for found in counts)
        assert stats.pause_reason or stats.paused == held, (stats, held)

    async def _check_indexes(self, keys: PartitionKeys, truth: Truth) -> None:
        redis: Any = self.redis
        own = f"{keys.tag}:"
        parked = {member.decode() for member in await redis.zrange(keys.key("parked"), 0, -1)}
        assert parked == {one for one in truth.parked if one.startswith(own)}
        later = set(await redis.zrange(keys.key("later"), 0, -1)) | await self._check_limits(keys)
        assert later == set(await redis.hkeys(keys.key("later:jobs")))
        for job_id, place in (await redis.hgetall(keys.key("places"))).items():
            stream, entry_id = place.split(b" ")
            ((_, fields),) = await redis.xrange(stream, entry_id, entry_id)
            assert unpack_job(fields[b"d"]).job_id == job_id.decode(), "a place that its job has left"
        streams = {keys.bulk(name.decode()) for name in await redis.smembers(keys.key("streams"))}
        assert streams == {one for one in truth.bulk_streams if one.startswith(own)}
        ring = {member.decode() for member in await redis.zrange(keys.key("ring"), 0, -1)}
        ring |= {member.decode() for member in await redis.zrange(keys.key("starts"), 0, -1)}
        for stream in {one for one in truth.takeable if one.startswith(own)} - ring:
            blast_id = stream.rpartition(":")[2]
            lane = stream in {keys.lane(name) for name in LANES}
            assert lane or await redis.hexists(keys.blast(blast_id), "paused"), f"{stream} gets no turns"

    async def _check_limits(self, keys: PartitionKeys) -> set[bytes]:
        """Check that the limits with a list, and no others, have a pace and turns; return the jobs of the lists."""
        redis: Any = self.redis
        before = keys.limit_list("")
        server = await server_of(redis, keys.bell)
        lists = {key.decode().removeprefix(before): key async for key in server.scan_iter(f"{before}*", count=1000)}
        heads = {name: (await redis.zrange(key, 0, 0, withscores=True))[0][1] for name, key in lists.items()}
        assert set(lists) == {name.decode() for name in await redis.hkeys(keys.key("limits"))}
        high = {name.decode() for name in await redis.zrange(keys.key("limits:high"), 0, -1)}
        due = {name.decode() for name in await redis.zrange(keys.key("limits:due"), 0, -1)}
        assert high == {name for name, head in heads.items() if head < 1e15}
        assert due == {name for name, head in heads.items() if head >= 1e15}
        return {job_id for key in lists.values() for job_id in await redis.zrange(key, 0, -1)}

    async def make_due(self) -> None:
        """Let the time of every parked retry come now."""
        redis: Any = self.redis
        for partition in self.partitions:
            for member in await redis.zrange(partition.keys.key("parked"), 0, -1):
                await redis.zadd(partition.keys.key("parked"), {member: 1})

    async def wakes(self, action: Callable[[], Awaitable[object]]) -> bool:
        """Return whether an action wakes senders."""
        before = [await self.redis.xrevrange(one.keys.bell, count=1) for one in self.partitions]
        await action()
        return before != [await self.redis.xrevrange(one.keys.bell, count=1) for one in self.partitions]

    async def written(self) -> list[Event]:
        """Read and acknowledge all events of the channel so far, as the logger would."""
        log = EventLog(self.redis)
        # on a cluster a read returns what one node has answered by then
        while (entries := await log.read(1000, 0.0)) or await log.lag():
            for entry in entries:
                assert isinstance(entry.batch, EventBatch)
                self.events.extend(entry.batch.events)
            await log.ack(entries)
        await log.close()
        return self.events


def ends(events: Iterable[Event]) -> Counter[tuple[str, int]]:
    """Count the events that end each run of a job, by job id and run; a late answer has its own."""
    told: Counter[tuple[str, int]] = Counter()
    for event in events:
        if isinstance(event, Swept):
            told.update((job.job_id, job.run) for job in event.jobs)
        elif isinstance(event, SweptRanges):
            told.update((f"{event.blast_id}:{index}:{event.channel}", event.run) for index in event.indexes())
        elif isinstance(event, Ended) or (isinstance(event, Sent) and not event.late):
            told[event.job_id, event.run] += 1
    return told


def begins(events: Iterable[Event]) -> Counter[tuple[str, int, int]]:
    """Count how often each attempt began, by job id, run and attempt."""
    begun = (event for event in events if isinstance(event, Begun))
    return Counter((job_id, event.run, event.attempt) for event in begun for job_id in event.jobs.split(" "))


def no_limit(job: Job) -> None:
    """Limit nothing."""
    del job


class Several(Consumers):
    """A sender's consumers, with those steps that the sending loop takes in each partition by itself."""

    async def settle(self, moves: Sequence[Move]) -> list[bool]:
        """Apply moves, each in the partition of its job."""
        done: dict[int, bool] = {}
        for place, consumer in enumerate(self.each):
            mine = [number for number, move in enumerate(moves) if self.place_of(move.lease) == place]
            if mine:
                done |= zip(mine, await consumer.settle([moves[number] for number in mine]), strict=True)
        return [done[number] for number in range(len(moves))]

    async def sent_late(self, accepted: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """Report messages accepted after their leases were lost."""
        return [(await self.each[self.place_of(one[0])].sent_late([one]))[0] for one in accepted]

    async def heartbeat(self, said: dict[str, object], *, first: bool = False) -> bool:
        """Renew the heartbeat in every partition; return False if it had lapsed in any."""
        return all([await one.heartbeat(said, first=first) for one in self.each])


@dataclass
class HandSender:
    """A sender whose steps the tests call."""

    consumer: Consumer | Several
    limit_of: LimitOf = no_limit

    @property
    def name(self) -> str:
        return self.consumer.sender_id

    @property
    def consumers(self) -> Sequence[Consumer]:
        """Its consumers, one for each partition."""
        return self.consumer.each if isinstance(self.consumer, Several) else [self.consumer]

    async def fetch(self, want: int = 10) -> list[Lease]:
        if not isinstance(self.consumer, Several):
            return (await self.consumer.fetch(want)).leases
        leases: list[Lease] = []
        while len(leases) < want:
            for place in range(len(self.consumer.each)):
                self.consumer.wake(place)
            some = (await self.consumer.fetch(want - len(leases))).leases
            leases += some
            if not some:
                break
        return leases

    async def begin(self, leases: Sequence[Lease]) -> list[Grant]:
        """Begin jobs, partition by partition: of two that must be sent alone, one is begun."""
        if not isinstance(self.consumer, Several):
            return await self.consumer.begin([self._request(lease) for lease in leases], 0)
        grants: dict[str, Grant] = {}
        for place in range(len(self.consumer.each)):
            some = [lease for lease in leases if self.consumer.place_of(lease) == place]
            answers = await self.consumer.begin([self._request(lease) for lease in some], 0)
            grants |= {lease.job_id: grant for lease, grant in zip(some, answers, strict=True)}
        return [grants[lease.job_id] for lease in leases]

    def _request(self, lease: Lease) -> BeginRequest:
        limit = self.limit_of(lease.job)
        if limit is None:
            return BeginRequest(lease)
        return BeginRequest(lease, limit=limit.name, limit_gap_us=limit.gap_us, limit_burst=limit.burst)

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


def lose_answer(consumer: Consumer, *, made: bool = True) -> list[Sequence[Argument]]:
    """Lose the answer of the next call, which is `made` or is delayed on its way; return what its arguments were."""
    call = consumer._call
    lost: list[Sequence[Argument]] = []

    async def lossy(name: str, args: Sequence[Argument]) -> object:
        consumer._call = call  # type: ignore[method-assign]
        lost.append(args)
        if made:
            await call(name, args)
        raise QueueUnavailableError("the connection was lost")

    consumer._call = lossy  # type: ignore[method-assign]
    return lost


def open_world(url: str, timing: Timing | None = None, partitions: int = 1, max_connections: int = 16) -> World:
    """Connect a world to a server, which may stand still on a busy machine."""
    redis = connect(url, max_connections=max_connections, socket_timeout_s=2 * PATIENCE_S, partitions=partitions)
    return World(redis, timing or Timing())


def _chunks(blast: Blast, first: int, jobs: Sequence[Job]) -> list[Chunk]:
    """Return the jobs from `first` on as chunks, one for each partition, with their positions there."""
    by_partition: dict[int, list[Job]] = {}
    for job in jobs:
        by_partition.setdefault(blast.partition_of("email", job.index), []).append(job)
    return [
        Chunk(blast, "email", sum(blast.partition_of("email", index) == one for index in range(first)), some)
        for one, some in by_partition.items()
    ]


async def eventually(
    fetch: Callable[[], Awaitable[list[Lease]]], what: str, timeout_s: float = PATIENCE_S
) -> list[Lease]:
    """Call until there is a result; fail with the description of the wait."""
    found: list[Lease] = []

    async def came() -> bool:
        found.extend(await fetch())
        return bool(found)

    await wait_for(came, timeout_s, what)
    return found


async def in_time(world: World, scene: Callable[[int], Awaitable[ValueT]]) -> tuple[int, ValueT]:
    """Play a scene before a time to come, of which it is told, in ms; return both.

    If the time came meanwhile, the machine stood still, and what failed says nothing: the scene is played again on an
    empty server, before a later time.
    """
    for lead_ms in (1500, 6000, 24_000):
        at_ms = now_ms() + lead_ms
        try:
            return at_ms, await scene(at_ms)
        except (AssertionError, ValueError):
            if now_ms() < at_ms:
                raise
        await world.redis.flushdb()
    pytest.fail("the machine stood still again and again")


def now_ms() -> int:
    return time.time_ns() // 1_000_000
