"""Fixtures of the sending loop's tests, on Valkey."""

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
