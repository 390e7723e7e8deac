"""The queue against a plain model: random sequences of steps come to the same counts and the same ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.queue.model import QueueMachine
from tests.servers import Kind, RedisServer


@pytest.fixture(params=["valkey", "redis"])
def quick_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that keeps nothing on disk: thousands of steps need no fsync."""
    kind: Kind = request.param
    server = RedisServer(kind, ["--appendonly", "no"])
    server.start()
    yield server.url
    server.destroy()


def drive(url: str, examples: int) -> None:
    """Run so many random sequences of steps against the server."""
    machine = type("Machine", (QueueMachine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],
        ),
    )


def test_random_steps_agree_with_a_plain_model(quick_url: str) -> None:
    """Enqueue, fetch, begin, crash, finish, fail, defer, pause, resume, cancel, expire, retry, reap, late answers and
    repeated calls in any order: the counts agree after each step (G4), and every job ends once (G1)."""
    drive(quick_url, 12)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_random_steps_agree_with_a_plain_model(quick_url: str) -> None:
    """The same, for a thousand sequences."""
    drive(quick_url, 1000)
