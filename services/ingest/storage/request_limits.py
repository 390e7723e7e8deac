"""Request limits: how many HTTP requests a caller may make, across all ingest processes.

GCRA: one number per caller, the time at which its allowance would be whole again. A burst up to the limit is served
immediately, then requests are served as the allowance refills. A period that begins with a full burst can therefore
see almost twice the limit. Unlike with fixed windows, the whole limit is never restored at one moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.queue.scripts import Script
from shared.settings import Rate

_MOST_REFUSED = 10_000
_REFUSED_S = 1.0

_TAKE = Script(
    "request_limit_take",
    """#!lua
-- KEYS 1 the caller's state · ARGV 1 µs that one request costs · 2 µs that a whole allowance lasts
-- Result {1 if served else 0, µs until the allowance is whole, µs until the next request is served}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost, whole = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
if tat + cost - now > whole then return { 0, tat - now, tat + cost - now - whole } end
redis.call('SET', KEYS[1], string.format('%.0f', tat + cost), 'PX', math.ceil((tat + cost - now) / 1000) + 1000)
return { 1, tat + cost - now, 0 }
""",
)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A caller's remaining requests: `reset_s` until the whole limit is free again, `retry_s` until the next one."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_s: int

    def headers(self) -> dict[str, str]:
        """Return the RateLimit headers (IETF draft-ietf-httpapi-ratelimit-headers), with Retry-After on refusal."""
        headers = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }
        if not self.allowed:
            headers["Retry-After"] = str(self.retry_s)
        return headers


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A caller's refusal: how long it is repeated without asking Redis, and when the next request is free."""

    holds_until: float
    free_at: float


class RequestLimits:
    """One rate for every caller; a refused caller is refused for up to a second without asking Redis."""

    def __init__(self, redis: Redis, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}
        self._count = rate.count
        self._whole_us = int(rate.period_s * 1_000_000)
        self._cost_us = max(1, self._whole_us // rate.count)

    async def take(self, caller: str) -> Allowance:
        """Charge one request to a caller; raises QueueUnavailableError."""
        now = self._clock()
        refusal = self._refused.get(caller)
        if refusal is not None and now < refusal.holds_until:
            retry_s = max(1, math.ceil(refusal.free_at - now))
            return Allowance(False, self._count, 0, math.ceil(self._whole_us / 1_000_000), retry_s)
        served, used_us, retry_us = await _TAKE.call(
            self._redis, (f"ratelimit:{caller}",), (self._cost_us, self._whole_us)
        )
        self._remember(caller, now, 0.0 if served else retry_us / 1_000_000)
        return Allowance(
            allowed=bool(served),
            limit=self._count,
            remaining=max(0, (self._whole_us - used_us) // self._cost_us) if served else 0,
            reset_s=math.ceil(used_us / 1_000_000),
            retry_s=max(1, math.ceil(retry_us / 1_000_000)),
        )

    def _remember(self, caller: str, now: float, retry_s: float) -> None:
        if retry_s <= 0:
            self._refused.pop(caller, None)
            return
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()  # costs only a few calls to Redis
        self._refused[caller] = _Refusal(now + min(retry_s, _REFUSED_S), now + retry_s)
