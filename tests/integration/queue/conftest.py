"""The world of the queue's tests: on Valkey, on Redis, and, for modules that say so, in several partitions and behind
Sentinels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clusters import PATIENT, Cluster, running_cluster
from tests.integration.queue.world import World, open_world
from tests.sentinels import Sentinel
from tests.servers import PATIENCE_S, RedisServer


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of a world on both servers, and on Valkey with the other numbers in the module's `PARTITIONS`.

    With `SENTINELS` a module's tests run with one and with four partitions on a Valkey that a Sentinel names, with
    `CLUSTER` with four on a cluster of three masters and three replicas.
    """
    if "world" in metafunc.fixturenames:
        kinds = [("valkey", 1), ("redis", 1)]
        kinds += [("valkey", count) for count in getattr(metafunc.module, "PARTITIONS", ())]
        names = [kind if count == 1 else f"{count} partitions" for kind, count in kinds]
        if getattr(metafunc.module, "SENTINELS", False):
            kinds += [("sentinel", 1), ("sentinel", 4)]
            names += ["sentinel", "sentinel, 4 partitions"]
        if getattr(metafunc.module, "CLUSTER", False):
            kinds.append(("cluster", 4))
            names.append("cluster, 4 partitions")
        metafunc.parametrize("world", kinds, ids=names, indirect=True)


@pytest.fixture(scope="session")
def sentinel(valkey_server: RedisServer) -> Iterator[Sentinel]:
    """Start a Sentinel that watches the session's Valkey."""
    sentinel = Sentinel(valkey_server.port)
    try:
        sentinel.await_ready()
        yield sentinel
    finally:
        sentinel.destroy()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """Start one cluster for all tests that leave it whole."""
    with running_cluster(options=PATIENT) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer than the product does for partitions that do not answer: on a busy machine they are only slow."""
    for module in ("consumers", "event_log"):
        monkeypatch.setattr(f"shared.queue.{module}.PATIENCE_S", PATIENCE_S)


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """An empty queue; of several partitions, a small blast goes to the first one."""
    kind, partitions = request.param
    if kind == "cluster":
        cluster: Cluster = request.getfixturevalue("shared_cluster")
        cluster.flush()
        url = cluster.url
    else:
        server: RedisServer = request.getfixturevalue("real_redis_server" if kind == "redis" else "valkey_server")
        assert server.command("FLUSHALL") == b"+OK"
        url = request.getfixturevalue("sentinel").url if kind == "sentinel" else server.url
    world = open_world(url, partitions=partitions)
    yield world
    await world.redis.aclose()
