"""Providers that are slow, hang after DATA, answer 421, 451 or 550, refuse connections, or drop them.

Attacks G1 (every job ends once), G2 (a lost answer causes one repetition at most), G3, G4, G7.
"""

from __future__ import annotations

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
_PATIENCE_S = 60.0
_LATER = 20
_MAIL_TIMEOUT_S = 5.0  # in either form: a provider on a busy machine stands still for two seconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two senders with short time-outs, each with a proxy to its mail server."""
    design = Design(email_senders=2, mail_proxy=True, mail_timeout_s=_MAIL_TIMEOUT_S)
    async with running(form, design) as world:
        yield world


@pytest.mark.parametrize(
    ("answer", "stage"),
    [
        ("421 4.3.2 going down", "mail"),
        ("421 4.7.0 try again in 1 seconds", "data"),
        ("451 4.3.0 try again", "data"),
        ("451 4.3.0 try again", "rcpt"),
        ("421 4.3.2 no service", "greeting"),
    ],
)
async def test_temporary_answers(world: World, oracle: Oracle, checks: Checks, answer: str, stage: str) -> None:
    """G1, G2: messages that a provider defers are all sent later, each once."""
    await world.sandbox("PUT", "/faults", _fault(answer, at=stage, times=_LATER))
    async with world.queue.watching(checks):
        posted = await world.client.post(people(200, "later"))
        await oracle.audit([posted], _PATIENCE_S)
    statuses = await _statuses(world, posted)
    assert statuses["sent"] >= 200 - _LATER, statuses
    await world.sandbox("DELETE", "/faults")


