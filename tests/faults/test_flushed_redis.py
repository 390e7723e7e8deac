"""FLUSHALL: everything that was in Redis is gone. Nothing can bring it back; the system can say so and go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.acts import flowing
from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0
_KURIR = Path(sys.executable).with_name("kurir")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender at ten messages a second, so that much still waits."""
    async with running(form, Design(env={"KURIR_EMAIL_RATE": "20/1s"})) as world:
        yield world


async def test_flushall_is_owned_up_to(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1 cannot hold; instead: the doctor ends every job that vanished as lost, and new work flows at once (G7)."""
    posted = await world.client.post(people(400, "flushed"))
    await flowing(world, posted, 20)
    await wait_for(lambda: _all_written(world), _PATIENCE_S, "the log to know the jobs")
    await asyncio.to_thread(world.redis.command, "FLUSHALL")
    fresh = await world.client.post(people(50, "fresh"))
    await oracle.audit([fresh], world.form.flows_again_s + _PATIENCE_S)

    said = ""

    async def is_mended() -> bool:
        nonlocal said
        said = await asyncio.to_thread(_doctor, world)
        return await _all_ended(world, posted.blast_id)

    mended = await oracle.within(is_mended, _PATIENCE_S)
    checks.that("G1", mended, f"the doctor leaves jobs without an end: {said}")
    rows = await world.client.rows(posted.blast_id)
    taken = world.deliveries.by_job()
    unsent = [row["job_id"] for row in rows if row["status"] == "sent" and row["job_id"] not in taken]
    checks.none("G1", unsent, len(rows), "jobs said to be sent that no provider took")
    ends = Counter((row["status"], row["error_class"]) for row in rows)
    checks.that("G1", set(ends) <= {("sent", None), ("failed", "lost")}, f"ended as {ends}; {said}")
    checks.that("G1", ends["failed", "lost"] > 0, f"nothing was lost: {ends}")
    await oracle.audit_leftovers()


async def _all_written(world: World) -> bool:
    return await world.queue.unread_events() < 5


async def _all_ended(world: World, blast_id: str) -> bool:
    rows = await world.client.rows(blast_id)
    return len(rows) == 400 and all(row["status"] in {"sent", "failed"} for row in rows)


def _doctor(world: World) -> str:
    env = world.children["ingest"].env
    words = [str(_KURIR), "doctor", "--repair", "--older-than", "1"]
    done = subprocess.run(words, env=env, cwd=world.folder, capture_output=True, text=True, timeout=60, check=False)
    return f"doctor exited with {done.returncode}: {done.stdout}{done.stderr}"
