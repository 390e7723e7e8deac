"""Fixtures for all tests: real servers, started once per session and emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import settings

from tests.servers import RedisServer

# no deadline: the time of an example depends mostly on the load of the machine
settings.register_profile("kurir", deadline=None)
settings.load_profile("kurir")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--seed` (or KURIR_SEED), which repeats a random mix of faults."""
    parser.addoption("--seed", type=int, default=None, help="seed of the random mix of faults")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """Start the session's Valkey; a test that kills or restarts a server makes its own `RedisServer`."""
    server = RedisServer("valkey")
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="session")
def real_redis_server() -> Iterator[RedisServer]:
    """Start the session's Redis, with the machine's redis-server."""
    server = RedisServer("redis")
    server.start()
    yield server
    server.destroy()


@pytest.fixture
def valkey_url(valkey_server: RedisServer) -> str:
    """Return the URL of an empty Valkey."""
    assert valkey_server.command("FLUSHALL") == b"+OK"
    return valkey_server.url


@pytest.fixture(params=["valkey", "redis"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty server, once for Valkey and once for Redis."""
    name: Literal["valkey_server", "real_redis_server"] = (
        "valkey_server" if request.param == "valkey" else "real_redis_server"
    )
    server: RedisServer = request.getfixturevalue(name)
    assert server.command("FLUSHALL") == b"+OK"
    return server.url
