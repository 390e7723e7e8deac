"""The logger killed while receipts are applied and between its outbox and Redis; receipts repeated, early and forged.

Attacks G8 (each receipt takes effect exactly once, a forged or foreign one suppresses nobody), G5.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared.receipts import Receipt
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.receipts import Reporter
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0
_KILLS = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender; the logger reaches Redis through a proxy."""
    async with running(form, Design(proxied=frozenset({"logger"}))) as world:
        yield world


@pytest.fixture
def reporter(oracle: Oracle) -> Reporter:
    """The receipts of one test."""
    return Reporter(oracle)


def addresses_of(posted: Posted) -> dict[str, str]:
    return {job: address for address, job in posted.email_jobs.items()}


def bounce(job_id: str, **fields: Any) -> Receipt:
    now = round(time.time(), 3)
    hard = Receipt("bounced", "ses", now, job_id, severity="hard", code="5.1.1", words="550 5.1.1", trusted=True)
    return msgspec.structs.replace(hard, **fields)


def story(job_id: str, dice: random.Random) -> list[Receipt]:
    """Return the receipts of one message, in a random order."""
    now = round(time.time(), 3)
    told = [Receipt("delivered", "ses", now, job_id=job_id, trusted=True)]
    if dice.random() < 0.4:
        told.append(bounce(job_id, trusted=dice.random() < 0.7))
    if dice.random() < 0.2:
        told.append(Receipt("complained", "ses", now, job_id=job_id, trusted=True))
    dice.shuffle(told)
    return told


@pytest.mark.parametrize("moment", ["before the call", "after the call"])
async def test_kill_between_the_outbox_and_redis(world: World, oracle: Oracle, reporter: Reporter, moment: str) -> None:
    """G8: killed before Redis has a suppression, or after that and before the outbox knows; it is stored, once."""
    proxy, logger = world.redis_proxies["logger"], world.children["logger"]
    posted = await world.client.post(people(20, "between"))
    await oracle.audit([posted], _PATIENCE_S)
    for job_id in sorted(posted.job_ids)[:5]:
        before = proxy.broken.total()
        if moment == "before the call":
            proxy.hold("suppress")
        else:
            proxy.lose_reply("suppress")
        await reporter.tell(bounce(job_id))
        await wait_for(lambda: proxy.broken.total() > before, _PATIENCE_S, "the call to be broken")  # noqa: B023 -- awaited in this turn
        logger.kill()
        proxy.release("suppress")
        await world.restart("logger")
        await reporter.audit(posted.blast_id, addresses_of(posted), _PATIENCE_S)
    await oracle.audit_database()


async def test_kill_while_receipts_are_applied(world: World, oracle: Oracle, reporter: Reporter, form: Form) -> None:
    """G8, G5: five kills while receipts arrive out of order, thrice each, some before the log has `sent`."""
    dice = random.Random(form.seed)
    posted: list[Posted] = []
    for number in range(_KILLS):
        posted.append(await world.client.post(people(300, f"applied{number}")))
        # by then the log has few of the `sent` events
        await wait_for(lambda: not world.deliveries.missing(posted[-1].job_ids), _PATIENCE_S, "the mail to be taken")
        receipts = [one for job_id in sorted(posted[-1].job_ids) for one in story(job_id, dice)]
        dice.shuffle(receipts)
        parts = [receipts[start : start + 20] for start in range(0, len(receipts), 20)]
        killed_at = dice.randrange(len(parts))
        for place, part in enumerate(parts):
            await reporter.tell(*part, times=3)
            # the same receipts in another request of the provider
            await reporter.tell(*dice.sample(part, min(3, len(part))))
            if place == killed_at:
                world.children["logger"].kill()
                await world.restart("logger")
    await oracle.audit(posted, _PATIENCE_S)
    for one in posted:
        await reporter.audit(one.blast_id, addresses_of(one), _PATIENCE_S)
    await oracle.audit_database()


async def test_redis_away_while_suppressions_wait(world: World, oracle: Oracle, reporter: Reporter) -> None:
    """G8: Redis is killed before it has the suppressions: they are stored once it is back."""
    posted = await world.client.post(people(50, "away"))
    await oracle.audit([posted], _PATIENCE_S)
    proxy = world.redis_proxies["logger"]
    proxy.hold("suppress")
    for job_id in sorted(posted.job_ids)[:10]:
        await reporter.tell(bounce(job_id))
    await wait_for(lambda: proxy.broken["held suppress"] > 0, _PATIENCE_S, "a call to be held")
    await asyncio.to_thread(world.redis.kill)
    await asyncio.sleep(world.form.seconds(8))
    proxy.release("suppress")
    await asyncio.to_thread(world.redis.start)
    await world.healthy("logger", world.form.flows_again_s + _PATIENCE_S)
    await reporter.audit(posted.blast_id, addresses_of(posted), _PATIENCE_S)


async def test_forged_and_foreign_receipts(world: World, oracle: Oracle, reporter: Reporter) -> None:
    """G8: bounces that only a Message-ID identifies, of other systems, or for other channels suppress nobody."""
    posted = await world.client.post(people(30, "forged"))
    await oracle.audit([posted], _PATIENCE_S)
    addresses = addresses_of(posted)
    for job_id, address in addresses.items():
        blast_id, index, _ = job_id.split(":")
        forged = bounce("", message_id=f"{blast_id}.{index}.email.1@example.com", trusted=False)
        foreign = [
            bounce("", provider_id=f"foreign-{job_id}", address=address),
            bounce(f"{blast_id}:{index}:whatsapp", address=address),
            Receipt("complained", "ses", time.time(), address=address, trusted=True),
        ]
        await reporter.tell(forged, foreign=True)
        await reporter.tell(*foreign, foreign=True)
        reporter.told.setdefault(job_id, []).append(forged)
    await reporter.audit(posted.blast_id, addresses, _PATIENCE_S)
    await oracle.audit_database()
    await oracle.audit_leftovers()
