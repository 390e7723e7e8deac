"""Fixtures for all tests: real servers, started once per session and emptied before each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings

from shared.importing import never_collected
from tests import servers
from tests.postgres_servers import PostgresServer
from tests.servers import RedisServer

_ROOM = 4 * 1024**3

# no deadline, and no bound on making examples: both times depend mostly on the load of the machine
settings.register_profile("kurir", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kurir")

# A process that imports aiohttp reads the machine's certificates, a tenth of a service's start; no test needs them.
os.environ.setdefault("SSL_CERT_FILE", os.devnull)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--seed` (or KURIR_SEED), which repeats a random mix of faults."""
    parser.addoption("--seed", type=int, default=None, help="seed of the random mix of faults")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the servers' data in memory, if there is room, unless the run includes the soak, which uses a real disk."""
    memory = Path("/dev/shm")
    if "not soak" in (config.option.markexpr or "") and memory.is_dir() and shutil.disk_usage(memory).free > _ROOM:
        servers.data_parent = memory


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage among ten thousand tests, which stay until the end."""
    with never_collected():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make each test of a cost a timing test that is run up to three times, since other work only adds to a time.

    The other timing tests also claim that something never happens too early, so they are run once.
    """
    for item in items:
        if item.get_closest_marker("cost"):
            item.add_marker("timing")
            if config.pluginmanager.hasplugin("rerunfailures"):
                item.add_marker(pytest.mark.flaky(reruns=2))


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start the session's PostgreSQL; a test that kills the server makes its own `PostgresServer`."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
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
