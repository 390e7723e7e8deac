"""Replies that are lost after the script ran, connections that are reset, and a Redis that falls silent.

Attacks G1, G2 (no duplicate, except of jobs that a sender cut off past its lease had in mid-send), G4, G5, G7.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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
_SERVICES = frozenset({"ingest", "email_sender", "email_sender-2", "logger"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two senders; every service reaches Redis through its own proxy."""
    design = Design(email_senders=2, proxied=_SERVICES, env={"KURIR_SANDBOX_LATENCY_MS": "10"})
    async with running(form, design) as world:
        yield world


@pytest.mark.parametrize("script", ["enqueue", "fetch", "begin", "settle", "heartbeat", "find_dead"])
async def test_reply_of_a_script_is_lost(world: World, oracle: Oracle, checks: Checks, script: str) -> None:
    """G1, G2, G4: the script ran and its reply was lost, five times: repeated calls change nothing twice."""
    service = "ingest" if script == "enqueue" else "email_sender"
    proxy = world.redis_proxies[service]
    proxy.lose_reply(script, 5)
    async with world.queue.watching(checks):
        posted = await world.client.post(people(1100 if script == "enqueue" else 300, f"lost-{script}"))
        await oracle.audit([posted], _PATIENCE_S)
    await wait_for(lambda: proxy.broken[f"lost reply of {script}"] == 5, _PATIENCE_S, "five replies to be lost")


async def test_connections_are_reset_again_and_again(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4, G5: thirty resets of every service's connections under load lose and repeat nothing."""
    async with world.queue.watching(checks):
        posting = asyncio.create_task(world.client.post(people(2000, "reset")))
        for _ in range(30):
            for proxy in world.redis_proxies.values():
                proxy.cut_all()
            await asyncio.sleep(0.1)
        await oracle.audit([await posting], _PATIENCE_S)


@pytest.mark.parametrize("taken", [0, 50])
async def test_redis_falls_silent_for_one_sender(world: World, oracle: Oracle, checks: Checks, taken: int) -> None:
    """G2, G7: a sender cut off past its lease begins nothing; the other takes over; only mid-sends may repeat."""
    proxy, sender = world.redis_proxies["email_sender"], world.children["email_sender"]
    posted = await world.client.post(people(1500, "silent"))
    async with world.queue.watching(checks):
        await flowing(world, posted, taken)
        proxy.silence()
        await asyncio.sleep(0.2)  # bytes that had passed the proxy arrive
        oracle.allow((await world.queue.holding(sender.pid)).in_flight)
        missing: set[str] = set()

        def all_taken() -> bool:
            missing.clear()
            missing.update(world.deliveries.missing(posted.job_ids))
            return not missing

        limit_s = world.form.dead_sender_s + _PATIENCE_S / 4
        in_time = await oracle.within(all_taken, limit_s)
        stats = await world.queue.stats()
        checks.that("G7", in_time, f"the other sender did not take over within {limit_s:g} s: {stats}")
        proxy.heal()
        await oracle.audit([posted], _PATIENCE_S)
    await world.healthy("email_sender", world.form.flows_again_s)


async def test_redis_falls_silent_for_everyone(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G4, G5, G7: Redis is silent for all services for half a minute; then work flows again, nothing is lost."""
    posted = await world.client.post(people(1000, "deaf"))
    async with world.queue.watching(checks):
        for proxy in world.redis_proxies.values():
            proxy.silence()
        for sender in world.senders:
            oracle.allow((await world.queue.holding(sender.pid)).in_flight)
        await asyncio.sleep(world.form.seconds(30))
        for proxy in world.redis_proxies.values():
            proxy.heal()
        before = world.deliveries.count()
        later = await world.client.post(people(100, "heard"), priority=0)
        limit_s = world.form.flows_again_s
        await wait_for(lambda: world.deliveries.count() > before, limit_s + _PATIENCE_S, "work to flow again")
        await oracle.audit([posted, later], _PATIENCE_S)
    await oracle.audit_database()
    await oracle.audit_leftovers()
