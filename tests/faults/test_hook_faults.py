"""A provider reports to a hook while ingest, the receipts service, the logger and Redis are killed.

Attacks G8: a receipt that was answered with 200 takes effect exactly once, and strangers suppress nobody.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import orjson
import pytest
import pytest_asyncio

from shared.queue.receipts import ReceiptInbox
from shared.receipts import Receipt
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.receipts import Reporter
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_TOKEN = "hook-token-0123456789-0123456789"
_PATIENCE_S = 90.0
_BATCH = 10
_AGAIN_S = 0.2
_KILLS = 8
_NEVER = frozenset({404, 401, 413})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender, and hooks whose URL is all that is checked."""
    async with running(form, Design(env={"KURIR_HOOK_TOKEN": _TOKEN})) as world:
        yield world


@dataclass
class SendGrid:
    """A provider that repeats each request until it gets 200, and some of them after that; it counts the answers."""

    url: str
    dice: random.Random
    token: str = _TOKEN
    answers: list[int] = field(default_factory=list)

    async def report(self, receipts: Sequence[Receipt]) -> None:
        """Post events until they are taken; some come twice, as from a provider that did not see the answer."""
        for _ in range(2 if self.dice.random() < 0.3 else 1):
            while True:
                if await self.is_taken(receipts):
                    break
                await asyncio.sleep(_AGAIN_S)

    async def is_taken(self, receipts: Sequence[Receipt]) -> bool:
        """Post events once, and return whether they were taken."""
        body = orjson.dumps([_event(receipt) for receipt in receipts])
        timeout = aiohttp.ClientTimeout(total=10)
        connector = aiohttp.TCPConnector(force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
                http.post(f"{self.url}/hooks/sendgrid/{self.token}", data=body) as answer,
            ):
                self.answers.append(answer.status)
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def _event(receipt: Receipt) -> dict[str, object]:
    """Return the event that SendGrid posts for a receipt; it names the message by our own Message-ID."""
    blast_id, index, channel = receipt.job_id.split(":")
    event = {"bounced": "bounce", "complained": "spamreport"}.get(receipt.kind, receipt.kind)
    found = {
        "email": receipt.address or "someone@example.com",
        "timestamp": int(receipt.at),
        "smtp-id": f"<{blast_id}.{index}.{channel}.1@example.com>",
        "sg_event_id": f"{receipt.job_id} {receipt.kind}",
        "event": event,
    }
    return found | (
        {"type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 unknown user"} if event == "bounce" else {}
    )


def _story(job_id: str, dice: random.Random) -> list[Receipt]:
    now = float(int(time.time()))
    told = [Receipt("delivered", "sendgrid", now, job_id, trusted=True)]
    if dice.random() < 0.3:
        told.append(Receipt("bounced", "sendgrid", now, job_id, severity="hard", code="5.1.1", trusted=True))
    return told


async def test_kills_while_a_provider_reports(world: World, oracle: Oracle, form: Form) -> None:
    """G8: eight kills, of each service and of Redis, while receipts arrive out of order and twice."""
    dice = random.Random(form.seed)
    provider = SendGrid(world.client.url, dice)
    reporter = Reporter(oracle)
    posted = await world.client.post(people(400, "hooked"))
    await wait_for(lambda: not world.deliveries.missing(posted.job_ids), _PATIENCE_S, "the mail to be taken")
    receipts = [one for job_id in sorted(posted.job_ids) for one in _story(job_id, dice)]
    dice.shuffle(receipts)
    for one in receipts:
        reporter.told.setdefault(one.job_id, []).append(one)
    waiting = [receipts[at : at + _BATCH] for at in range(0, len(receipts), _BATCH)]
    for number in range(_KILLS):
        part, waiting = waiting[: len(waiting) // (_KILLS - number)], waiting[len(waiting) // (_KILLS - number) :]
        reporting = [asyncio.create_task(provider.report(batch)) for batch in part]
        await asyncio.sleep(dice.uniform(0.0, 0.1))
        await _kill(world, ("ingest", "receipts", "logger", "redis")[number % 4])
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*reporting)
    oracle.checks.none("G8", _NEVER & set(provider.answers), len(provider.answers), "answers that end a receipt")
    storms = [status for status in provider.answers if status >= 500]
    oracle.checks.none("G8", storms, len(provider.answers), "answers of 5xx")
    await _all_read(world, oracle)
    await oracle.audit([posted], _PATIENCE_S)
    await reporter.audit(posted.blast_id, {job: address for address, job in posted.email_jobs.items()}, _PATIENCE_S)
    await oracle.audit_database()


async def test_strangers_suppress_nobody(world: World, oracle: Oracle, form: Form) -> None:
    """G8: a wrong token is answered with 404, and receipts for other systems' messages have no effect."""
    dice = random.Random(form.seed)
    posted = await world.client.post(people(20, "strangers"))
    await oracle.audit([posted], _PATIENCE_S)
    addresses = {job: address for address, job in posted.email_jobs.items()}
    for token in ("guessed", _TOKEN[:-1], f"{_TOKEN}x"):
        stranger = SendGrid(world.client.url, dice, token)
        await stranger.is_taken([_bounce(job, address) for job, address in addresses.items()])
        oracle.checks.that("G8", stranger.answers == [404], f"a stranger was answered with {stranger.answers}")
    provider = SendGrid(world.client.url, dice)
    for number, address in enumerate(addresses.values()):
        elsewhere = [f"{posted.blast_id}:{9000 + number}:email", f"0123456789abcdef:{number}:email"]
        await provider.report([_bounce(job, address) for job in elsewhere])
    await _all_read(world, oracle)
    await Reporter(oracle).audit(posted.blast_id, addresses, _PATIENCE_S)
    await oracle.audit_leftovers()


async def _all_read(world: World, oracle: Oracle) -> None:
    inbox = ReceiptInbox(world.queue.redis)

    async def is_read() -> bool:
        return (await inbox.counts()).waiting == 0

    oracle.checks.that("G8", await oracle.within(is_read, _PATIENCE_S), "receipts wait to be read")


def _bounce(job_id: str, address: str) -> Receipt:
    now = float(int(time.time()))
    return Receipt("bounced", "sendgrid", now, job_id, address=address, severity="hard", code="5.1.1", trusted=True)


async def _kill(world: World, name: str) -> None:
    """Kill a service or Redis, and start it again."""
    if name == "redis":
        await asyncio.to_thread(world.redis.kill)
        await asyncio.to_thread(world.redis.start)
        await world.healthy("ingest", _PATIENCE_S)
        return
    world.children[name].kill()
    await world.restart(name)
