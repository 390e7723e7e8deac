"""Fetch, begin and settle for one sender: each is a script that is safe to repeat.

A sender makes one call per step at a time. If a reply is lost, it repeats the same call, and the script returns the
same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from shared.addresses import identity
from shared.errors import DecodeError, QueueUnavailableError
from shared.events import Ended, EventBatch, SystemEvent, pack_batch, pack_event
from shared.jobs import legible_job_id, unpack_job
from shared.queue.connection import translated
from shared.queue.event_log import most_event_bytes
from shared.queue.leases import GRANTED, Grant, HeldEntry, Lease, Move, parse_grant
from shared.queue.partitions import Partition
from shared.queue.scripts import Argument
from shared.queue.timing import Timing

POISON_AFTER = 3
STREAMS_A_PAGE = 64
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
    """A job to begin: its packed `processing` event, and the limit of its domain or recipient, if any.

    The limit's name contains no white space. `limit_gap_us` is the time between two starts; `limit_burst` starts may
    come together after a rest, and `limit_starts` in a period. The start may come `late_ms` later than the gap allows.
    """

    lease: Lease
    event: bytes
    exhausted: bool = False
    limit: str = ""
    limit_gap_us: int = 0
    limit_burst: int = 1
    limit_starts: int = 1
    late_ms: int = 0

    @property
    def packed_limit(self) -> str:
        """The limit in the form that the scripts read, "" for none."""
        if not self.limit:
            return ""
        late_us, lane = self.late_ms * 1000, self.lease.job.lane[0]
        return f"{self.limit} {self.limit_gap_us} {self.limit_burst} {self.limit_starts} {late_us} {lane}"


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An entry that is not a job: its bytes are kept whole, and its sender ends it; `job_id` is "" if unreadable."""

    stream: str
    entry_id: str
    error: DecodeError
    job_id: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a fetch: leases, the reason of the channel's pause, and the time until something is due, if any.

    `log_behind`: nothing was taken, because the events that wait for the logger have reached their limit.
    """

    leases: list[Lease]
    undecodable: list[Undecodable]
    paused: str
    due_in_s: float | None
    log_behind: bool = False


class Consumer:
    """One sender's side of a partition of the queue."""

    def __init__(self, partition: Partition, sender_id: str, timing: Timing, policy: BeginPolicy) -> None:
        self.partition = partition
        self.sender_id = sender_id
        self.timing = timing
        self._policy = policy
        self._event_bytes = most_event_bytes(0)
        self._begins = partition.numbered(sender_id, "begin")
        self._settles = partition.numbered(sender_id, "settle")
        self._lates = partition.numbered(sender_id, "late")
        self._discards = partition.numbered(sender_id, "discard")
        self._reports = partition.numbered(sender_id, "tell")

    async def _call(self, name: str, args: Sequence[Argument]) -> object:
        return await self.partition.call(name, args)

    async def _insist(self, name: str, args: Sequence[Argument]) -> object:
        """Repeat a call until Redis answers it: no outcome may be lost because Redis is away."""
        pause_s = 0.05
        while True:
            try:
                return await self._call(name, args)
            except QueueUnavailableError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)

    async def fetch(self, want: int) -> Fetched:
        """Take up to `want` jobs into this sender's buffer.

        Raises QueueUnavailableError; `list_held("buf")` then lists the jobs that were taken.
        """
        ahead_us = self.timing.grant_ahead_ms * 1000
        reply = await self._call("fetch", (self.sender_id, want, self._event_bytes, ahead_us))
        assert isinstance(reply, list)  # noqa: S101 -- narrows the script's answer for the type checker
        leases, undecodable = _leases(reply[3:])
        due_in_s = reply[1] / 1000 if reply[1] >= 0 else None
        return Fetched(leases, undecodable, _text(reply[0]), due_in_s, log_behind=reply[2] == b"1")

    def fit_events(self, maxmemory: int) -> None:
        """Limit the events that wait for the logger by the memory of Redis; a fetch takes nothing at that limit."""
        self._event_bytes = most_event_bytes(maxmemory)

    async def list_held(self, kind: str) -> list[HeldEntry]:
        """List what this sender holds, `buf` or `tx`; raises QueueUnavailableError."""
        held: list[HeldEntry] = []
        cursor = "0"
        while True:
            reply: Any = await self._call("list_held", (self.sender_id, kind, 10_000, cursor, STREAMS_A_PAGE))
            cursor, fields = _text(reply[0]), iter(reply[1:])
            held += [
                HeldEntry(_text(stream), _text(entry_id), int(_text(deliveries)))
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
        return _leases(flat)[0]

    async def begin(self, requests: Sequence[BeginRequest], in_flight: int = 0, late_ms: int = 0) -> list[Grant]:
        """Ask to begin jobs while `in_flight` others are in flight; repeat the call until Redis answers.

        Under the channel's limit, a start may come `late_ms` later than the gap allows.
        """
        if not requests:
            return []
        number, head = self._begins.next()
        policy, timing = self._policy, self.timing
        args: list[Argument] = [
            self.sender_id,
            number,
            head,
            policy.gap_us,
            timing.grant_ahead_ms * 1000,
            policy.on_uncertain,
            POISON_AFTER,
            policy.concurrency,
            in_flight,
            policy.starts,
            late_ms * 1000,
        ]
        for request in requests:
            lease, job = request.lease, request.lease.job
            args += (
                lease.stream,
                lease.entry_id,
                lease.job_id,
                job.run,
                job.expires_at_ms,
                ("m" if job.marketing else "t") + identity(job.recipient.address),
                f"{'x' if request.exhausted else lease.waits_as}{lease.deliveries}",
                request.packed_limit,
                request.event,
            )
        words = _text(await self._insist("begin", args)).split(",")
        return [
            GRANTED.get(word) or parse_grant(word, request.packed_limit)
            for word, request in zip(words, requests, strict=True)
        ]

    async def settle(self, moves: Sequence[Move]) -> list[bool]:
        """Apply moves; return False for each whose lease had been lost. Repeat the call until Redis answers."""
        number, head = self._settles.next()
        args: list[Argument] = [self.sender_id, number, head, self.timing.park_ms, self.timing.keep_ended_ms]
        for move in moves:
            lease = move.lease
            args += (
                move.kind,
                lease.stream,
                lease.entry_id,
                lease.job_id,
                lease.job.run,
                move.event,
                move.value,
                move.packed,
                lease.deliveries,
            )
        return [mark == "1" for mark in _text(await self._insist("settle", args))]

    async def sent_late(self, accepted: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """Report messages accepted after their leases were lost, each with its packed late `sent` event."""
        number, head = self._lates.next()
        args: list[Argument] = [self.sender_id, number, head, self.timing.keep_ended_ms]
        for lease, event in accepted:
            args += (lease.stream, lease.entry_id, lease.job_id, lease.job.run, lease.waited_as, event)
        return [mark == "1" for mark in _text(await self._insist("ack_late", args))]

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
            cursor, left = _text(reply[0]), int(reply[1])
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
        self._seen = _text(answer[0][1][0][0])
        return True


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _leases(flat: list[object]) -> tuple[list[Lease], list[Undecodable]]:
    leases: list[Lease] = []
    undecodable: list[Undecodable] = []
    fields = iter(flat)
    for stream, entry_id, deliveries, raw in zip(fields, fields, fields, fields, strict=True):
        assert isinstance(raw, bytes)  # noqa: S101 -- narrows the script's answer for the type checker
        try:
            job = unpack_job(raw)
        except DecodeError as error:
            undecodable.append(Undecodable(_text(stream), _text(entry_id), error, legible_job_id(raw)))
            continue
        count = deliveries if isinstance(deliveries, int) else int(_text(deliveries))
        leases.append(Lease(_text(stream), _text(entry_id), count, job))
    return leases, undecodable
