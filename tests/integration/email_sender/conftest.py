"""Real mail servers and an empty queue for the email sender's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.smtp_sink import SmtpSink
from tests.integration.email_sender.postfix import Postfix
from tests.integration.queue.world import World, open_world
from tests.integration.sending.running import QUARTER


@pytest.fixture
async def world(valkey_url: str) -> AsyncIterator[World]:
    """An empty queue with time constants at a quarter."""
    world = open_world(valkey_url, QUARTER)
    yield world
    await world.redis.aclose()


@pytest.fixture
def sink() -> Iterator[SmtpSink]:
    """A server that accepts everything."""
    sink = SmtpSink()
    sink.start()
    yield sink
    sink.stop()


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """Debian's Postfix."""
    server = Postfix()
    try:
        server.start()
        yield server
    finally:
        server.stop()
