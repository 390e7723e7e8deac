"""A provider in trouble for a minute, and one that refuses every recipient: no job fails, no address is suppressed.

Attacks G1 (no job fails that could be sent later), G2 (nothing is sent twice because of it), G4, G7.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_MINUTE_S = 60.0
# the trouble, and the longest wait that starts during it
_PATIENCE_S = 300.0
_COUNT = 100
_RELAY = "550 relay not permitted"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two email senders, each with a proxy to its mail server, and a WhatsApp sender."""
    async with running(form, Design(email_senders=2, mail_proxy=True, whatsapp=True)) as world:
        yield world


@pytest.mark.parametrize(
    ("answer", "stage"),
    [("451 4.3.0 try again later", "rcpt"), ("451 4.3.0 try again later", "data"), ("421 4.3.2 shutting down", "mail"),
     ("421 4.3.2 shutting down", "greeting")],
)  # fmt: skip
async def test_a_minute_of_temporary_refusals(
    world: World, oracle: Oracle, checks: Checks, answer: str, stage: str
) -> None:
    """G1, G2: a mail server defers every message for a minute: all are sent, each once, none fails."""
    fault = {"channel": "email", "answer": answer, "at": stage, "seconds": world.form.seconds(_MINUTE_S)}
    await world.sandbox("PUT", "/faults", fault)
    async with world.queue.watching(checks):
        posted = await world.client.post(people(_COUNT, "later"))
        await oracle.audit([posted], max(world.form.seconds(_PATIENCE_S), 60.0))
    await _check_all_sent(world, checks, posted)


async def test_a_minute_of_dropped_connections(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2: every connection drops before its message for a minute: none fails, none is sent twice."""
    async with world.queue.watching(checks):
        for mail in world.mails.values():
            mail.drop_at_data = True
        posted = await world.client.post(people(_COUNT, "dropped"))
        await wait_for(lambda: _dropped(world) > 5, 60.0, "connections to be dropped")
        await asyncio.sleep(world.form.seconds(_MINUTE_S))  # the test needs this duration
        for mail in world.mails.values():
            mail.heal()
        await oracle.audit([posted], max(world.form.seconds(_PATIENCE_S), 60.0))
    await _check_all_sent(world, checks, posted)


async def test_a_minute_of_http_503(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2: a gateway that answers 503 to everything for a minute fails no WhatsApp message."""
    fault = {"channel": "whatsapp", "answer": "http 503", "seconds": world.form.seconds(_MINUTE_S)}
    await world.sandbox("PUT", "/faults", fault)
    async with world.queue.watching(checks):
        posted = await world.client.post(people(_COUNT, "away"), ("whatsapp",))
        await oracle.audit([posted], max(world.form.seconds(_PATIENCE_S), 60.0))
    await _check_all_sent(world, checks, posted)


@pytest.mark.parametrize("answer", [_RELAY, "550 5.1.1 user unknown", "554 5.7.1 Relay access denied"])
async def test_relay_that_refuses_all_recipients(world: World, oracle: Oracle, checks: Checks, answer: str) -> None:
    """G1, G2, G3: the channel pauses with the reply; no address is suppressed; after the resume each is sent once."""
    await world.sandbox("PUT", "/faults", {"channel": "email", "answer": answer, "at": "rcpt"})
    async with world.queue.watching(checks):
        posted = await world.client.post(people(300, "refused"))

        async def is_paused() -> bool:
            stats = await world.queue.stats()
            return answer in stats.pause_reason and stats.active == 0

        await wait_for(is_paused, 60.0, "the channel to be paused with the relay's words")
        listed = await world.client.get("/api/v1/suppressions?channel=email")
        checks.that("G3", not listed["suppressions"], f"suppressed: {listed['suppressions'][:3]}")
        await world.sandbox("DELETE", "/faults")
        assert await world.client.insist("POST", "/api/v1/channels/email/resume") == 200
        await oracle.audit([posted], max(world.form.seconds(_PATIENCE_S), 60.0))
    await _check_all_sent(world, checks, posted)
    rows = await world.client.rows(posted.blast_id)
    costly = [row["job_id"] for row in rows if row["attempts"] > 1]
    checks.none("G1", costly, len(rows), "jobs whose attempts were used up by a relay that refuses every recipient")


async def test_nothing_hangs_or_leaks_afterwards(oracle: Oracle) -> None:
    """G5, G7: afterwards the database adds up, and nothing hangs or leaks."""
    await oracle.audit_database()
    await oracle.audit_leftovers()


def _dropped(world: World) -> int:
    return sum(mail.broken["dropped at DATA"] for mail in world.mails.values())


async def _check_all_sent(world: World, checks: Checks, posted: Posted) -> None:
    statuses = Counter(row["status"] for row in await world.client.rows(posted.blast_id))
    checks.that("G1", statuses == {"sent": posted.total}, f"ended as {dict(statuses)}")
    await world.sandbox("DELETE", "/faults")
