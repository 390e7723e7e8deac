"""FLUSHALL deletes everything in Redis for good; the system reports the loss and continues."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.acts import flowing, logged, repair
from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender at ten messages a second, so that many jobs still wait."""
    async with running(form, Design(env={"KURIR_EMAIL_RATE": "20/1s"})) as world:
        yield world


async def test_jobs_lost_by_flushall_end_as_lost(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1 cannot hold. Instead, the doctor ends every lost job as `lost`, and new work flows immediately (G7)."""
    posted = await world.client.post(people(400, "flushed"))
    await flowing(world, posted, 20)
    await logged(world)
    await asyncio.to_thread(world.redis.command, "FLUSHALL")
    fresh = await world.client.post(people(50, "fresh"))
    await oracle.audit([fresh], world.form.flows_again_s + _PATIENCE_S)
    said = await repair(world, posted, oracle)
    rows = await world.client.rows(posted.blast_id)
    taken = world.deliveries.by_job()
    unsent = [row["job_id"] for row in rows if row["status"] == "sent" and row["job_id"] not in taken]
    checks.none("G1", unsent, len(rows), "jobs said to be sent that no provider took")
    ends = Counter((row["status"], row["error_class"]) for row in rows)
    checks.that("G1", set(ends) <= {("sent", None), ("failed", "lost")}, f"ended as {ends}; {said}")
    checks.that("G1", ends["failed", "lost"] > 0, f"nothing was lost: {ends}")
    await oracle.audit_leftovers()
