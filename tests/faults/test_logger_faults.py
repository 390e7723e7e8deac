"""The logger killed in mid-transaction, its disk full, its database locked by another process.

Attacks G1 (sending continues, every event is kept), G5 (each event's effect exactly once), G7 (it catches up).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
import pytest_asyncio

from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0
_KILLS = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender, one logger."""
    async with running(form, Design()) as world:
        yield world


async def test_kill_in_mid_transaction(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G5: five kills, each while a transaction is open; every row exists once, every count is right."""
    blasts: list[Posted] = []
    async with world.queue.watching(checks):
        for number in range(_KILLS):
            blasts.append(await world.client.post(people(400, f"killed{number}")))
            await asyncio.wait_for(_kill_in_transaction(world), _PATIENCE_S)
            await world.restart("logger")
        await oracle.audit(blasts, _PATIENCE_S)
    await oracle.audit_database()


async def test_disk_is_full(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G5, G7: the logger's disk is full: mail is still sent, the logger reports it, and catches up later.

    RLIMIT_FSIZE simulates the full disk: SQLite's writes fail, and it works for root without a mount.
    """
    logger = world.children["logger"]
    with closing(sqlite3.connect(world.database)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    logger.limit_files(1)
    async with world.queue.watching(checks):
        posted = await world.client.post(people(300, "full"))
        await wait_for(lambda: not world.deliveries.missing(posted.job_ids), _PATIENCE_S, "mail to go on")
        await wait_for(lambda: _is_ill(world), _PATIENCE_S, "the logger to say that it cannot write")
        checks.that("G5", await world.queue.unread_events() > 0, "events were acknowledged that were not written")
        checks.that("G7", logger.runs(), "the logger ended because its disk was full")
        logger.limit_files(None)
        await world.healthy("logger", world.form.flows_again_s + _PATIENCE_S)
        await oracle.audit([posted], _PATIENCE_S)
    await oracle.audit_database()


async def test_database_is_locked(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G5, G7: a process holds the database's write lock past every time-out; then all events are written once."""
    with closing(sqlite3.connect(world.database, isolation_level=None)) as intruder:
        intruder.execute("PRAGMA busy_timeout = 10000")
        intruder.execute("BEGIN IMMEDIATE")
        async with world.queue.watching(checks):
            posted = await world.client.post(people(300, "locked"))
            await wait_for(lambda: not world.deliveries.missing(posted.job_ids), _PATIENCE_S, "mail to go on")
            await wait_for(lambda: _is_ill(world), _PATIENCE_S, "the logger to say that it cannot write")
            checks.that("G5", await world.queue.unread_events() > 0, "events were acknowledged that were not written")
            intruder.execute("ROLLBACK")
            await world.healthy("logger", world.form.flows_again_s + _PATIENCE_S)
            await oracle.audit([posted], _PATIENCE_S)
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def _kill_in_transaction(world: World) -> None:
    """Kill the logger while it has a transaction open; freeze it first, so that it keeps the write lock."""
    logger = world.children["logger"]
    while True:
        logger.freeze()
        if _is_writing(world):
            logger.kill()
            return
        logger.thaw()
        if await world.queue.unread_events() < 5:
            await world.client.call("GET", "/api/v1/messages/stats")  # each request is an event to be written
        await asyncio.sleep(0.002)


def _is_writing(world: World) -> bool:
    with closing(sqlite3.connect(world.database, timeout=0, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        probe.execute("ROLLBACK")
        return False


async def _is_ill(world: World) -> bool:
    return await world.health("logger") == 503
