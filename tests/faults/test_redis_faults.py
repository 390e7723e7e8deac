"""Redis killed, flushed, paused, without memory; every connection to it cut.

Attacks G1, G2 (no duplicate: no sender was lost, only the server was away), G3, G4, G5, G7 (no storm of reaping).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.queue.control import LOG_BEHIND
from tests.faults.acts import flowing, under_way
from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0
_BUSY = 0.5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two senders over providers that take a few milliseconds."""
    async with running(form, Design(email_senders=2, env={"KURIR_SANDBOX_LATENCY_MS": "10"})) as world:
        yield world


@pytest.mark.parametrize("full_s", [1.0, 30.0])
async def test_redis_is_killed(world: World, oracle: Oracle, checks: Checks, full_s: float) -> None:
    """G1, G2, G7: Redis dies under load and restarts with its data: each job is sent once, and no sender is reaped.

    While it is away no service exits or spins.
    """
    reaped = len(world.logged("sender_reaped"))
    posted = await under_way(world, 1200, "killed-redis")
    world.redis.kill()
    used = _cpu_seconds(world)
    away_s = world.form.seconds(full_s)
    await asyncio.sleep(away_s)
    spent = {name: seconds - used[name] for name, seconds in _cpu_seconds(world).items()}
    if away_s > 2:
        busy = {name: seconds for name, seconds in spent.items() if seconds > away_s * _BUSY}
        checks.none("G7", busy.items(), len(spent), f"services that spin while Redis is away ({away_s:g} s)")
    before = world.deliveries.count()
    await asyncio.to_thread(world.redis.start)
    back = time.monotonic()
    await wait_for(lambda: world.deliveries.count() > before, _PATIENCE_S, "work to flow again")
    took_s = time.monotonic() - back
    checks.that("G7", took_s < world.form.flows_again_s, f"work flowed again after {took_s:.1f} s")
    async with world.queue.watching(checks):
        await oracle.audit(posted, _PATIENCE_S)
    checks.that("G2", len(world.logged("sender_reaped")) == reaped, "a sender was reaped though only Redis had died")
    checks.none("G7", [name for name, child in world.children.items() if child.lives > 1], 1, "services that exited")


async def test_scripts_flushed_and_clients_killed(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4: SCRIPT FLUSH, CLIENT KILL of every connection and CLIENT PAUSE under load lose and repeat nothing."""
    async with world.queue.watching(checks):
        posting = asyncio.create_task(world.client.post(people(2000, "flushed")))
        for number in range(15):
            await asyncio.to_thread(world.redis.command, "SCRIPT", "FLUSH", "SYNC")
            await asyncio.to_thread(world.redis.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            if number % 5 == 4:
                await asyncio.to_thread(world.redis.command, "CLIENT", "PAUSE", "700", "ALL")
            await asyncio.sleep(0.2)
        await oracle.audit([await posting], _PATIENCE_S)


async def test_redis_refuses_to_write(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4, G7: too few replicas for 5 s: clients get 503, no service exits, nothing is sent twice."""
    lives = {name: child.lives for name, child in world.children.items()}
    reaped = len(world.logged("sender_reaped"))
    posted = await world.client.post(people(1200, "refused-writes"))
    await flowing(world, posted, 50)
    await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        posting = asyncio.create_task(world.client.post(people(50, "while-refused"), patience_s=_PATIENCE_S))
        await wait_for(lambda: world.client.posted[-1] is not posted, _PATIENCE_S, "the second request")
        await wait_for(lambda: bool(world.client.posted[-1].answers), _PATIENCE_S, "an answer")
        answers = set(world.client.posted[-1].answers)
        checks.that("G1", answers == {503}, f"a Redis that refuses writes answers {answers}, not 503")
        await asyncio.sleep(5.0)
    finally:
        await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "min-replicas-to-write", "0")
    async with world.queue.watching(checks):
        await oracle.audit([posted, await posting], _PATIENCE_S)
    exited = [name for name, child in world.children.items() if child.lives > lives[name]]
    checks.none("G7", exited, len(lives), "services that exited")
    checks.that("G2", len(world.logged("sender_reaped")) == reaped, "a sender was reaped though only Redis refused")


async def test_memory_is_full(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G4: at maxmemory new work gets 429 and accepted jobs drain; once memory is free, new work is accepted.

    Hard bounces among them are suppressed although no key may grow.
    """
    bouncing = people(10, "full", simulate="bounce")  # 20 refusals in a row would pause the channel
    waiting = await world.client.post(people(1000, "before-full") + bouncing)
    await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "maxmemory", "1mb")
    try:
        async with world.queue.watching(checks):
            posting = asyncio.create_task(world.client.post(people(300, "after-full"), patience_s=_PATIENCE_S * 2))
            await wait_for(lambda: bool(world.client.posted[-1].answers), _PATIENCE_S, "an answer")
            drained = await oracle.within(lambda: _has_drained(world), _PATIENCE_S)
            checks.that("G7", drained, f"a full Redis does not drain: {await world.queue.stats()}")
            answers = set(world.client.posted[-1].answers)
            checks.that("G1", answers == {429}, f"a full Redis answers {answers}, not 429")
    finally:
        await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "maxmemory", "0")
    late = await posting
    async with world.queue.watching(checks):
        await oracle.audit([waiting, late], _PATIENCE_S)
        again = await world.client.post(bouncing)
        await oracle.audit([again], _PATIENCE_S)
    checks.none("G7", [name for name, child in world.children.items() if child.lives > 1], 1, "services that exited")
    statuses = {row["status"] for row in await world.client.rows(again.blast_id)}
    checks.that("G3", statuses == {"suppressed"}, f"hard bounces of a full Redis were not suppressed: {statuses}")
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def test_memory_is_bounded_while_the_logger_is_away(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G4, G7: with the logger stopped, sending uses memory up to its limit; then it waits and reports the reason.

    Once the logger is back, each job is sent once.
    """
    limit = 24_000_000
    await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "maxmemory", str(limit))
    logger = world.children["logger"]
    await logger.stop()
    highest = 0

    async def waits_for_the_log() -> bool:
        nonlocal highest
        memory = await world.queue.control.server_memory()
        highest = max(highest, memory.used)
        stats = await world.queue.stats()
        # Senders finish the jobs that they had fetched before they stop.
        stands = bool(stats.senders) and all(sender.reason == LOG_BEHIND for sender in stats.senders)
        return stands and not stats.active

    try:
        # while messages go out, a slow post would find the events past the limit for new work
        await world.queue.control.pause_channel("email", "until all are accepted, however long that takes")
        posted = [await world.client.post(people(2500, f"unlogged-{number}")) for number in range(8)]
        await world.queue.control.resume_channel("email")
        waits = await oracle.within(waits_for_the_log, _PATIENCE_S)
        checks.that("G7", waits, "senders do not say that the log is behind")
        checks.that("G7", highest < limit * 1.1, f"Redis took {highest:,} bytes with a limit of {limit:,}")
        taken = world.deliveries.count()
        await asyncio.sleep(2.0)
        checks.that("G7", world.deliveries.count() == taken, "senders went on though the log is behind")
    finally:
        logger.start()
        await world.healthy("logger")
    async with world.queue.watching(checks):
        await oracle.audit(posted, _PATIENCE_S * 2)
    await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "maxmemory", "0")


async def _has_drained(world: World) -> bool:
    stats = await world.queue.stats()
    return not stats.waiting + stats.active + stats.delayed


def _cpu_seconds(world: World) -> dict[str, float]:
    times = {name: child.process.cpu_times() for name, child in world.children.items()}
    return {name: one.user + one.system for name, one in times.items()}
