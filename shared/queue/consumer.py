"""Fetch, begin and settle for one sender: each is a script that is safe to repeat.

A sender makes one call per step at a time. If a reply is lost, it repeats the same call, and the script returns the
same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import msgspec
import orjson
from msgspec import structs

from shared.addresses import identity
from shared.errors import QueueUnavailableError
from shared.events import Ended, EventBatch, SystemEvent, pack_batch, pack_event
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.event_log import most_event_bytes
from shared.queue.fetched import Fetched, Undecodable, read_fetched, read_leases, text_of
from shared.queue.leases import GRANTED, Grant, HeldEntry, Lease, Move, parse_grant
from shared.queue.partitions import Partition
from shared.queue.scripts import Argument
from shared.queue.timing import Timing

Fields = tuple[Argument, ...]
POISON_AFTER = 3
IN_PLACE_OF_GONE, IN_PLACE_OF_FROZEN = 0, -1
STREAMS_A_PAGE = 64
SNAPSHOTS_BYTES = 64 * 1024  # calls wait behind the answers of others
_LOADED_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class BeginPolicy:
    """The settings that a begin depends on.

    `gap_us` is the time between two starts in µs (0: no limit), of which a period allows `starts`, unless the rate was
    changed at run time. `on_uncertain` is `resend`, `hold`, or `repeat`, which ends no job for its lost answers;
    `concurrency` is the most jobs in flight.
    """

    gap_us: int = 0
    starts: int = 1
    on_uncertain: str = "resend"
    concurrency: int = 5


class BeginRequest(msgspec.Struct, frozen=True):
    """A job to begin, and the limit of its domain or recipient, if any.

    The limit's name contains no white space. `limit_gap_us` is the time between two starts; `limit_burst` starts may
    come together after a rest, and `limit_starts` in a period. The start may come `late_ms` later than the gap allows.
    `granted` is the answer of the limits that several partitions share, "" if these were not asked.
    """

    lease: Lease
    exhausted: bool = False
    limit: str = ""
    limit_gap_us: int = 0
    limit_burst: int = 1
    limit_starts: int = 1
    late_ms: int = 0
    granted: str = ""

    @property
    def packed_limit(self) -> str:
        """The limit in the form that the scripts read, "" for none."""
        if not self.limit:
            return ""
        late_us, lane = self.late_ms * 1000, self.lease.job.lane[0]
        return f"{self.limit} {self.limit_gap_us} {self.limit_burst} {self.limit_starts} {late_us} {lane}"


@dataclass(frozen=True, slots=True)
class Taking:
    """A call that fetches jobs and begins them; see `Consumer.begin` for what it is told.

    It is made at `asked_at` on the monotonic clock, and at `now_ms` since the epoch.
    """

    want: int
    in_flight: int
    late_ms: int
    asked_at: float
    now_ms: int


class Consumer:
    """One sender's side of a partition of the queue."""

    def __init__(self, partition: Partition, sender_id: str, timing: Timing, policy: BeginPolicy) -> None:
        self.partition = partition
        self.sender_id = sender_id
        self.timing = timing
        self._policy = policy
        self._no_limit = ""
        self._event_bytes = most_event_bytes(0)
        self._grants = partition.numbered(sender_id, "grant")
        self._begins = partition.numbered(sender_id, "begin")
        self._settles = partition.numbered(sender_id, "settle")
        self._lates = partition.numbered(sender_id, "late")
        self._discards = partition.numbered(sender_id, "discard")
        self._reports = partition.numbered(sender_id, "tell")
        self._takes = partition.numbered(sender_id, "take")
        self._taking: tuple[Taking, tuple[Argument, ...]] | None = None
        # what `take` gives the snapshots to that come with its jobs; None on a cluster, where they cannot
        self.keep_snapshot: Callable[[str, bytes], None] | None = None

    def share_limits(self) -> None:
        """Note that there are other partitions: then limits are elsewhere, and `begin` asks none itself."""
        self._no_limit = "?"

    @property
    def has_rate(self) -> bool:
        """Whether the sender's own setting limits the channel."""
        return self._policy.gap_us > 0

    async def _call(self, name: str, args: Sequence[Argument]) -> object:
        return await self.partition.call(name, args)

    async def _insist(self, name: str, args: Sequence[Argument], partition: Partition | None = None) -> object:
        """Repeat a call until Redis answers it: no outcome may be lost because Redis is away."""
        pause_s = 0.05
        while True:
            try:
                return await (partition or self.partition).call(name, args)
            except QueueUnavailableError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)

    async def fetch(self, want: int) -> Fetched:
        """Take up to `want` jobs into this sender's buffer.

        Raises QueueUnavailableError; `list_held("buf")` then lists the jobs that were taken.
        """
        return read_fetched(await self._call("fetch", self._fetch_args(want)))

    def _fetch_args(self, want: int) -> tuple[Argument, ...]:
        return (self.sender_id, want, self._event_bytes, self.timing.grant_ahead_ms * 1000)

    @property
    def unanswered(self) -> Taking | None:
        """The call of `take` that is under way, or whose answer was lost."""
        return self._taking[0] if self._taking else None

    async def take(self, taking: Taking) -> Fetched:
        """Take jobs into this sender's buffer as `fetch` does, and begin them in the same step if all are new.

        Jobs that have a limit of their own may not be taken so. Raises QueueUnavailableError; `taken` then has the
        answer, and must have been called before any other call.
        """
        number, head = self._takes.next()
        begins = self._begin_args(number, head, taking.in_flight, taking.late_ms, taking.now_ms)
        room = SNAPSHOTS_BYTES if self.keep_snapshot else 0
        args = (*self._fetch_args(taking.want), *begins, room)
        self._taking = (taking, args)
        return await self._taken((*args, 0))

    async def taken(self) -> Fetched:
        """Return the answer of a `take` that was lost. A copy of the call that is still on its way then does nothing.

        Raises QueueUnavailableError.
        """
        return await self._taken((*self._taking[1], 1)) if self._taking else Fetched([], [], "", 0.0)

    async def _taken(self, args: tuple[Argument, ...]) -> Fetched:
        fetched = read_fetched(await self._call("fetch", args))
        self._taking = None
        if self.keep_snapshot is not None:
            for blast_id, packed in fetched.snapshots.items():
                self.keep_snapshot(blast_id, packed)
        return fetched

    def fit_events(self, maxmemory: int) -> None:
        """Limit the events that wait for the logger by the memory of Redis; a fetch takes nothing at that limit."""
        self._event_bytes = most_event_bytes(maxmemory)

    async def list_held(self, kind: str) -> list[HeldEntry]:
        """List what this sender holds, `buf` or `tx`; raises QueueUnavailableError."""
        held: list[HeldEntry] = []
        cursor = "0"
        while True:
            reply: Any = await self._call("list_held", (self.sender_id, kind, 10_000, cursor, STREAMS_A_PAGE))
            cursor, fields = text_of(reply[0]), iter(reply[1:])
            held += [
                HeldEntry(text_of(stream), text_of(entry_id), int(text_of(deliveries)))
                for stream, entry_id, deliveries in zip(fields, fields, fields, strict=True)
            ]
            if cursor == "0":
                return held

    async def load(self, entries: Sequence[HeldEntry]) -> list[Lease]:
        """Read the jobs of entries that this sender holds; skip entries that are gone or are not jobs.

        Raises QueueUnavailableError.
        """
        flat: list[object] = []
        for first in range(0, len(entries), _LOADED_AT_ONCE):
            some = entries[first : first + _LOADED_AT_ONCE]
            with translated("load entries"):
                async with self.partition.redis.pipeline(transaction=False) as pipe:
                    for entry in some:
                        pipe.xrange(entry.stream, entry.entry_id, entry.entry_id)
                    found: list[Any] = await pipe.execute()
            for entry, rows in zip(some, found, strict=True):
                for _, fields in rows:
                    flat += (entry.stream, entry.entry_id, entry.deliveries, fields[b"d"])
        return read_leases(flat)[0]

    async def begin(
        self, requests: Sequence[BeginRequest], now_ms: int, in_flight: int = 0, late_ms: int = 0
    ) -> list[Grant]:
        """Ask to begin jobs while `in_flight` others are in flight; repeat the call until Redis answers.

        The attempts begin at `now_ms` on the sender's clock. Under the channel's limit, a start may come `late_ms`
        later than the gap allows.
        """
        if not requests:
            return []
        args = self._begin_args(*self._begins.next(), in_flight, late_ms, now_ms)
        args += in_runs(map(self._begin_fields, requests))
        words = text_of(await self._insist("begin", args)).split(",")
        return [
            GRANTED.get(word) or parse_grant(word, request.packed_limit)
            for word, request in zip(words, requests, strict=True)
        ]

    def _begin_fields(self, request: BeginRequest) -> tuple[Fields, Fields]:
        lease, job = request.lease, request.lease.job
        limit = request.packed_limit if request.limit else self._no_limit
        if request.granted:
            limit = f"={request.granted} {request.packed_limit}"
        waits = f"{'x' if request.exhausted else lease.waits_as}{lease.deliveries}"
        address = ("m" if job.marketing else "t") + identity(job.recipient.address)
        shared = (lease.stream, job.blast_id, job.run, job.expires_at_ms, waits, limit, lease.attempt)
        return shared, (lease.entry_id, lease.job_id, address)

    def _begin_args(self, number: int, head: bytes, in_flight: int, late_ms: int, now_ms: int) -> list[Argument]:
        policy = self._policy
        return [
            self.sender_id,
            number,
            head,
            policy.gap_us,
            self.timing.grant_ahead_ms * 1000,
            policy.on_uncertain,
            POISON_AFTER,
            policy.concurrency,
            in_flight,
            policy.starts,
            late_ms * 1000,
            now_ms,
        ]

    async def grant(self, limits: Partition, requests: Sequence[BeginRequest], late_ms: int = 0) -> list[BeginRequest]:
        """Ask the limits that partitions share for the starts of jobs of any of them; return the requests with these.

        Begin them at once: a start that is not used lapses. Repeat the call until Redis answers.
        """
        number, _ = self._grants.next()
        policy, timing = self._policy, self.timing
        args: list[Argument] = [self.sender_id, number, policy.gap_us, timing.grant_ahead_ms * 1000, policy.starts]
        args += [late_ms * 1000, *(request.packed_limit for request in requests)]
        words = text_of(await self._insist("grant", args, limits)).split(",")
        return [structs.replace(request, granted=word) for request, word in zip(requests, words, strict=True)]

    async def settle(self, moves: Sequence[Move]) -> list[bool]:
        """Apply moves; return False for each whose lease had been lost. Repeat the call until Redis answers."""
        number, head = self._settles.next()
        return _marks(await self._insist("settle", self._settle_args(number, head, moves)))

    async def settle_in_place(self, moves: Sequence[Move], heads: Numbered, *, frozen: bool) -> list[bool]:
        """Apply moves in place of this sender, which is gone, or `frozen`: then none while it has its lease.

        `heads` are those of the caller. The call is not remembered under the sender's name, because a sender that
        thaws calls with its own numbers. Returns False for each job that the sender does not hold; raises
        QueueUnavailableError.
        """
        _, head = heads.next()
        number = IN_PLACE_OF_FROZEN if frozen else IN_PLACE_OF_GONE
        return _marks(await self._call("settle", self._settle_args(number, head, moves)))

    def _settle_args(self, number: int, head: bytes, moves: Sequence[Move]) -> list[Argument]:
        args: list[Argument] = [self.sender_id, number, head, self.timing.park_ms, self.timing.keep_ended_ms]
        return args + in_runs(map(_settle_fields, moves))

    async def sent_late(self, accepted: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """Report messages accepted after their leases were lost, each with its packed late `sent` event."""
        number, head = self._lates.next()
        args: list[Argument] = [self.sender_id, number, head, self.timing.keep_ended_ms]
        for lease, event in accepted:
            args += (lease.stream, lease.entry_id, lease.job_id, lease.job.run, lease.waited_as, event)
        return _marks(await self._insist("ack_late", args))

    async def heartbeat(self, said: dict[str, object], *, first: bool = False) -> bool:
        """Renew the heartbeat and publish the sender's state; return False if the heartbeat had lapsed.

        The state includes that this sender reads jobs whose files are stored separately.
        """
        packed = orjson.dumps(said | {"files": "apart"})
        args = (self.sender_id, self.timing.heartbeat_ttl_ms, packed, "1" if first else "0")
        return bool(await self._call("heartbeat", args))

    async def leave(self) -> int:
        """Remove this sender's consumers and heartbeat; return in how many streams it still holds something."""
        cursor, left = "0", 0
        while True:
            reply: Any = await self._call("leave", (self.sender_id, cursor, STREAMS_A_PAGE, left))
            cursor, left = text_of(reply[0]), int(reply[1])
            if cursor == "0":
                return left

    async def discard(self, entry: Undecodable, now_ms: int) -> None:
        """End an entry that is not a job as `failed`, class `undecodable`; the event keeps its bytes."""
        words = "the queue entry is not a job"
        event = b""
        if entry.job_id:
            gone = Ended(now_ms, entry.job_id, 1, 0, "failed", "undecodable", "", words, 0, entry.error.raw)
            event = pack_event(gone)
        _, head = self._discards.next()
        if entry.begun:
            # not remembered: the settler has its own numbers, and may have a call under way
            call = (self.sender_id, IN_PLACE_OF_GONE, head, self.timing.park_ms, self.timing.keep_ended_ms)
            blast = entry.job_id.partition(":")[0]
            move = ("ended", entry.stream, blast, 1, "failed q 0", b"", 1, 1, entry.entry_id, entry.job_id, event)
            await self._insist("settle", (*call, *move))
        else:
            args = (head, self.timing.keep_ended_ms, "failed", entry.stream, entry.entry_id, entry.job_id, "q", event)
            await self._insist("sweep", args)
        place = {"stream": entry.stream, "entry_id": entry.entry_id, "job_id": entry.job_id}
        report = SystemEvent(now_ms, "error", words, f"{self.partition.channel}_sender", place)
        number, _ = self._reports.next()
        batch = EventBatch(self._reports.producer, number, [report])
        await self._insist("emit_event", (pack_batch(batch),))


class WakeUps:
    """Waits for work by XREAD on a partition's stream of wake-ups (`C:bell`), on a connection of its own.

    It never uses XREADGROUP BLOCK: a task cancelled there leaves entries that were delivered and that no task holds.
    """

    def __init__(self, partition: Partition) -> None:
        self._redis = partition.redis
        self._key = partition.keys.bell
        self._seen = "0-0"

    async def wait(self, block_ms: int) -> bool:
        """Wait for a wake-up after the last one seen, at most `block_ms`; return whether one came."""
        with translated("wake-ups"):
            answer: Any = await self._redis.xread({self._key: self._seen}, count=1, block=max(block_ms, 1))
        if not answer:
            return False
        self._seen = text_of(answer[0][1][0][0])
        return True


def _settle_fields(move: Move) -> tuple[Fields, Fields]:
    lease = move.lease
    shared = (move.kind, lease.stream, lease.job.blast_id, lease.job.run, move.value, move.packed, lease.deliveries)
    return shared, (lease.entry_id, lease.job_id, move.event)


def in_runs(jobs: Iterable[tuple[Fields, Fields]]) -> list[Argument]:
    """Return the fields of jobs for a script: those that successive jobs share once, with the number of these jobs.

    Each job comes as the fields that it may share, and those of its own.
    """
    args: list[Argument] = []
    for shared, run in groupby(jobs, itemgetter(0)):
        own = [fields for _, fields in run]
        args += (*shared, len(own), *chain.from_iterable(own))
    return args


def _marks(answer: object) -> list[bool]:
    return [mark == "1" for mark in text_of(answer)]
