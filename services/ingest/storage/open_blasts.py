"""Open blasts: those whose enqueueing has begun and not ended, so that abandoned ones can be found without a scan."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from shared.queue.connection import translated

_KEY = "ingest:open-blasts"
_BATCH = 500


class OpenBlasts:
    """A sorted set of blast ids by the time their enqueueing began."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._closed: list[str] = []

    async def open(self, blast_id: str, now_ms: int) -> None:
        """Note a blast before its snapshot is created; safe to repeat."""
        with translated("open blast"):
            await self._redis.zadd(_KEY, {blast_id: now_ms})

    def close(self, blast_id: str) -> None:
        """Note that a blast's enqueueing has ended; `flush` drops it. One that is lost is found to be whole later."""
        self._closed.append(blast_id)

    async def flush(self) -> None:
        """Drop the blasts that were closed."""
        while batch := self._closed[:_BATCH]:
            with translated("close blasts"):
                await self._redis.zrem(_KEY, *batch)
            del self._closed[: len(batch)]

    async def before(self, ms: int) -> list[str]:
        """Return those that were begun before a time, oldest first, at most 100."""
        with translated("open blasts"):
            rows: Any = await self._redis.zrange(_KEY, 0, ms, byscore=True, offset=0, num=100)
        return [row.decode() for row in rows]
