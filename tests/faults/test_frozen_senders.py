"""Senders that are frozen, and jobs that kill their sender.

Attacks G1 (nothing lost), G2 (only jobs that the frozen sender had in mid-send twice, under one Message-ID), G3, G7.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.acts import flowing, freeze
from tests.faults.checks import Checks
from tests.faults.children import Child
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0
_DEADLY = "deadly"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Three email senders, each with a proxy to its mail server, which is slow enough to catch jobs in mid-send."""
    design = Design(email_senders=3, mail_proxy=True, env={"KURIR_SANDBOX_LATENCY_MS": "20"})
    async with running(form, design) as world:
        yield world


async def test_sender_frozen_for_20_and_for_90_seconds(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G7: two senders freeze under load, one for 20 s, one for 90 s, while the third continues.

    Their jobs in mid-send may be sent once more, their buffered jobs may not. Both work afterwards.
    """
    posted = await world.client.post(people(1000, "frozen"))
    await flowing(world, posted, 100)
    async with world.queue.watching(checks):
        await asyncio.gather(
            _freeze_for(world, world.senders[1], oracle, 20.0),
            _freeze_for(world, world.senders[2], oracle, 90.0),
            _keeps_flowing(world, posted, checks),
        )
        again = await world.client.post(people(300, "thawed"))
        await oracle.audit([posted, again], _PATIENCE_S)
    for child in world.senders:
        await world.healthy(child.name, world.form.flows_again_s)
    assert {sender.pid for sender in world.senders} == await _pids_that_sent(world)


async def test_job_that_kills_its_sender_each_time(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G3: a poison job ends as failed after it has been abandoned three times; all others are delivered."""
    deaths: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    def arm(child: Child) -> None:
        async def strike(address: str) -> None:
            if address.startswith(_DEADLY) and child.runs():
                oracle.allow((await freeze(world, child)).in_flight)
                child.kill()
                deaths.append(child.name)
                tasks.add(asyncio.create_task(world.restart(child.name)))

        world.mails[child.name].on_recipient = strike

    for sender in world.senders:
        arm(sender)
    others = await world.client.post(people(300, "bystander"))
    poison = await world.client.post(people(1, _DEADLY), priority=0)
    async with world.queue.watching(checks):
        await oracle.audit([others, poison], _PATIENCE_S + 3 * world.form.dead_sender_s)
    for mail in world.mails.values():
        mail.on_recipient = None
    await asyncio.gather(*tasks)
    (row,) = await world.client.rows(poison.blast_id)
    checks.that("G1", (row["status"], row["error_class"]) == ("failed", "poison"), f"the poison job ended as {row}")
    assert len(deaths) == 3, deaths
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def _freeze_for(world: World, sender: Child, oracle: Oracle, full_s: float) -> None:
    held = await freeze(world, sender)
    oracle.allow(held.in_flight)
    await asyncio.sleep(world.form.seconds(full_s))
    sender.thaw()


async def _keeps_flowing(world: World, posted: Posted, checks: Checks) -> None:
    """While two senders are frozen, all jobs are sent, including those they held, within the time of a dead sender."""
    began = time.monotonic()
    limit_s = world.form.dead_sender_s + _PATIENCE_S / 4
    while world.deliveries.missing(posted.job_ids):
        if time.monotonic() - began > limit_s:
            break
        await asyncio.sleep(0.1)
    missing = world.deliveries.missing(posted.job_ids)
    checks.none("G7", missing, posted.total, f"jobs that waited for a frozen sender for {limit_s:g} s")


async def _pids_that_sent(world: World) -> set[int]:
    """Post small blasts until every living sender has begun a job; the log says which sender began which job."""
    pids: set[int] = set()

    async def all_did() -> bool:
        await world.client.post(people(50, "roll-call"))
        senders = (await world.queue.stats()).senders
        pids.update(sender.pid for sender in world.senders for one in senders if f"-{sender.pid}-" in one.sender_id)
        return len(pids) == len(world.senders)

    await wait_for(all_did, _PATIENCE_S, "every sender to be alive")
    return pids
