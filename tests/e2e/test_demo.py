"""`kurir demo`: the whole system, undisturbed and with each of its services killed in turn."""

from __future__ import annotations

import re
import time
from collections import Counter

import psutil
import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.servers import wait_for

_DEMO_TIMEOUT_S = 170.0
_VICTIMS = ("email_sender", "ingest", "logger", "receipts", "whatsapp_sender", "webhook_sender", "redis")


def _deliveries(system: System) -> Counter[tuple[str, str]]:
    return Counter((one["channel"], one["to"]) for one in system.delivered())


@pytest.mark.timeout(300)
def test_demo_adds_up(make_system: MakeSystem) -> None:
    """It exits with 0, shows sent and failed messages, and the sandbox receives each message exactly once.

    It says when the console answered, counted from the start of `make`.
    """
    system, began = make_system(), time.time()
    system.start("demo", ["--began", str(began - 500)])
    assert system.wait(_DEMO_TIMEOUT_S) == 0, system.output()
    answered = re.search(r"The console answers after (\d+) s: (http://\S+/console/)", system.output())
    assert answered is not None, system.output()
    assert 500 < int(answered[1]) < 500 + time.time() - began
    assert answered[2].endswith(f":{system.port}/console/")
    assert "6 services and the sandbox" in system.output()
    assert "The numbers add up" in system.output()
    delivered = _deliveries(system)
    assert set(delivered.values()) == {1}
    assert Counter(channel for channel, _ in delivered).keys() == {"email", "whatsapp"}
    assert 1900 < len(delivered) < 2000  # all except the simulated failures


@pytest.mark.timeout(400)
async def test_demo_with_each_service_killed_in_turn(make_system: MakeSystem) -> None:
    """kill -9 of each service in the middle of the demo loses nothing: it restarts, and the numbers add up."""
    system = make_system(KURIR_TIME_SCALE="0.25", KURIR_SANDBOX_LATENCY_MS="20")
    system.start("demo")
    await wait_for(lambda: len(system.delivered()) > 100, 60, "the demo to send")
    for name in _VICTIMS:
        assert system.process.poll() is None, f"the demo ended before {name} could be killed: {system.output()}"
        await _kill(system, name)
    assert system.wait(_DEMO_TIMEOUT_S) == 0, system.output()
    assert "The numbers add up" in system.output()


async def _kill(system: System, name: str) -> None:
    """Kill a service once it runs, and wait until it has restarted."""
    await wait_for(lambda: system.child(name) is not None, 30, f"{name} to run")
    victim = system.child(name)
    assert victim is not None
    victim.kill()
    victim.wait(60)
    await wait_for(lambda: _is_back(system, name, victim), 30, f"{name} to come back")


def _is_back(system: System, name: str, victim: psutil.Process) -> bool:
    found = system.child(name)
    return found is not None and found.pid != victim.pid
