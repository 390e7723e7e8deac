"""The queue against a plain model: random sequences of steps lead to the same counts and the same ends."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.queue.model import QueueMachine
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


@pytest.fixture(params=["valkey", "redis"])
def quick_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that keeps nothing on disk: thousands of steps need no fsync."""
    kind: Kind = request.param
    server = RedisServer(kind, ["--appendonly", "no"])
    server.start()
    yield server.url
    server.destroy()


@pytest.fixture(autouse=True)
def small_bulk_blasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk blast has a stream of its own from three jobs on, so that few jobs cover every path."""
    monkeypatch.setattr("shared.queue.producer.OWN_STREAM_FROM", 3)


def drive(url: str, most_s: float) -> None:
    """Run random sequences of steps until the time is over; CI always runs the same ones."""
    over = time.monotonic() + most_s
    for number in itertools.count(0 if os.environ.get("CI") else random.randrange(10**6)):
        machine = seed(number)(type("Machine", (QueueMachine,), {"url": url}))
        run_state_machine_as_test(machine, settings=SETTINGS)
        if time.monotonic() > over:
            return


def test_random_steps_agree_with_a_plain_model(quick_url: str) -> None:
    """Enqueue, fetch, begin, crash, finish, fail, defer, pause, resume, cancel, expire, retry, reap, late answers and
    repeated calls in any order: the counts agree after each step (G4), and every job ends once (G1)."""
    drive(quick_url, 12)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_random_steps_agree_with_a_plain_model(quick_url: str) -> None:
    """The same, for a quarter of an hour."""
    drive(quick_url, 900)
