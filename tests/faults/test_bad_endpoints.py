"""Twenty endpoints that hang, refuse, flood and break off, beside a good one, which notices nothing of them.

Attacks the last sentence of G9. One sender process serves all of them. The twenty are bad and well by turns, so that a
machine that becomes busier meanwhile slows both alike.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from shared.webhooks import make_secret
from tests.faults.bad_endpoints import KINDS
from tests.faults.webhook_system import QUICK, ROOT, Receiver, System, listening, running
from tests.servers import RedisServer, free_port, wait_for

FIRST_BAD = 11
ROUNDS, SAMPLES, BURST = 2, 24, 10
# shared workers would cost seconds
MOST_SLOWER = 2.0


@asynccontextmanager
async def bad_endpoints(folder: Path) -> AsyncIterator[list[str]]:
    """Run the bad endpoints in a process of their own; yield the URLs of twenty."""
    port, nothing = _two_ports(), free_port()
    command = [sys.executable, "-m", "tests.faults.bad_endpoints", str(port), str(folder)]
    with (folder / "bad_endpoints.out").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        await wait_for((folder / "ready").exists, 30, "the bad endpoints")
        yield [
            *(f"http://127.0.0.1:{port}/{kind}" for kind in KINDS),
            *[f"https://127.0.0.1:{port + 1}/untrusted"] * 3,
            *[f"https://127.0.0.1:{port}/plain"] * 3,
            *[f"http://127.0.0.1:{nothing}/nobody"] * 3,
        ]
    finally:
        process.kill()
        process.wait()


def _two_ports() -> int:
    """Return a free port whose successor is free too."""
    while True:
        first, second = free_port(), free_port()
        if second == first + 1:
            return first


class Turns:
    """Leads twenty endpoints to bad places or to a good one, and measures another that is good all the time."""

    def __init__(self, system: System, receiver: Receiver, port: int, bad: list[str], heard: Path) -> None:
        self._system = system
        self._receiver = receiver
        self._good = f"http://127.0.0.1:{port}/idle"
        self._bad = bad
        self._heard = heard
        self.numbers = range(FIRST_BAD, FIRST_BAD + len(bad))

    async def begin(self) -> None:
        """Write all endpoints, the twenty as good ones."""
        await self._system.put(QUICK, self._good, self._receiver.secrets["idle"])
        await self._lead([self._good] * len(self._bad))

    async def turn_bad(self) -> None:
        """Lead the twenty to bad places; wait until each that can be reached has got a request."""
        await self._lead(self._bad)
        before = self.requests()
        async with asyncio.timeout(60):
            while len(self.requests() - before) < len(KINDS):  # the sender reads the new URLs within a second
                await self._deliver(1)
                await asyncio.sleep(0.2)
        await self._deliver(BURST)

    async def turn_well(self) -> None:
        """Lead the twenty to a good place; wait until nothing is under way to a bad one."""
        await self._lead([self._good] * len(self._bad))

        async def is_calm() -> bool:
            stats = [await self._system.stats(number) for number in self.numbers]
            return all(one.active == one.waiting == 0 for one in stats)

        await wait_for(is_calm, 60, "the twenty to be calm")

    async def _deliver(self, count: int) -> None:
        for number in self.numbers:
            await self._system.deliver(number, count)

    async def _lead(self, urls: list[str]) -> None:
        for number, url in zip(self.numbers, urls, strict=True):
            await self._system.put(number, url, self._receiver.secrets["idle"])

    def requests(self) -> Counter[str]:
        """Return how many requests the bad endpoints got, by kind."""
        return Counter(self._heard.read_text().split() if self._heard.exists() else ())

    async def waits_s(self) -> list[float]:
        """Deliver one at a time to the other endpoint; return how long each took to arrive there."""
        found = []
        for _ in range(SAMPLES):
            webhook_id, begun = f"evt_{QUICK}_{self._system.enqueued[QUICK]}", time.monotonic()
            await self._system.deliver(QUICK, 1)
            await wait_for(partial(self._receiver.arrived_at.get, webhook_id), 90, "a delivery")
            found.append(self._receiver.arrived_at[webhook_id] - begun)
            await asyncio.sleep(0.02)
        return found


@pytest.mark.timing
async def test_bad_endpoints_delay_a_good_one_by_nothing_measurable(tmp_path: Path) -> None:
    """The typical time to its arrival is the same beside twenty bad ones as beside twenty well ones (attacks G9)."""
    server, receiver = RedisServer("valkey"), Receiver({"idle": make_secret()})
    server.start()
    well: list[float] = []
    bad: list[float] = []
    try:
        async with (
            bad_endpoints(tmp_path) as urls,
            listening(receiver) as port,
            running(server, tmp_path, 1.0, senders=1, answer_s=4) as system,
        ):
            turns = Turns(system, receiver, port, urls, tmp_path / "heard")
            await turns.begin()
            await turns.waits_s()
            for _ in range(ROUNDS):
                well += await turns.waits_s()
                await turns.turn_bad()
                bad += await turns.waits_s()
                await turns.turn_well()
            requests = turns.requests()
    finally:
        server.destroy()
    assert receiver.forged == []
    print(f"FIGURES {_words(well)} beside well ones; {_words(bad)} beside bad ones; {dict(requests)}")  # noqa: T201 -- for pytest -s
    assert statistics.median(bad) < statistics.median(well) * MOST_SLOWER


def _words(waits_s: list[float]) -> str:
    tenths = statistics.quantiles(waits_s, n=10)
    return f"median {statistics.median(waits_s) * 1e3:.1f} ms, nine of ten within {tenths[8] * 1e3:.1f} ms"
