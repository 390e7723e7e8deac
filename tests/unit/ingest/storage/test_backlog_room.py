"""BacklogRoom: the backlog's limit holds although not every message asks for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.ingest.storage.availability import BacklogRoom
from shared.errors import QueueFullError, QueueUnavailableError
from tests.clocks import HandClock


class _Backlog:
    """A backlog that takes `limit` jobs; the test sets how many wait."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        self.asked = 0
        self.away = False

    async def check_backlog(self, channel: str, adding: int = 0) -> None:
        assert channel == "email"
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise QueueUnavailableError("away")
        if self.waiting + adding > self.limit:
            raise QueueFullError("full", 30)


def _room(limit: int) -> tuple[BacklogRoom, _Backlog, HandClock]:
    backlog, clock = _Backlog(limit), HandClock(0.0)
    return BacklogRoom(cast("Any", backlog), clock), backlog, clock


async def test_a_thousand_messages_query_redis_once() -> None:
    """The next message, or the first after a quarter of a second, asks again."""
    room, backlog, clock = _room(10_000)
    for _ in range(1001):
        await room.take("email", 1)
    assert backlog.asked == 1
    await room.take("email", 1)
    assert backlog.asked == 2
    clock.now += 0.3
    await room.take("email", 1)
    assert backlog.asked == 3


async def test_near_its_limit_every_message_queries_redis() -> None:
    """The last message that fits is accepted, the next is refused, and each one that leaves makes room."""
    room, backlog, _ = _room(500)
    for _ in range(500):
        await room.take("email", 1)
        backlog.waiting += 1
    with pytest.raises(QueueFullError):
        await room.take("email", 1)
    backlog.waiting -= 1
    await room.take("email", 1)


async def test_messages_that_come_together_query_redis_once() -> None:
    """Fifty requests find no known room: one asks, the others wait for its answer; also for its error."""
    room, backlog, _ = _room(10_000)
    await asyncio.gather(*(room.take("email", 1) for _ in range(50)))
    assert backlog.asked == 1

    room, backlog, _ = _room(10_000)
    backlog.away = True
    outcomes = await asyncio.gather(*(room.take("email", 1) for _ in range(50)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [QueueUnavailableError] * 50
    assert backlog.asked == 1
