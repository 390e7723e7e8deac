"""Blasts in Redis: the immutable snapshot that senders render from, and the progress of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from shared.blasts import Blast, BlastState, pack_blast, unpack_blast
from shared.clock import Clock, SystemClock
from shared.events import BlastAccepted, EventBatch, pack_batch
from shared.jobs import TERMINAL
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.keys import GATEWAY_EVENTS, blast_key
from shared.queue.partitions import partitions
from shared.queue.timing import UNSCALED, Timing


@dataclass(frozen=True, slots=True)
class ChannelProgress:
    """The progress of a blast on one channel; `counts` has all nine statuses and adds up to `enqueued`.

    `limited` of its jobs wait for the limits of their domains or recipients.
    """

    total: int
    enqueued: int
    counts: dict[str, int]
    paused: str
    cancelled: bool
    incomplete: bool
    scheduled_at_ms: int
    moved_at_ms: int
    ended_at_ms: int
    limited: int


@dataclass(frozen=True, slots=True)
class BlastProgress:
    """The progress of a blast, live from Redis."""

    blast_id: str
    state: BlastState
    channels: dict[str, ChannelProgress]
    last_progress_at_ms: int


def state_of(channels: Mapping[str, ChannelProgress]) -> BlastState:
    """Return the state of a blast from its channels' progress."""
    every = list(channels.values())
    if all(one.ended_at_ms for one in every):
        return _ended_state(every)
    if any(one.cancelled for one in every):
        return "cancelled"
    if any(one.paused for one in every):
        return "paused"
    if any(one.enqueued < one.total for one in every):
        return "enqueueing"
    if any(one.counts["scheduled"] for one in every):
        return "scheduled"
    return "running"


def _ended_state(every: list[ChannelProgress]) -> BlastState:
    if any(one.cancelled for one in every):
        return "cancelled"
    if any(one.incomplete for one in every):
        return "incomplete"
    unsent = sum(one.counts["failed"] + one.counts["expired"] + one.counts["suppressed"] for one in every)
    return "completed_with_failures" if unsent else "completed"


def _number(fields: Mapping[bytes, bytes], name: str) -> int:
    return int(fields.get(name.encode(), b"0"))


def _progress(fields: Mapping[bytes, bytes], total: int) -> ChannelProgress:
    enqueued = _number(fields, "enqueued")
    names: tuple[str, ...] = (*TERMINAL, "scheduled", "processing", "retrying")
    counts = {name: _number(fields, name) for name in names}
    counts["queued"] = enqueued - sum(counts.values())
    return ChannelProgress(
        total=_number(fields, "total") if b"total" in fields else total,
        enqueued=enqueued,
        counts=counts,
        paused=fields.get(b"paused", b"").decode(),
        cancelled=b"cancelled_at" in fields,
        incomplete=b"incomplete_at" in fields,
        scheduled_at_ms=_number(fields, "scheduled_at"),
        moved_at_ms=_number(fields, "moved_at"),
        ended_at_ms=_number(fields, "ended_at"),
        limited=_number(fields, "limited"),
    )


class BlastStore:
    """Keeps snapshots in `blast:<id>` and reads progress from each channel's `blast:<id>`."""

    def __init__(self, redis: Redis, name: str, timing: Timing = UNSCALED, clock: Clock | None = None) -> None:
        self._redis = redis
        self._timing = timing
        self._clock = clock or SystemClock()
        self._accepted = Numbered(name, "blasts")
        self._cancels = Numbered(name, "incomplete")

    async def create(self, blast: Blast) -> bool:
        """Store a snapshot and report it to the logger; return False if it existed. Safe to repeat.

        Each channel's hash is created too, so that an accepted blast can be paused before its first chunk.
        """
        snapshot = pack_blast(blast)
        with translated("create blast"):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hsetnx(blast_key(blast.blast_id), "snapshot", snapshot)
                for channel, total in blast.totals.items():
                    key = self._key(channel, blast.blast_id)
                    pipe.hsetnx(key, "total", total)
                    pipe.hsetnx(key, "moved_at", self._clock.now_ms())
                number, _ = self._accepted.next()
                event = BlastAccepted(self._clock.now_ms(), blast.blast_id, snapshot)
                batch = EventBatch(self._accepted.producer, number, [event])
                pipe.xadd(GATEWAY_EVENTS, {"d": pack_batch(batch)})
                created = (await pipe.execute())[0]
        return bool(created)

    async def restore(self, blast: Blast, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Restore an expired blast from its final counts by channel, so that its dead letters can be sent again."""
        with translated("restore blast"):
            await self._redis.hsetnx(blast_key(blast.blast_id), "snapshot", pack_blast(blast))
            await self._redis.persist(blast_key(blast.blast_id))
            for channel, ended in counts.items():
                key = self._key(channel, blast.blast_id)
                if await self._redis.exists(key):
                    continue
                total = sum(ended.get(name, 0) for name in TERMINAL)
                fields: dict[Any, Any] = {"total": total, "enqueued": total, "wm:jobs": total}
                fields |= {name: ended.get(name, 0) for name in TERMINAL}
                await self._redis.hset(key, mapping=fields)

    async def expire(self, blast_id: str, after_ms: int) -> None:
        """Let the snapshot of an ended blast expire after `after_ms`."""
        with translated("expire blast"):
            await self._redis.pexpire(blast_key(blast_id), after_ms)

    async def load(self, blast_id: str) -> Blast | None:
        """Return a blast's snapshot, None if it is unknown or has expired."""
        with translated("load blast"):
            raw: Any = await self._redis.hget(blast_key(blast_id), "snapshot")
        return unpack_blast(raw) if raw is not None else None

    async def watermark(self, blast_id: str, channel: str, series: str = "jobs") -> int:
        """Return how many jobs of this series have been enqueued on a channel."""
        with translated("watermark"):
            value = await self._redis.hget(self._key(channel, blast_id), f"wm:{series}")
        return int(value or 0)

    async def progress(self, blast_id: str, blast: Blast | None = None) -> BlastProgress | None:
        """Return the progress of a blast, None if it is unknown or has expired."""
        blast = blast or await self.load(blast_id)
        if blast is None:
            return None
        with translated("progress"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for channel in blast.totals:
                    pipe.hgetall(self._key(channel, blast_id))
                rows = await pipe.execute()
        channels = {
            channel: _progress(fields, total)
            for (channel, total), fields in zip(blast.totals.items(), rows, strict=True)
        }
        last = max((one.moved_at_ms for one in channels.values()), default=0)
        return BlastProgress(blast_id, state_of(channels), channels, last)

    async def truncate(self, blast_id: str) -> None:
        """End a blast whose client disappeared, and report it: its total becomes the number of enqueued jobs."""
        blast = await self.load(blast_id)
        for channel in blast.totals if blast else ():
            for partition in partitions(self._redis, channel):
                _, head = self._cancels.next()
                args = (blast_id, head, self._timing.keep_ended_ms, "incomplete_at")
                await partition.call("cancel_blast", args)

    def _key(self, channel: str, blast_id: str) -> str:
        (partition,) = partitions(self._redis, channel)
        return partition.keys.blast(blast_id)
