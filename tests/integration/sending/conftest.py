"""Fixtures of the sending loop's tests: on Valkey, and on both servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.queue.world import World, open_world
from tests.integration.sending.running import QUARTER


@pytest.fixture
async def world(valkey_url: str) -> AsyncIterator[World]:
    """An empty queue with time constants at a quarter."""
    world = open_world(valkey_url, QUARTER)
    yield world
    await world.redis.aclose()


@pytest.fixture
async def both(redis_url: str) -> AsyncIterator[World]:
    """An empty queue, once on Valkey and once on Redis."""
    world = open_world(redis_url)
    yield world
    await world.redis.aclose()
