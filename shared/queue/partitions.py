"""A partition: the part of a channel's queue below one hash tag on one server.

All code that works on the queue receives partitions. A partition has its keys, and the only way to call a script on
them. The queue of a channel to recipients is one partition, or as many as KURIR_PARTITIONS says; that of webhooks has
one for each endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis

from shared.blasts import Blast
from shared.channels import CHANNELS
from shared.errors import QueueUnavailableError
from shared.queue.batches import Numbered
from shared.queue.client import QueueRedis
from shared.queue.connection import translated
from shared.queue.keys import LimitKeys, PartitionKeys
from shared.queue.scripts import Argument, load_script
from shared.settings import MOST_PARTITIONS

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Partition:
    """One part of a channel's queue: the server it is on, and its keys there."""

    redis: Redis
    keys: PartitionKeys

    @property
    def channel(self) -> str:
        """The channel whose jobs it holds."""
        return self.keys.channel

    @property
    def name(self) -> str:
        """What people read: `email` for the first partition of a channel, `webhook.3` for another."""
        return self.keys.name

    def numbered(self, producer: str, step: str) -> Numbered:
        """Return heads for the batches that a producer emits here; batches of other partitions have other names."""
        index = self.keys.index
        return Numbered(f"{producer}.{index}" if index else producer, step)

    async def server(self) -> Redis:
        """Return the server that has the partition now, for commands without a key; raises QueueUnavailableError."""
        return await server_of(self.redis, self.keys.bell)

    async def call(self, script: str, args: Sequence[Argument] = ()) -> Any:
        """Run the script of that name on this partition.

        Raises QueueUnavailableError (its outcome is then unknown) and, for the scripts that add work,
        QueueFullError. The answer's shape is in the script's header, hence `Any`.
        """
        return await load_script(script).call(self.redis, self.keys.routing, args)


async def in_each(every: Sequence[Partition], step: Callable[[Partition], Awaitable[AnswerT]]) -> list[AnswerT]:
    """Take a step in the first of these partitions, then in the others, all at once; return the answers in order.

    Raises QueueUnavailableError if a partition is away, once the others have answered.
    """
    answers = await asyncio.gather(*map(step, every[:1]), return_exceptions=True)
    answers += await asyncio.gather(*map(step, every[1:]), return_exceptions=True)
    return [_answered(one) for one in answers]


async def where_there(every: Sequence[Partition], step: Callable[[Partition], Awaitable[AnswerT]]) -> list[AnswerT]:
    """Take a step in each of these partitions, all at once; return the answers of those that are not away."""
    answers = await asyncio.gather(*map(step, every), return_exceptions=True)
    return [_answered(one) for one in answers if not isinstance(one, QueueUnavailableError)]


def _answered(answer: AnswerT | BaseException) -> AnswerT:
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def server_of(redis: Redis, key: str) -> Redis:
    """Return the server that has a key now, for commands without a key; raises QueueUnavailableError."""
    if not isinstance(redis, QueueRedis):
        return redis
    with translated("cluster"):
        return await redis.node_of(key)


def count_partitions(redis: Redis) -> int:
    """Return how many partitions a channel's queue has."""
    return redis.partitions if isinstance(redis, QueueRedis) else 1


def replicas_of(redis: Redis) -> int:
    """Return how many replicas must have a blast before it counts as accepted."""
    return redis.replicas if isinstance(redis, QueueRedis) else 0


def partition_at(redis: Redis, channel: str, index: int) -> Partition:
    """Return one partition of a channel's queue by its index."""
    return Partition(redis, PartitionKeys(channel, index))


def partitions(redis: Redis, channel: str) -> tuple[Partition, ...]:
    """Return the partitions among which the jobs of a channel are spread: those of webhooks never are."""
    count = count_partitions(redis) if channel in CHANNELS else 1
    return tuple(partition_at(redis, channel, index) for index in range(count))


def first_partition(redis: Redis, channel: str) -> Partition:
    """Return the partition with the data of the whole channel; data that all partitions have is read from it."""
    return partition_at(redis, channel, 0)


async def existing_partitions(redis: Redis, channel: str) -> list[Partition]:
    """Return the partitions of a channel's queue, and those beyond their number that have keys.

    Raises QueueUnavailableError.
    """
    found = list(partitions(redis, channel))
    for index in range(len(found), MOST_PARTITIONS):
        beyond = partition_at(redis, channel, index)
        with translated("partitions"):
            if await redis.exists(beyond.keys.bell):
                found.append(beyond)
    return found


def limits_partition(redis: Redis, channel: str) -> Partition:
    """Return the keys with a channel's rate and limits: the only partition, or those in a slot of their own."""
    if count_partitions(redis) == 1:
        return first_partition(redis, channel)
    return Partition(redis, LimitKeys(channel))


def rate_places(redis: Redis, channel: str) -> tuple[Partition, Partition]:
    """Return the keys with a channel's rate: those in force, then those of another number of partitions."""
    first, apart = first_partition(redis, channel), Partition(redis, LimitKeys(channel))
    return (first, apart) if count_partitions(redis) == 1 else (apart, first)


def partitions_of(redis: Redis, blast: Blast, channel: str) -> list[Partition]:
    """Return the partitions with jobs of a blast; the first one is that of its first job."""
    return [partition_at(redis, channel, index) for index in blast.shares(channel)]
