"""What every partition of a channel has a copy of: its pause, its suppressions, and the state of blasts.

The first partition has the truth. Changes are written there first, then to the others; if their writer dies in between,
or a partition is away or new, senders and the doctor correct the copies that differ. Within a blast the truth is in the
first of its partitions that has not ended; a blast that is cancelled anywhere is cancelled. Whether the channel has a
rate is kept elsewhere (`shared.queue.rates`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis

from shared.blasts import Blast
from shared.clock import SystemClock
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.partitions import Partition, in_each, partitions, partitions_of, where_there
from shared.queue.rates import Rates
from shared.queue.scripts import Argument
from shared.queue.timing import UNSCALED, Timing
from shared.suppressions import Suppression, unpack_suppressions

PAGE = 500
NO_EVENT = b""
"""In place of an event's head: the first partition has emitted it."""
_ENDS = ("cancelled_at", "incomplete_at")
_STATE = (*_ENDS, "paused", "ended_at", "total")


class Copies:
    """Corrects the copies of one channel; every method raises QueueUnavailableError and is safe to repeat.

    `name` must be unique to the process. Without `repair` differences are only counted.
    """

    def __init__(
        self, redis: Redis, channel: str, name: str, timing: Timing = UNSCALED, *, repair: bool = True
    ) -> None:
        self._redis = redis
        self._channel = channel
        self._timing = timing
        self._repair = repair
        self._first, *self._others = partitions(redis, channel)
        self._clock = SystemClock()
        self._heads = Numbered(name, "copies")
        self._differed = 0
        self._rates = Rates(redis, channel)

    async def correct(self, partition: Partition) -> None:
        """Correct what a partition that a sender begins to serve has: it may be new."""
        if partition == self._first:
            await self._rates.keep()
        await self._rates.check_one(partition)
        if partition == self._first:
            return
        await self._check_pause(partition)
        if await _count_suppressed(partition) != await _count_suppressed(self._first):
            await self._check_suppressions(partition)

    async def check_rate(self) -> int:
        """Let partitions begin jobs without asking the limits only while the channel has no rate; see `Rates.check`."""
        return await self._rates.check(repair=self._repair)

    async def check_pause(self) -> int:
        """Pause or resume the partitions whose pause differs from the channel's; return their number."""
        return sum(await in_each(self._others, self._check_pause))

    async def _check_pause(self, partition: Partition) -> int:
        # the copy is read first: what the first partition says then is at least as new
        copy, truth = await _pause_of(partition), await _pause_of(self._first)
        if copy == truth:
            return 0
        if self._repair and truth is None:
            await partition.call("resume_channel", (NO_EVENT,))
        elif self._repair and truth is not None:
            await partition.call("pause_channel", (truth, NO_EVENT))
        return 1

    async def suppressions_differ(self) -> bool:
        """Return whether another partition had a different number of suppressed addresses at two checks in a row."""
        counts = await where_there([self._first, *self._others], _count_suppressed)
        self._differed = self._differed + 1 if len(set(counts)) > 1 else 0
        return self._differed > 1

    async def check_suppressions(self) -> int:
        """Make the suppressions of all partitions those of the first; return how many addresses differed."""
        self._differed = 0
        return sum(await in_each(self._others, self._check_suppressions))

    async def _check_suppressions(self, partition: Partition) -> int:
        found = 0
        async for rows in self._suppressed(self._first):
            copies = dict(zip(rows, await self._values(partition, rows), strict=True))
            found += await self._copy(partition, {one: copies[one] or b"" for one in rows if copies[one] != rows[one]})
        async for rows in self._suppressed(partition):
            values = await self._values(self._first, rows)
            beyond = {one: rows[one] for one, value in zip(rows, values, strict=True) if value is None}
            found += await self._copy(partition, beyond)
        return found

    async def _copy(self, partition: Partition, copies: Mapping[bytes, bytes]) -> int:
        """Correct these addresses, whose values in a partition were just read; return how many differed."""
        # read after the copies: what the first partition says now is at least as new
        truths = await self._values(self._first, copies) if copies else []
        args: list[Argument] = []
        for (address, copy), truth in zip(copies.items(), truths, strict=True):
            if self._holding(copy) != self._holding(truth or b""):
                args += (address, copy, truth or b"")
        if args and self._repair:
            await partition.call("copy_suppressions", args)
        return len(args) // 3

    async def _suppressed(self, partition: Partition) -> AsyncIterator[dict[bytes, bytes]]:
        """Yield the suppressed addresses of a partition with their values, a page at a time."""
        redis: Any = partition.redis
        cursor = 0
        while True:
            with translated("suppressions"):
                cursor, rows = await redis.hscan(_suppressed(partition), cursor, count=PAGE)
            if rows:
                yield rows
            if not cursor:
                return

    async def _values(self, partition: Partition, addresses: Iterable[bytes]) -> list[bytes | None]:
        redis: Any = partition.redis
        with translated("suppressions"):
            values: list[bytes | None] = await redis.hmget(_suppressed(partition), list(addresses))
        return values

    def _holding(self, value: bytes) -> list[Suppression]:
        now_ms = self._clock.now_ms()
        return [one for one in unpack_suppressions(value) if one.holds_at(now_ms)] if value else []

    async def check_blast(self, blast: Blast) -> int:
        """Give the partitions of a blast one state; return how many of them differed."""
        every = partitions_of(self._redis, blast, self._channel)
        known = await where_there(every, partial(self._state, blast))
        states = [state for _, state in known]
        live = [(one, state) for one, state in known if state["total"] and not state["ended_at"]]
        found = 0
        for mark in _ENDS:
            if any(state[mark] for state in states):
                found += await self._end(blast, mark, [one for one, state in live if not state[mark]])
        if not found and live and not any(state[mark] for state in states for mark in _ENDS):
            truth = live[0][1]["paused"]
            found = await self._pause(blast, truth, [one for one, state in live if state["paused"] != truth])
        return found

    async def _state(self, blast: Blast, partition: Partition) -> tuple[Partition, dict[str, bytes | None]]:
        redis: Any = partition.redis
        with translated("state of a blast"):
            values = await redis.hmget(partition.keys.blast(blast.blast_id), _STATE)
        return partition, dict(zip(_STATE, values, strict=True))

    async def _end(self, blast: Blast, mark: str, those: Sequence[Partition]) -> int:
        async def end(partition: Partition) -> None:
            _, head = self._heads.next()
            await partition.call("cancel_blast", (blast.blast_id, head, self._timing.keep_ended_ms, mark))

        await in_each(those if self._repair else (), end)
        return len(those)

    async def _pause(self, blast: Blast, reason: bytes | None, those: Sequence[Partition]) -> int:
        async def pause(partition: Partition) -> None:
            _, head = self._heads.next()
            args: list[Argument] = [blast.blast_id, head] if reason is None else [blast.blast_id, reason, head]
            await partition.call("resume_blast" if reason is None else "pause_blast", args)

        await in_each(those if self._repair else (), pause)
        return len(those)


def _suppressed(partition: Partition) -> str:
    return partition.keys.key("suppressed")


async def _count_suppressed(partition: Partition) -> int:
    redis: Any = partition.redis
    with translated("suppressions"):
        return int(await redis.hlen(_suppressed(partition)))


async def _pause_of(partition: Partition) -> bytes | None:
    redis: Any = partition.redis
    with translated("pause"):
        reason: bytes | None = await redis.get(partition.keys.key("paused"))
    return reason
