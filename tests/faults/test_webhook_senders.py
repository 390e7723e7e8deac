"""Webhook senders and Redis are killed while they deliver: nothing is lost, and each delivery keeps its id and body.

The senders are processes, the endpoints are a real HTTP server. A delivery may arrive twice, under the same id: at most
those that were in flight when a sender or Redis was killed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.webhook_system import (
    BUSY,
    FLAKY,
    HANGING,
    PATHS,
    QUICK,
    UNTRUSTED,
    Receiver,
    System,
    listening,
    nobodys_context,
    running,
)
from tests.integration.queue.webhooks import ids
from tests.servers import Kind, RedisServer, free_port, wait_for

HOUR_SCALE = 0.02


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    kind: Kind = request.param
    server = RedisServer(kind)
    server.start()
    yield server
    server.destroy()


@pytest.fixture
async def system(server: RedisServer, tmp_path: Path) -> AsyncIterator[System]:
    """Two webhook senders; a twentieth of all times: the waits between attempts are 0.25 s, 15 s, …."""
    async with running(server, tmp_path, 0.05) as found:
        yield found


async def test_kills_lose_no_delivery(system: System) -> None:
    """Kill -9 of senders and Redis, again and again: every delivery arrives, with one id and one body (attacks G9)."""
    receiver, kills = Receiver(), 0
    async with listening(receiver) as port, listening(receiver, context=nobodys_context()) as untrusted:
        await system.publish(port, receiver.secrets, {UNTRUSTED: f"https://127.0.0.1:{untrusted}/untrusted"})
        for turn in range(6):
            for number, count in ((QUICK, 60), (FLAKY, 20), (BUSY, 20), (HANGING, 10), (UNTRUSTED, 5)):
                await system.deliver(number, count)
            await asyncio.sleep(random.uniform(0.2, 1.0))
            if turn in {1, 4}:
                system.server.kill()
                await asyncio.sleep(0.2)
                system.server.start()
            else:
                victim = random.choice(system.senders)
                victim.kill()
                victim.start()
            kills += 1
        receiver.hanging = False
        assert not receiver.requests["untrusted"]
        await system.move(UNTRUSTED, port, receiver.secrets)

        async def are_all_there() -> bool:
            return all(len(receiver.taken[PATHS[number]]) == count for number, count in system.enqueued.items())

        await wait_for(are_all_there, 150, "every delivery")
        await wait_for(system.have_ended, 60, "every outcome")
    assert receiver.forged == []
    assert all(len(bodies) == 1 for bodies in receiver.bodies.values())
    for number, name in PATHS.items():
        sent, ended = await system.outcomes(number)
        assert not ended
        assert sent == Counter(ids(number, 0, system.enqueued[number]))
        twice = sum(count - 1 for count in receiver.taken[name].values())
        assert twice <= kills * 10, "only what was in flight at a kill may arrive twice"


async def test_a_stop_finishes_what_is_in_flight(server: RedisServer, tmp_path: Path) -> None:
    """SIGTERM ends a sender with 0; the other delivers the rest, and nothing arrives twice."""
    receiver = Receiver()
    async with listening(receiver) as port, running(server, tmp_path, 0.05, answer_s=10) as system:
        await system.publish(port, receiver.secrets)
        await system.deliver(QUICK, 1)
        await wait_for(lambda: len(receiver.taken["quick"]) == 1, 30, "the first delivery")
        await system.deliver(QUICK, 300)
        assert await system.senders[0].stop() == 0
        await wait_for(lambda: len(receiver.taken["quick"]) == 301, 30, "every delivery")
    assert set(receiver.taken["quick"].values()) == {1}


async def test_an_endpoint_away_for_an_hour_gets_everything(tmp_path: Path) -> None:
    """Nothing listens for an hour (72 s at a fiftieth): no attempt is used, and all arrives soon after its return."""
    server, away_s = RedisServer("valkey"), 3600 * HOUR_SCALE
    server.start()
    receiver = Receiver()
    try:
        async with listening(receiver) as port, running(server, tmp_path, HOUR_SCALE, answer_s=10) as system:
            gone = free_port()
            await system.publish(port, receiver.secrets, {FLAKY: f"http://127.0.0.1:{gone}/flaky"})
            await system.deliver(QUICK, 1)
            await wait_for(partial(receiver.has, "quick", 1), 60, "the first delivery")
            gone_at = time.monotonic()
            for turn in range(24):
                await system.deliver(FLAKY, 10)
                await system.deliver(QUICK, 10)
                await asyncio.sleep(max(0.0, gone_at + away_s * (turn + 1) / 24 - time.monotonic()))
                await wait_for(
                    partial(receiver.has, "quick", 10 * turn), 30, "another endpoint, which must not wait for it"
                )
            back = Receiver(receiver.secrets, calm=True)
            async with listening(back, gone):
                back_at = time.monotonic()
                await system.deliver(QUICK, 240)
                await wait_for(lambda: len(back.taken["flaky"]) == 240, 60, "every delivery")
                await wait_for(
                    partial(receiver.has, "quick", 481), 60, "as many of another, to know how fast they can be"
                )
                usual_s = max(receiver.arrived_at.values()) - back_at
                # the slowest probe comes a minute after the one before it
                assert max(back.arrived_at.values()) - back_at < 60 * HOUR_SCALE + max(10, 2 * usual_s), usual_s
            await wait_for(partial(system.have_ended, [FLAKY]), 60, "every outcome")
            sent, ended = await system.outcomes(FLAKY)
            attempts = await system.attempts(FLAKY)
    finally:
        server.destroy()
    assert not ended
    assert sent == Counter(ids(FLAKY, 0, 240))
    assert attempts == {1}
    assert set(back.taken["flaky"].values()) == {1}
