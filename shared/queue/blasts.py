"""Blasts in Redis: the immutable snapshot that senders render from, and the progress of each channel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from shared.blasts import Blast, BlastState, pack_blast, unpack_blast
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError
from shared.events import BlastAccepted, EventBatch, pack_batch
from shared.jobs import TERMINAL
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.keys import GATEWAY_EVENTS, PartitionKeys, blast_key
from shared.queue.partitions import Partition, in_each, partitions_of, replicas_of
from shared.queue.timing import UNSCALED, Timing

CONFIRMED_WITHIN_MS = 2000


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


def _together(shares: Sequence[ChannelProgress]) -> ChannelProgress:
    """Sum the progress of a channel's partitions: it has ended when they all have."""
    if len(shares) == 1:
        return shares[0]
    return ChannelProgress(
        total=sum(one.total for one in shares),
        enqueued=sum(one.enqueued for one in shares),
        counts={name: sum(one.counts[name] for one in shares) for name in shares[0].counts},
        paused=next((one.paused for one in shares if one.paused), ""),
        cancelled=any(one.cancelled for one in shares),
        incomplete=any(one.incomplete for one in shares),
        scheduled_at_ms=max(one.scheduled_at_ms for one in shares),
        moved_at_ms=max(one.moved_at_ms for one in shares),
        ended_at_ms=max(one.ended_at_ms for one in shares) if all(one.ended_at_ms for one in shares) else 0,
        limited=sum(one.limited for one in shares),
    )


async def is_confirmed(redis: Redis, key: str, field: str, least: int = 0) -> bool:
    """Return whether as many replicas as are required have a field of a hash; False if its server lacks it.

    WAIT answers for the last write of its own connection, and Valkey does not count reads. So a write without effect
    goes between: replicas that have it have all that was read before it. Raises QueueUnavailableError if they do not
    have it in time.
    """
    replicas = replicas_of(redis)
    with translated("confirm blast"):
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hget(key, field)
            pipe.set(_beside(key), b"", px=1)
            pipe.execute_command("WAIT", replicas, CONFIRMED_WITHIN_MS)
            value, _, having = await pipe.execute()
    if value is None or (least and int(value) < least):
        return False
    if having < replicas:
        raise QueueUnavailableError(f"{having} of {replicas} replicas have the blast")
    return True


def _beside(key: str) -> str:
    """Return a key in the same slot, and under the same right of Redis's user."""
    return f"{key.partition('}')[0]}}}:confirm" if "{" in key else f"{key.partition(':')[0]}:{{{key}}}"


