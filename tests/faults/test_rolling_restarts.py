"""Twenty rolling restarts under load: a sender that is asked to stop finishes begun jobs and gives back the rest.

Attacks G1, G2 (no duplicate at all: no sender died), G4, G7.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
_RESTARTS = 20
_PATIENCE_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two senders of each channel over providers that take a few milliseconds."""
    design = Design(email_senders=2, whatsapp=True, env={"KURIR_SANDBOX_LATENCY_MS": "5"})
    async with running(form, design) as world:
        yield world


async def test_twenty_rolling_restarts_under_load(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4: twenty clean restarts while blasts flow lose nothing and send nothing twice."""
    blasts: list[Posted] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            blasts.append(await world.client.post(people(60, "rolling"), ("email", "whatsapp")))
            await asyncio.sleep(0.5)

    names = [name for name in world.children if "sender" in name]
    async with world.queue.watching(checks):
        loading = asyncio.create_task(load())
        for number in range(_RESTARTS):
            child = world.children[names[number % len(names)]]
            code = await child.stop()
            checks.that("G1", code == 0, f"{child.name} stopped with {code}: {child.output()}")
            await world.restart(child.name)
        done.set()
        await loading
        await oracle.audit(blasts, _PATIENCE_S)
    checks.that("G2", not world.logged("sender_reaped"), f"reaped: {world.logged('sender_reaped')}")
    checks.that("G2", not world.logged("grace_time_exceeded"), "a sender ran out of its grace time")
    await oracle.audit_database()
    await oracle.audit_leftovers()
