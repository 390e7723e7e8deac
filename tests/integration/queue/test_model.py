"""The queue against a plain model: random sequences of steps lead to the same counts and the same ends."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.clusters import PATIENT, running_cluster
from tests.integration.queue.model import QueueMachine
from tests.sentinels import Sentinel
from tests.servers import Kind, RedisServer

# the first example of each seed is the simplest one
SETTINGS = settings(
    max_examples=4,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)


@contextmanager
def quick_server(kind: Kind) -> Iterator[RedisServer]:
    """Run a server that keeps nothing on disk: thousands of steps need no fsync."""
    server = RedisServer(kind, ["--appendonly", "no"])
    server.start()
    try:
        yield server
    finally:
        server.destroy()


@pytest.fixture(params=["valkey", "redis"])
def quick_url(request: pytest.FixtureRequest) -> Iterator[str]:
    kind: Kind = request.param
    with quick_server(kind) as server:
        yield server.url


@pytest.fixture
def sentinel_url() -> Iterator[str]:
    """The URL of a Sentinel that names such a server."""
    with quick_server("valkey") as server:
        sentinel = Sentinel(server.port)
        try:
            sentinel.await_ready()
            yield sentinel.url
        finally:
            sentinel.destroy()


@pytest.fixture
def cluster_url() -> Iterator[str]:
    """The URL of a cluster of three masters and three replicas that keep nothing on disk."""
    with running_cluster(options=["--appendonly", "no", *PATIENT]) as cluster:
        yield cluster.url


@pytest.fixture(params=[1, 4])
def partitions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of the queue's partitions, over which small blasts are spread.

    A bulk blast has a stream of its own from three jobs on (in a partition), so that few jobs cover every path.
    """
    count = int(request.param)
    monkeypatch.setattr("shared.queue.producer.OWN_STREAM_FROM", 3 if count == 1 else 2)
    for module in ("shared.blasts", "tests.integration.queue.world"):
        monkeypatch.setattr(f"{module}.SPAN", 2)
    return count


def drive(url: str, partitions: int, most_s: float) -> None:
    """Run random sequences of steps until the time is over; CI always runs the same ones."""
    over = time.monotonic() + most_s
    for number in itertools.count(0 if os.environ.get("CI") else random.randrange(10**6)):
        machine = seed(number)(type("Machine", (QueueMachine,), {"url": url, "partitions": partitions}))
        # each step is compared with the contents of every partition
        examples = settings(SETTINGS, max_examples=4 if partitions == 1 else 2)
        run_state_machine_as_test(machine, settings=examples)
        if time.monotonic() > over:
            return


def test_random_steps_agree_with_a_plain_model(quick_url: str, partitions: int) -> None:
    """Enqueue, fetch, begin, crash, finish, fail, defer, pause, resume, cancel, expire, retry, reap, late answers and
    repeated calls in any order: the counts agree after each step (G4), and every job ends once (G1)."""
    drive(quick_url, partitions, 12)


def test_random_steps_agree_with_a_plain_model_behind_sentinel(sentinel_url: str, partitions: int) -> None:
    """The same, on a server that a Sentinel names."""
    drive(sentinel_url, partitions, 0)


def test_random_steps_agree_with_a_plain_model_on_a_cluster(cluster_url: str, partitions: int) -> None:
    """The same, on a cluster, over whose nodes the partitions are spread."""
    drive(cluster_url, partitions, 0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_random_steps_agree_with_a_plain_model(quick_url: str, partitions: int) -> None:
    """The same, for a quarter of an hour."""
    drive(quick_url, partitions, 900)
