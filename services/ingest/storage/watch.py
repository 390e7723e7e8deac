"""Watch: whether Redis answers, so that a request is refused at once while it does not."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from shared.errors import QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.connection import translated
from shared.web import Health

_EVERY_S = 1.0
_TIMEOUT_S = 2.0

log = get_logger()


class RedisWatch:
    """Pings Redis every second and tells the health report when that changes."""

    def __init__(self, redis: Redis, health: Health) -> None:
        self._redis = redis
        self._health = health
        self.available = True

    async def run(self, stop: Stop) -> None:
        """Look until stopped."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self.look()
                await asyncio.wait({stopping}, timeout=_EVERY_S)
        finally:
            stopping.cancel()

    async def look(self) -> None:
        """Ping once and note the outcome."""
        reason = await self._reason()
        if self.available != (reason is None):
            log.warning("redis is away", reason=reason) if reason else log.info("redis is back")
        self.available = reason is None
        self._health.report("redis", reason)

    async def _reason(self) -> str | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                with translated("ping"):
                    await self._redis.ping()
        except (QueueUnavailableError, QueueFullError) as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {_TIMEOUT_S:g} s"
        return None
