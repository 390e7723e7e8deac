"""A partition: the part of a channel's queue below one hash tag on one server.

All code that works on the queue receives partitions. A partition has its keys, and the only way to call a script on
them. The queue of a channel to recipients is one partition; that of webhooks has one for each endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from shared.queue.batches import Numbered
from shared.queue.keys import PartitionKeys
from shared.queue.scripts import Argument, load_script


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
        return self.keys.tag[1:-1]

    def numbered(self, producer: str, step: str) -> Numbered:
        """Return heads for the batches that a producer emits here; batches of other partitions have other names."""
        index = self.keys.index
        return Numbered(f"{producer}.{index}" if index else producer, step)

    async def call(self, script: str, args: Sequence[Argument] = ()) -> Any:
        """Run the script of that name on this partition.

        Raises QueueUnavailableError (its outcome is then unknown) and, for the scripts that add work,
        QueueFullError. The answer's shape is in the script's header, hence `Any`.
        """
        return await load_script(script).call(self.redis, self.keys.routing, args)


def partitions(redis: Redis, channel: str) -> tuple[Partition, ...]:
    """Return the partitions of a channel's queue, of which there is one."""
    return (Partition(redis, PartitionKeys(channel)),)


def partition_at(redis: Redis, channel: str, index: int) -> Partition:
    """Return one partition of a channel's queue by its index."""
    return Partition(redis, PartitionKeys(channel, index))


def first_partition(redis: Redis, channel: str) -> Partition:
    """Return the partition with the data of the whole channel; data that all partitions have is read from it."""
    return partitions(redis, channel)[0]
