"""The world of the consumer's tests, on Valkey and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.receipts.world import World


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    """An empty stream, once on Valkey and once on Redis."""
    world = World(redis_url)
    yield world
    await world.aclose()
