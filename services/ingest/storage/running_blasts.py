"""Running blasts: those whose enqueueing has not ended, found without a scan, and how fast each is sent."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from redis.asyncio import Redis

from shared.clock import Clock
from shared.queue.connection import translated

_KEY = "ingest:open-blasts"
_BATCH = 500
_KEPT_BLASTS = 1000
_KEPT_COUNTS = 20
_WINDOW_S = 15.0


class OpenBlasts:
    """A sorted set of blast ids by the time their enqueueing began."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._closed: list[str] = []

    async def open(self, blast_id: str, now_ms: int) -> None:
        """Add a blast before its snapshot is created; safe to repeat."""
        with translated("open blast"):
            await self._redis.zadd(_KEY, {blast_id: now_ms})

    def close(self, blast_id: str) -> None:
        """Note that a blast's enqueueing has ended; `flush` drops it. A lost note is made up for by a later check."""
        self._closed.append(blast_id)

    async def flush(self) -> None:
        """Remove the closed blasts from Redis."""
        while batch := self._closed[:_BATCH]:
            with translated("close blasts"):
                await self._redis.zrem(_KEY, *batch)
            del self._closed[: len(batch)]

    async def before(self, ms: int) -> list[str]:
        """Return the blasts begun before a time, oldest first, at most 100."""
        with translated("open blasts"):
            rows: Any = await self._redis.zrange(_KEY, 0, ms, byscore=True, offset=0, num=100)
        return [row.decode() for row in rows]


class BlastRates:
    """How fast the messages of blasts end, from the counts of the last times they were shown."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def note(self, blast_id: str, ended: int) -> float | None:
        """Note how many messages have ended; return the recent number per second, None while it is unknown."""
        now = self._clock.monotonic()
        counts = self._counted.setdefault(blast_id, deque(maxlen=_KEPT_COUNTS))
        self._counted.move_to_end(blast_id)
        while len(self._counted) > _KEPT_BLASTS:
            self._counted.popitem(last=False)
        while counts and now - counts[0][0] > _WINDOW_S:
            counts.popleft()
        first = counts[0] if counts else None
        if not counts or now - counts[-1][0] >= _WINDOW_S / _KEPT_COUNTS:
            counts.append((now, ended))
        if first is None or now - first[0] < 0.5:
            return None
        return max(0.0, (ended - first[1]) / (now - first[0]))
