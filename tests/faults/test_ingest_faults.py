"""Ingest killed in mid-blast, and a client that repeats its request with the same key.

Attacks G1 (accepted jobs are kept), G2 (nothing is queued twice), G4.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender; ingest reaches Redis through a proxy."""
    async with running(form, Design(proxied=frozenset({"ingest"}))) as world:
        yield world


@pytest.mark.parametrize("chunks", [0, 1, 3])
async def test_kill_in_mid_blast(world: World, oracle: Oracle, checks: Checks, chunks: int) -> None:
    """G1, G2, G4: killed after 0, 1 or 3 of six chunks; the client repeats its request, and each job exists once."""
    proxy = world.redis_proxies["ingest"]
    already = proxy.broken["held enqueue"]
    proxy.hold("enqueue", after=chunks)
    async with world.queue.watching(checks):
        posting = asyncio.create_task(world.client.post(people(3000, f"midblast{chunks}"), patience_s=_PATIENCE_S))
        await wait_for(lambda: proxy.broken["held enqueue"] > already, _PATIENCE_S, "a chunk to be kept back")
        world.children["ingest"].kill()
        proxy.release("enqueue")
        world.children["ingest"].start()
        posted = await posting
        checks.that("G1", posted.total == 3000, f"{posted.total} jobs were accepted, not 3000")
        await oracle.audit([posted], _PATIENCE_S)


@pytest.mark.parametrize("killed", [False, True], ids=["lives on", "killed"])
async def test_single_messages_whose_reply_is_lost(world: World, oracle: Oracle, checks: Checks, killed: bool) -> None:
    """G1, G2, G4: messages that share a call, whose reply is lost, once and again; ingest continues them, or its
    successor does when the clients repeat their requests: each exists once."""
    proxy = world.redis_proxies["ingest"]
    seen = proxy.broken["lost reply of accept"]
    proxy.lose_reply("accept", 2)
    async with world.queue.watching(checks):
        recipients = people(30, f"single{killed}")
        posting = [asyncio.create_task(world.client.post_message(one, patience_s=_PATIENCE_S)) for one in recipients]
        await wait_for(lambda: proxy.broken["lost reply of accept"] > seen, _PATIENCE_S, "the reply to be lost")
        if killed:
            world.children["ingest"].kill()
            await world.restart("ingest")
        await oracle.audit(await asyncio.gather(*posting), _PATIENCE_S)


async def test_a_single_message_without_a_key_outlasts_an_outage(world: World, oracle: Oracle, checks: Checks) -> None:
    """G2: its reply is lost and Redis stays away for a second: the client, which would send it again, gets no error."""
    proxy = world.redis_proxies["ingest"]
    seen = proxy.broken["lost reply of accept"]
    proxy.lose_reply("accept")
    posting = asyncio.create_task(world.client.post_message(people(1, "keyless")[0], keyed=False))
    await wait_for(lambda: proxy.broken["lost reply of accept"] > seen, _PATIENCE_S, "the reply to be lost")
    proxy.refuse()
    await asyncio.sleep(1)
    proxy.heal()
    posted = await posting
    checks.that("G2", posted.answers == [202], f"the answers are {posted.answers}, not one 202")
    await oracle.audit([posted], _PATIENCE_S)


async def test_kill_before_the_answer(world: World, oracle: Oracle, checks: Checks) -> None:
    """G2: killed when all is queued, before the answer: the repeated request gets the same blast and adds nothing."""
    for number in range(3):
        proxy = world.redis_proxies["ingest"]
        seen = proxy.broken["lost reply of enqueue"]
        proxy.lose_reply("enqueue")
        posting = asyncio.create_task(world.client.post(people(200, f"unanswered{number}"), patience_s=_PATIENCE_S))
        await wait_for(lambda: proxy.broken["lost reply of enqueue"] > seen, _PATIENCE_S, "the reply to be lost")  # noqa: B023 -- awaited in this turn
        await world.queue.check_balance(checks)
        world.children["ingest"].kill()
        await world.restart("ingest")
        await oracle.audit([await posting], _PATIENCE_S)
    await oracle.audit_database()
    await oracle.audit_leftovers()
