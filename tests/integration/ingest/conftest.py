"""One ingest for all tests that need no settings of their own, on a Valkey emptied before each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from shared.queue.connection import connect
from tests.integration.ingest.running import Api, Peers, RunningIngest, open_api
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def ingest_server(valkey_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningIngest]:
    ingest = RunningIngest(valkey_server.url, tmp_path_factory.mktemp("ingest"))
    ingest.start()
    yield ingest
    ingest.stop()


@pytest.fixture
def ingest(valkey_url: str, ingest_server: RunningIngest) -> RunningIngest:
    """The shared ingest, on an empty Valkey, its peers knowing nothing."""
    assert valkey_url
    ingest_server.peers.reset()
    return ingest_server


@pytest.fixture
def peers(ingest: RunningIngest) -> Peers:
    return ingest.peers


@pytest.fixture
async def api(ingest: RunningIngest) -> AsyncIterator[Api]:
    async with AsyncExitStack() as stack:
        yield await open_api(stack, ingest.url)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the queue's own server."""
    client = connect(valkey_url)
    yield client
    await client.aclose()
