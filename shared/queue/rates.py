"""A channel's rate that was set at run time: where it is kept, and which partitions need not ask for it.

Several partitions share the limits, which have a slot of their own. A partition with a permit begins jobs without
asking them. While a rate is in force no partition may have one: all permits are withdrawn before the rate is written,
and given again after it was removed. A partition without a record has no permit.

Changes are numbered in the slot of the limits. A partition ignores a change with a lower number than its last one, and
a rate is written only if no other change has started since its own, so none has given a permit again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from shared.errors import QueueUnavailableError
from shared.queue.blasts import is_confirmed
from shared.queue.connection import translated
from shared.queue.partitions import (
    Partition,
    count_partitions,
    in_each,
    limits_partition,
    partitions,
    rate_places,
    replicas_of,
    where_there,
)

_TRIES = 20


class Rates:
    """The rate of one channel; every method raises QueueUnavailableError and is safe to repeat."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis = redis
        self._places = rate_places(redis, channel)
        self._limits = limits_partition(redis, channel)
        self._partitions = partitions(redis, channel)
        self._several = count_partitions(redis) > 1
        self._without: set[str] = set()

    async def set(self, gap_us: int, text: str) -> None:
        """Set the rate to one start every `gap_us` µs (0: no limit); a `text` of "" restores the senders' own setting.

        Also write it where it will be in force with one partition instead of several, or back. With a limit, no begin
        that is asked for after this call ignores it. If a partition is away, the rate is set, and the error is raised.
        """
        if not self._several:
            await in_each(self._places, lambda one: one.call("set_rate", (gap_us, text, "")))
            return
        away = await (self._limit(gap_us, text) if gap_us else self._lift(text))
        await self._places[1].call("set_rate", (gap_us, text, ""))
        if away is not None:
            raise away

    async def _limit(self, gap_us: int, text: str) -> QueueUnavailableError | None:
        for _ in range(_TRIES):
            number = await self._limits.call("start_rate_change", (0, 0))
            away = await self._tell(self._partitions, number, permit=False)
            if await self._limits.call("set_rate", (gap_us, text, number)):
                return away
        raise QueueUnavailableError("the rate is being changed by others")

    async def _lift(self, text: str) -> QueueUnavailableError | None:
        number = await self._limits.call("set_rate", (0, text, ""))
        return await self._tell(self._partitions, number, permit=True)

    async def _tell(self, those: Sequence[Partition], number: int, *, permit: bool) -> QueueUnavailableError | None:
        """Give or withdraw the permits of partitions; return the error of one that is away."""

        async def tell(partition: Partition) -> None:
            await partition.call("set_permit", (number, int(permit)))
            if permit or not replicas_of(self._redis):
                return
            # a failover to a replica without it would give the permit back
            if not await is_confirmed(self._redis, partition.keys.key("config"), "told", number):
                raise QueueUnavailableError("a server has lost the change of the rate")

        answers = await asyncio.gather(*map(tell, those), return_exceptions=True)
        errors = [one for one in answers if isinstance(one, BaseException)]
        for error in errors:
            if not isinstance(error, QueueUnavailableError):
                raise error
        return errors[0] if errors and isinstance(errors[0], QueueUnavailableError) else None

    async def keep(self) -> None:
        """Take over a rate that an earlier version set, while the channel had one partition."""
        redis: Any = self._redis
        with translated("rate"):
            values = [await redis.hmget(one.keys.key("config"), ("gap_us", "rate")) for one in self._places]
        (in_force, _), (gap, text) = values
        if in_force is None and gap is not None and text is not None:
            await self.set(int(gap), text.decode())

    async def check(self, *, repair: bool = True) -> int:
        """Withdraw permits that partitions have while a rate is in force; return their number.

        Give permits that partitions lack at two checks in a row: until then a rate may be about to be set.
        """
        records = await where_there(self._partitions, self._record)
        limited = await self._is_limited()
        wrong = [(one, told) for one, told, permit in records if permit and limited]
        without = [(one, told) for one, told, permit in records if not permit and not limited]
        if repair:
            await self._correct(wrong, permit=False)
            await self._correct([one for one in without if one[0].keys.tag in self._without], permit=True)
        self._without = {one.keys.tag for one, _ in without}
        return len(wrong)

    async def check_one(self, partition: Partition) -> None:
        """Correct the permit of a partition that a sender begins to serve: it may be new."""
        _, told, permit = await self._record(partition)
        limited = await self._is_limited()
        if permit == limited:
            await self._correct([(partition, told)], permit=not limited)

    async def _correct(self, those: Sequence[tuple[Partition, int]], *, permit: bool) -> None:
        if not those:
            return
        number = await self._limits.call("start_rate_change", (int(permit), max(told for _, told in those)))
        away = await self._tell([one for one, _ in those], number, permit=permit) if number else None
        if away is not None:
            raise away

    async def _record(self, partition: Partition) -> tuple[Partition, int, bool]:
        """Return the number of the last change that a partition was told, and whether it has a permit.

        Read it before the rate: what the slot of the limits says then is at least as new.
        """
        redis: Any = self._redis
        with translated("rate"):
            told, permit = await redis.hmget(partition.keys.key("config"), ("told", "permit"))
        return partition, int(told or 0), permit == b"1"

    async def _is_limited(self) -> bool:
        redis: Any = self._redis
        with translated("rate"):
            gap = await redis.hget(self._limits.keys.key("config"), "gap_us")
        return int(gap or 0) > 0