async def test_permanent_answer(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G3: 550 ends a job as failed immediately, and the provider accepted none of it."""
    await world.sandbox("PUT", "/faults", _fault("550 5.7.1 not you", times=5))
    async with world.queue.watching(checks):
        posted = await world.client.post(people(100, "never"))
        await oracle.audit([posted], _PATIENCE_S)
    statuses = await _statuses(world, posted)
    checks.that("G1", statuses == {"sent": 95, "failed": 5}, f"ended as {statuses}")
    await world.sandbox("DELETE", "/faults")


@pytest.mark.parametrize(
    ("charset", "words"), [("latin-1", "später für"), ("gbk", "请使用"), ("shift_jis", "ユーザー不明")]
)
async def test_answers_in_foreign_charsets(
    world: World, oracle: Oracle, checks: Checks, charset: str, words: str
) -> None:
    """G1, G2: a provider accepts, defers and refuses in another charset: each reply counts, and no sender dies."""
    pids = [child.pid for child in world.senders]
    async with world.queue.watching(checks):
        for answer, stage in (
            ("421 4.3.2", "greeting"),
            ("451 4.3.0", "mail"),
            ("451 4.3.0", "rcpt"),
            ("451 4.3.0", "data"),
            ("250 2.0.0", "data"),
        ):
            await world.sandbox("PUT", "/faults", _fault(f"{answer} {words}", at=stage, times=_LATER, charset=charset))
            posted = await world.client.post(people(60, "foreign"))
            await oracle.audit([posted], _PATIENCE_S)
            statuses = await _statuses(world, posted)
            checks.that("G1", statuses == {"sent": 60}, f"{answer} at {stage}: ended as {statuses}")
        await world.sandbox("PUT", "/faults", _fault(f"550 5.7.1 {words}", times=5, charset=charset))
        posted = await world.client.post(people(60, "foreign"))
        await oracle.audit([posted], _PATIENCE_S)
        rows = await world.client.rows(posted.blast_id)
    refused = {row["error_message"] for row in rows if row["status"] == "failed"}
    checks.that("G1", refused == {f"550 5.7.1 {words}"}, f"refused with {refused}")
    checks.that("G2", pids == [child.pid for child in world.senders], "a sender has died")
    await world.sandbox("DELETE", "/faults")


async def test_slow_provider(world: World, oracle: Oracle, checks: Checks) -> None:
    """G2: slow but within the time-outs: nothing is sent twice, and no sender is reaped."""
    reaped = len(world.logged("sender_reaped"))
    await world.sandbox("PUT", "/faults", _fault("slow", seconds=world.form.seconds(20), delayMs=300))
    async with world.queue.watching(checks):
        posted = await world.client.post(people(150, "slow"))
        await oracle.audit([posted], _PATIENCE_S)
    slow = len(world.logged("sender_reaped")) == reaped
    checks.that("G2", slow, "a sender was reaped because its provider was slow")
    await world.sandbox("DELETE", "/faults")


async def test_answers_lost_after_data(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2: accepted, but the answer never arrived: sent at most once more, under the same Message-ID."""
    before = _hung(world)
    async with world.queue.watching(checks):
        for mail in world.mails.values():
            mail.hang_after_data = 4
        posted = await world.client.post(people(150, "unheard"))
        await wait_for(lambda: _hung(world) == before + 8, _PATIENCE_S, "eight answers to be lost")
        await oracle.audit([posted], _PATIENCE_S)
    taken, unheard = world.deliveries.by_job(), _lost(world, posted)
    assert len(unheard) >= 8, unheard
    assert {len(taken[job]) for job in unheard} == {2}, "the answers that were lost were not followed by a repetition"


async def test_connections_break_after_the_dot(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2: the provider accepts the message and drops the connection instead of answering."""
    before = len(world.deliveries.all())
    await world.sandbox("PUT", "/faults", _fault("drop", times=10))
    async with world.queue.watching(checks):
        posted = await world.client.post(people(100, "dropped"))
        await wait_for(lambda: world.deliveries.count() - before >= 10, _PATIENCE_S, "messages to be taken")
        oracle.allow(posted.job_ids)
        await oracle.audit([posted], _PATIENCE_S)
    doubled, lost = world.deliveries.count() - before - 100, 10 + _lost(world, posted).total()
    rows = await world.client.rows(posted.blast_id)
    # one whose answer was lost again is not sent a third time
    lost -= sum(row["error_class"] == "uncertain" for row in rows)
    checks.that("G2", doubled == lost, f"{doubled} messages went out twice, {lost} answers were lost")
    await world.sandbox("DELETE", "/faults")


async def test_provider_is_away(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G7: the provider is away until the senders report it: no attempt is used; work flows again in time."""
    for mail in world.mails.values():
        mail.refuse()
    async with world.queue.watching(checks):
        posted = await world.client.post(people(100, "away"))
        await wait_for(lambda: _is_unavailable(world), _PATIENCE_S, "the senders to say so")
        for mail in world.mails.values():
            mail.heal()
        before = world.deliveries.count()
        limit_s = world.form.flows_again_s
        flows = await oracle.within(lambda: world.deliveries.count() > before, limit_s)
        checks.that("G7", flows, f"nothing went out within {limit_s:g} s of the provider's return")
        await oracle.audit([posted], _PATIENCE_S)
    rows = await world.client.rows(posted.blast_id)
    costly = [row["job_id"] for row in rows if row["attempts"] > 1]
    checks.none("G1", costly, len(rows), "jobs whose attempts were used up by a server that was away")
    await oracle.audit_database()
    await oracle.audit_leftovers()


def _fault(answer: str, **fields: object) -> dict[str, object]:
    return {"channel": "email", "answer": answer, **fields}


def _hung(world: World) -> int:
    return sum(mail.broken["hung after DATA"] for mail in world.mails.values())


def _lost(world: World, posted: Posted) -> Counter[str]:
    """Count the answers that a blast's senders did not get, by job: those of a provider that stood still, too."""
    lost = [address for mail in world.mails.values() for address in mail.lost_answers.elements()]
    return Counter(posted.email_jobs[address] for address in lost if address in posted.email_jobs)


async def _statuses(world: World, posted: Posted) -> dict[str, int]:
    return dict(Counter(row["status"] for row in await world.client.rows(posted.blast_id)))


async def _is_unavailable(world: World) -> bool:
    senders = (await world.queue.stats()).senders
    return bool(senders) and not any(sender.available for sender in senders)