class BlastStore:
    """Keeps snapshots in `blast:<id>` and reads progress from the `C:blast:<id>` of each of a blast's partitions."""

    def __init__(self, redis: Redis, name: str, timing: Timing = UNSCALED, clock: Clock | None = None) -> None:
        self._redis = redis
        self._timing = timing
        self._clock = clock or SystemClock()
        self._accepted = Numbered(name, "blasts")
        self._cancels = Numbered(name, "incomplete")

    async def create(self, blast: Blast) -> bool:
        """Store a snapshot and report it to the logger; return False if it existed. Safe to repeat.

        The hash of each of its partitions is created too, so that an accepted blast can be paused before its first
        chunk. A partition without jobs of it has none.
        """
        snapshot, every = pack_blast(blast), blast.count_shares()
        with translated("create blast"):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hsetnx(blast_key(blast.blast_id), "snapshot", snapshot)
                for channel in blast.totals:
                    shares = blast.shares(channel)
                    for index, total in shares.items():
                        key = self._key(channel, index, blast.blast_id)
                        pipe.hsetnx(key, "total", total)
                        pipe.hsetnx(key, "moved_at", self._clock.now_ms())
                        if len(shares) > 1:
                            pipe.hsetnx(key, "parts", len(shares))
                        if every > 1:
                            pipe.hsetnx(key, "shares", every)
                number, _ = self._accepted.next()
                event = BlastAccepted(self._clock.now_ms(), blast.blast_id, snapshot)
                batch = EventBatch(self._accepted.producer, number, [event])
                pipe.xadd(GATEWAY_EVENTS, {"d": pack_batch(batch)})
                created = (await pipe.execute())[0]
        return bool(created)

    async def restore(self, blast: Blast, counts: Mapping[str, Mapping[int, Mapping[str, int]]]) -> None:
        """Restore an expired blast from its final counts, so that its dead letters can be sent again.

        The counts are by channel, partition and status; those of hashes that still exist are ignored.
        """
        every = blast.count_shares()
        with translated("restore blast"):
            await self._redis.hsetnx(blast_key(blast.blast_id), "snapshot", pack_blast(blast))
            await self._redis.persist(blast_key(blast.blast_id))
            for channel, by_partition in counts.items():
                several = {"parts": len(by_partition), "shares": every}
                for index, ended in by_partition.items():
                    await self._restore(self._key(channel, index, blast.blast_id), ended, several)

    async def keep(self, blast: Blast) -> list[str]:
        """Keep a blast's hashes until it ends again; return the channels on which one has expired already.

        Jobs that are sent again on one channel may wait for longer than what is left of the time to keep the others.
        A blast's only hash is kept by the jobs themselves.
        """
        missing: dict[str, None] = {}
        shared = blast.count_shares() > 1
        with translated("keep blast"):
            for channel in blast.totals:
                for index in blast.shares(channel):
                    key = self._key(channel, index, blast.blast_id)
                    if shared:  # first: what exists after this does not expire
                        await self._redis.persist(key)
                    if not await self._redis.exists(key):
                        missing[channel] = None
        return list(missing)

    async def _restore(self, key: str, counts: Mapping[str, int], several: Mapping[str, int]) -> None:
        if await self._redis.exists(key):
            return
        total = sum(counts.get(name, 0) for name in TERMINAL)
        fields: dict[Any, Any] = {"total": total, "enqueued": total, "wm:jobs": total}
        fields |= {name: counts.get(name, 0) for name in TERMINAL}
        fields |= {name: number for name, number in several.items() if number > 1}
        if total == sum(counts.values()):  # nothing is sent again here, so nothing else would end it
            fields["ended_at"] = self._clock.now_ms()
        await self._redis.hset(key, mapping=fields)

    async def expire(self, blast_id: str, after_ms: int) -> None:
        """Let the snapshot of an ended blast expire after `after_ms`, and before it its hashes in its partitions.

        A blast's only hash expires by itself. One that is sent again in a partition stays whole until its next end.
        """
        blast = await self.load(blast_id)
        keys = self._shares(blast) if blast is not None else []
        redis: Any = self._redis
        with translated("expire blast"):
            for key in keys:
                total, ended_at = await redis.hmget(key, ["total", "ended_at"])
                if total and not ended_at:
                    return
            for key in (*keys, blast_key(blast_id)):
                await self._redis.pexpire(key, after_ms)

    async def expire_alone(self, blast_ids: Iterable[str], after_ms: int) -> None:
        """Let the snapshots of ended blasts expire that had all jobs in one partition, where their hash expires so."""
        expiring: list[Any] = [self._redis.pexpire(blast_key(blast_id), after_ms) for blast_id in blast_ids]
        with translated("expire blasts"):
            await asyncio.gather(*expiring)

    async def release(self, blast: Blast) -> None:
        """Let a blast expire again that was restored, or kept, for jobs that had already been enqueued.

        If they have ended meanwhile, no end of it will be reported; if not, its next end lets it expire.
        """
        found = await self.progress(blast.blast_id, blast)
        if found is not None and all(one.ended_at_ms for one in found.channels.values()):
            await self.expire(blast.blast_id, self._timing.keep_ended_ms)

    def _shares(self, blast: Blast) -> list[str]:
        """Return the hashes of a blast in the partitions of all its channels, none if it has only one."""
        places = [(channel, index) for channel in blast.totals for index in blast.shares(channel)]
        return [self._key(*place, blast.blast_id) for place in places] if len(places) > 1 else []

    async def load(self, blast_id: str) -> Blast | None:
        """Return a blast's snapshot, None if it is unknown or has expired."""
        with translated("load blast"):
            raw: Any = await self._redis.hget(blast_key(blast_id), "snapshot")
        return unpack_blast(raw) if raw is not None else None

    async def watermark(self, blast_id: str, channel: str, partition: int = 0) -> int:
        """Return how many jobs of a blast have been enqueued in a partition of a channel."""
        with translated("watermark"):
            value = await self._redis.hget(self._key(channel, partition, blast_id), "wm:jobs")
        return int(value or 0)

    async def confirm(self, blast: Blast) -> bool:
        """Wait until as many replicas as are required have an enqueued blast; without any, return at once.

        Return False if the servers lack a part of it: a failover lost it meanwhile. Raises QueueUnavailableError if the
        replicas do not have it in time. What is found on a server before its replicas confirm is what they confirm.
        """
        if not replicas_of(self._redis):
            return True
        checks = [is_confirmed(self._redis, blast_key(blast.blast_id), "snapshot")]
        for channel in blast.totals:
            for index, total in blast.shares(channel).items():
                checks.append(is_confirmed(self._redis, self._key(channel, index, blast.blast_id), "wm:jobs", total))
        return all(await asyncio.gather(*checks))

    async def confirm_run(self, blast: Blast, channel: str, series: str, indexes: Iterable[int]) -> bool:
        """Wait until as many replicas as are required have the further runs of jobs, as `confirm` does for a blast.

        `series` names these runs, and `indexes` are those of the jobs' recipients.
        """
        if not replicas_of(self._redis):
            return True
        places = {blast.partition_of(channel, index) for index in indexes}
        field = f"wm:{series}"
        checks = [is_confirmed(self._redis, self._key(channel, place, blast.blast_id), field) for place in places]
        return all(await asyncio.gather(*checks))

    async def progress(self, blast_id: str, blast: Blast | None = None) -> BlastProgress | None:
        """Return the progress of a blast, None if it is unknown or has expired."""
        blast = blast or await self.load(blast_id)
        if blast is None:
            return None
        with translated("progress"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for channel in blast.totals:
                    for index in blast.shares(channel):
                        pipe.hgetall(self._key(channel, index, blast_id))
                rows = iter(await pipe.execute())
        channels = {
            channel: _together([_progress(next(rows), total) for total in blast.shares(channel).values()])
            for channel in blast.totals
        }
        last = max((one.moved_at_ms for one in channels.values()), default=0)
        return BlastProgress(blast_id, state_of(channels), channels, last)

    async def truncate(self, blast_id: str) -> None:
        """End a blast whose client disappeared, and report it: its total becomes the number of enqueued jobs."""
        blast = await self.load(blast_id)
        if blast is None:
            return

        async def truncate(partition: Partition) -> None:
            _, head = self._cancels.next()
            await partition.call("cancel_blast", (blast_id, head, self._timing.keep_ended_ms, "incomplete_at"))

        every = [one for channel in blast.totals for one in partitions_of(self._redis, blast, channel)]
        await in_each(every, truncate)

    def _key(self, channel: str, partition: int, blast_id: str) -> str:
        return PartitionKeys(channel, partition).blast(blast_id)
