"""Availability: whether Redis answers and a backlog has room, cached so that not every request has to ask.

While Redis is away, requests are refused immediately. A check of a backlog asks for room for a thousand messages more
than needed; if there is room, requests within the next quarter of a second use it without asking. Near the limit every
request asks.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.clock import Clock
from shared.errors import CANNOT_BE_REACHED, QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.connection import translated
from shared.queue.producer import Producer
from shared.web import Health

_EVERY_S = 1.0
_TIMEOUT_S = 2.0

_AHEAD = 1000
_GOOD_FOR_S = 0.25

log = get_logger()


class RedisWatch:
    """Pings Redis every second and reports the outcome to the health check.

    `why` says why Redis is not available, in words for clients.
    """

    def __init__(self, redis: Redis, health: Health) -> None:
        self._redis = redis
        self._health = health
        self.available = True
        self.why = CANNOT_BE_REACHED

    async def run(self, stop: Stop) -> None:
        """Check periodically until stopped."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self.check()
                await asyncio.wait({stopping}, timeout=_EVERY_S)
        finally:
            stopping.cancel()

    async def check(self) -> None:
        """Ping once and record the outcome."""
        away = await self._away()
        reason = str(away) if away else None
        if self.available != (reason is None):
            log.warning("redis unavailable", reason=reason) if reason else log.info("redis available again")
        self.available = away is None
        self.why = away.why if away else CANNOT_BE_REACHED
        self._health.report("redis", reason)

    async def _away(self) -> QueueUnavailableError | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                with translated("ping"):
                    await self._redis.ping()
        except QueueUnavailableError as error:
            return error
        except QueueFullError as full:
            return QueueUnavailableError(str(full))
        except TimeoutError:
            return QueueUnavailableError(f"no answer within {_TIMEOUT_S:g} s", "Redis does not answer in time")
        return None


@dataclass(slots=True)
class _Share:
    """The number of messages that this process may still add without asking, and until when."""

    left: int
    until: float


@dataclass(slots=True)
class BacklogRoom:
    """The room in the backlogs that this process knows of, by channel."""

    producer: Producer
    clock: Clock
    _shares: dict[str, _Share] = field(default_factory=dict)
    _asking: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def take(self, channel: str, adding: int) -> None:
        """Raise QueueFullError where that many more messages would exceed the limits of the backlog."""
        if adding <= _AHEAD:
            if self._take(channel, adding):
                return
            with suppress(QueueFullError):
                await asyncio.shield(self._ask_ahead(channel, adding))
                if self._take(channel, adding):
                    return
        await self.producer.check_backlog(channel, adding)

    def _take(self, channel: str, adding: int) -> bool:
        """Take from what is known, if it suffices."""
        share = self._shares.get(channel)
        if share is None or adding > share.left or self.clock.monotonic() >= share.until:
            return False
        share.left -= adding
        return True

    def _ask_ahead(self, channel: str, adding: int) -> asyncio.Task[None]:
        """Ask for a share; all who come meanwhile wait for this answer, and get its error."""
        task = self._asking.get(channel)
        if task is None:
            task = self._asking[channel] = asyncio.create_task(self._share(channel, adding + _AHEAD))
            task.add_done_callback(lambda done: self._has_asked(channel, done))
        return task

    def _has_asked(self, channel: str, task: asyncio.Task[None]) -> None:
        del self._asking[channel]
        if not task.cancelled():
            task.exception()  # raised to those who wait, if any

    async def _share(self, channel: str, wanted: int) -> None:
        self._shares.pop(channel, None)
        await self.producer.check_backlog(channel, wanted)
        self._shares[channel] = _Share(wanted, self.clock.monotonic() + _GOOD_FOR_S)
