"""Fixtures of the webhook sender's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.queue.world import World, open_world
from tests.integration.sending.running import QUARTER
from tests.servers import free_port


@pytest.fixture
async def world(valkey_url: str) -> AsyncIterator[World]:
    """An empty queue with time constants at a quarter, and connections for many loops."""
    world = open_world(valkey_url, QUARTER, max_connections=400)
    yield world
    await world.redis.aclose()


@pytest.fixture
def usual_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port that counts as one of those that every webhook may use: 443, 80 and 8443 may be taken here."""
    port = free_port()
    monkeypatch.setattr("shared.webhook_urls.PORTS", (port,))
    return port
