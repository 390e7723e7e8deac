"""The webhook endpoints in Redis: the hash `webhooks`, by number, and the partition of each.

The logger writes it, and writes it again when it starts; senders read it every second. Without it (a flushed Redis)
senders serve nothing until the logger has written it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from shared.channels import WEBHOOK
from shared.errors import DecodeError
from shared.queue.connection import translated
from shared.queue.keys import WEBHOOKS
from shared.queue.partitions import Partition, partition_at
from shared.webhooks import Endpoint, pack_endpoint, unpack_endpoint


def webhook_partition(redis: Redis, number: int) -> Partition:
    """Return the partition of the endpoint with a number: `{webhook.3}`."""
    return partition_at(redis, WEBHOOK.name, number)


class Endpoints:
    """Reads and writes the endpoints that senders serve; raises QueueUnavailableError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, *endpoints: Endpoint) -> None:
        """Write endpoints, each whole. Safe to repeat."""
        if endpoints:
            fields = {str(one.number): pack_endpoint(one) for one in endpoints}
            redis: Any = self._redis
            with translated("write webhooks"):
                await redis.hset(WEBHOOKS, mapping=fields)

    async def remove(self, *numbers: int) -> None:
        """Remove endpoints: their senders end. Safe to repeat."""
        if numbers:
            redis: Any = self._redis
            with translated("remove webhooks"):
                await redis.hdel(WEBHOOKS, *map(str, numbers))

    async def replace_all(self, endpoints: Sequence[Endpoint]) -> None:
        """Write all endpoints that exist, and remove every other. Safe to repeat."""
        redis: Any = self._redis
        with translated("read webhooks"):
            found: list[bytes] = await redis.hkeys(WEBHOOKS)
        await self.put(*endpoints)
        existing = {one.number for one in endpoints}
        await self.remove(*(int(field) for field in found if int(field) not in existing))

    async def load(self) -> tuple[list[Endpoint], dict[int, DecodeError]]:
        """Return all endpoints by number, and by number the errors of those that cannot be unpacked."""
        redis: Any = self._redis
        with translated("read webhooks"):
            rows: dict[bytes, bytes] = await redis.hgetall(WEBHOOKS)
        endpoints: list[Endpoint] = []
        errors: dict[int, DecodeError] = {}
        for number, raw in sorted((int(field), raw) for field, raw in rows.items()):
            try:
                endpoints.append(unpack_endpoint(raw))
            except DecodeError as error:
                errors[number] = error
        return endpoints, errors
