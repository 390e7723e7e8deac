"""The world of the queue's tests, on Valkey and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.queue.world import World, open_world


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    """An empty queue, once on Valkey and once on Redis."""
    world = open_world(redis_url)
    yield world
    await world.redis.aclose()
