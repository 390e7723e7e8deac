"""Sending loops run inside a test, stopped at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from shared.lifecycle import Stop
from shared.queue.batches import boot_name
from shared.queue.scripts import load_script
from shared.queue.timing import UNSCALED, Timing
from shared.sending.loop import SendingLoop
from shared.sending.provider import RenderedMessage
from shared.sending.settings import SendingSettings
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts

# a quarter of the constants, but whole leases: a busy machine lets a process wait for longer than a quarter of one
QUARTER = replace(
    Timing.scaled(0.25), heartbeat_ttl_ms=UNSCALED.heartbeat_ttl_ms, begin_within_ms=UNSCALED.begin_within_ms
)
SETTINGS = SendingSettings(
    sender_id="",
    host="h",
    concurrency=5,
    rate=None,
    on_uncertain="resend",
    max_attempts=3,
    grace_s=2.0,
    timing=QUARTER,
    time_scale=0.1,
)


@asynccontextmanager
async def sending(
    world: World, provider: FakeProvider, settings: SendingSettings = SETTINGS
) -> AsyncIterator[RememberedAttempts]:
    """Run one sender while the block runs, then stop it and wait for its end."""
    observer = RememberedAttempts()
    settings = replace(settings, sender_id=settings.sender_id or boot_name("email", "test"))
    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, provider, settings, observer)
    stop = Stop()
    task = asyncio.create_task(loop.run(stop))
    try:
        yield observer
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


class _SlowAnswers:
    """A connection that delays each answer to `begin` by `delay_s`."""

    def __init__(self, redis: Any, delay_s: Callable[[], float]) -> None:
        self._redis = redis
        self._delay_s = delay_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = await self._redis.execute_command(*args, **options)
        if load_script("begin").digest in args:
            await asyncio.sleep(self._delay_s())
        return answer


def slow_answers(redis: Any, delay_s: Callable[[], float]) -> Any:
    """Return a connection whose answers to `begin` take longer, by what `delay_s` returns for each."""
    return _SlowAnswers(redis, delay_s)
