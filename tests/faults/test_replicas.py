"""Redis with a replica: one that is away while the master requires it, and one that replaces a lost master.

Attacks G1 and G2 (only what a failover may lose or repeat: docs/guarantees.md), G4, G5, G7.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.acts import flowing, logged, repair, under_way
from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.lost_masters import LostMaster, lose_master
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 60.0
_AWAY_S = 20.0
_CONCURRENCY = 20
_KEPT = 15


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two email senders over a master, its replica and three Sentinels."""
    env = {"KURIR_SANDBOX_LATENCY_MS": "30", "KURIR_EMAIL_CONCURRENCY": str(_CONCURRENCY)}
    async with running(form, Design(email_senders=2, mail_proxy=True, sentinels=3, env=env)) as world:
        yield world


async def test_replica_is_away(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4, G7: the replica of a master that requires it restarts under load: each job is sent once.

    Clients get 503 while the replica is away, and no service exits.
    """
    lives = {name: child.lives for name, child in world.children.items()}
    reaped = len(world.logged("sender_reaped"))
    await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "min-replicas-to-write", "1")
    *others, posted = await under_way(world, 1500, "before")
    await asyncio.to_thread(world.servers.replica.stop)
    posting = asyncio.create_task(world.client.post(people(50, "while-away"), patience_s=_PATIENCE_S))
    await wait_for(lambda: world.client.posted[-1] is not posted, _PATIENCE_S, "the second request")
    meanwhile = world.client.posted[-1]
    await wait_for(lambda: bool(meanwhile.answers), _PATIENCE_S, "an answer")
    await asyncio.sleep(world.form.seconds(_AWAY_S))  # how long it lasts is the point
    answers = set(meanwhile.answers)
    checks.that("G1", answers == {503}, f"a master that misses its replica answers {answers}, not 503")
    before = world.deliveries.count()
    await world.servers.start_replica()
    back = time.monotonic()
    await wait_for(lambda: world.deliveries.count() > before, _PATIENCE_S, "work to flow again")
    took_s = time.monotonic() - back
    checks.that("G7", took_s < world.form.flows_again_s, f"work flowed again after {took_s:.1f} s")
    async with world.queue.watching(checks):
        await oracle.audit([*others, posted, await posting], _PATIENCE_S)
    await asyncio.to_thread(world.redis.command, "CONFIG", "SET", "min-replicas-to-write", "0")
    exited = [name for name, child in world.children.items() if child.lives > lives[name] or not child.runs()]
    checks.none("G7", exited, len(lives), "services that exited")
    checks.that("G2", len(world.logged("sender_reaped")) == reaped, "a sender was reaped though only Redis refused")
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def test_master_is_lost_after_begin(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2: a failover loses what was fetched and begun: a later acceptance by the provider counts, once.

    Only jobs whose acceptance was recorded only by the lost master are sent once more.
    """
    assert await world.children["email_sender-2"].stop() == 0
    posted = await world.client.post(people(800, "failover"))
    async with world.queue.watching(checks):
        await flowing(world, posted, 50)
        await _cut_off(world)
        lost = await _fail_over_in_mid_send(world, oracle)
        await oracle.audit([posted], _PATIENCE_S)
    delivered = world.deliveries.by_job()
    assert [job for job in lost.ended if len(delivered[job]) > 1], "the replica had heard of every end"
    again = [job for job in lost.in_mid_send if len(delivered[job]) > 1]
    checks.none("G2", again, len(lost.in_mid_send), "jobs in mid-send at the failover sent again")
    print(_seen(lost, delivered))  # noqa: T201 -- for pytest -s
    await world.restart("email_sender-2")


async def test_jobs_that_the_replica_never_had_end_as_lost(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2 as far as they hold: the doctor ends the jobs of a blast as lost that only the lost master had.

    With a second sender, jobs in mid-send may be sent once more: it may begin them before the answer arrives.
    """
    await world.servers.start_replica()
    posted = await world.client.post(people(800, "replicated"))
    async with world.queue.watching(checks):
        await flowing(world, posted, 50)
        await _cut_off(world)
        unknown = await world.client.post(people(600, "unknown"), priority=0)
        await flowing(world, unknown, 20)
        # a logger on a busy machine takes longer than senders take for the rest of the blast
        for mail in world.mails.values():
            mail.keep_answers()
        await logged(world)
        for mail in world.mails.values():
            mail.heal()
        lost = await _fail_over_in_mid_send(world, oracle)
        oracle.allow(lost.in_mid_send)
        fresh = await world.client.post(people(50, "fresh"), priority=0)
        await oracle.audit([posted, fresh], _PATIENCE_S)
    assert len(lost.unknown & unknown.job_ids) > 50, "the replica had heard of the second blast"
    print(_seen(lost, world.deliveries.by_job()))  # noqa: T201 -- for pytest -s
    said = await repair(world, unknown, oracle)
    await _check_unknown(world, checks, unknown, lost, said)


async def _check_unknown(world: World, checks: Checks, posted: Posted, lost: LostMaster, said: str) -> None:
    """G1: vanished jobs end as sent if the log knows that, else as lost, also if they had ended unknown to the log."""
    rows = {row["job_id"]: row for row in await world.client.rows(posted.blast_id)}
    taken = world.deliveries.by_job()
    ends = Counter((row["status"], row["error_class"]) for row in rows.values())
    checks.that("G1", set(ends) <= {("sent", None), ("failed", "lost")}, f"ended as {ends}; {said}")
    untrue = [job for job, row in rows.items() if row["status"] == "sent" and job not in taken]
    checks.none("G1", untrue, len(rows), "jobs said to be sent that no provider took")
    denied = [job for job in taken if job in lost.unknown and rows[job]["status"] != "sent"]
    checks.none("G1", denied, len(rows), "jobs accepted after the failover that are said to be lost")
    again = [job for job in rows if len(taken.get(job, ())) > 1]
    checks.none("G2", again, len(rows), "jobs that vanished and went out twice")


async def _further_chunk(world: World) -> None:
    """Return as soon as more jobs are enqueued on email than when this was called."""
    redis: Any = world.queue.redis
    before = int(await redis.hget("{email}:counters", "enqueued") or 0)
    async with asyncio.timeout(_PATIENCE_S):
        while int(await redis.hget("{email}:counters", "enqueued") or 0) == before:
            pass  # without a pause: an upload takes a fraction of a second


async def test_upload_across_a_failover(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4: a failover loses chunks of a blast that is being accepted: they are added again, each job once.

    Ingest is frozen when the master is lost: some chunks are on both servers then, some on one, some on none. Jobs of
    the lost chunks that had been sent are sent once more.
    """
    await world.servers.start_replica()
    ingest = world.children["ingest"]
    async with world.queue.watching(checks):
        posting = asyncio.create_task(world.client.post(people(4000, "upload"), patience_s=_PATIENCE_S))
        await _further_chunk(world)
        ingest.freeze()
        await world.servers.in_step()
        await world.servers.cut_link()
        ahead = asyncio.create_task(_further_chunk(world))
        await asyncio.sleep(0)
        ingest.thaw()
        await ahead
        ingest.freeze()
        lost = await lose_master(world)
        taken = set(world.deliveries.by_job())
        await world.servers.failed_over()
        marks = await world.queue.watermarks()
        ingest.thaw()
        posted = await posting
        assert lost.unknown & posted.job_ids, "the replica had every chunk"
        again = {job for job in taken & posted.job_ids if int(job.split(":")[1]) >= marks[posted.blast_id]}
        oracle.allow(lost.ended | lost.in_mid_send | again)
        checks.that("G1", set(posted.answers) <= {0, 202, 503}, f"clients were answered {posted.answers}")
        await oracle.audit([posted], _PATIENCE_S)
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def _cut_off(world: World) -> None:
    """Cut the replica off; the provider answers nothing meanwhile, or on a busy machine the blast might be over."""
    for mail in world.mails.values():
        mail.keep_answers()
    await world.servers.in_step()
    await world.servers.cut_link()
    for mail in world.mails.values():
        mail.heal()


async def _fail_over_in_mid_send(world: World, oracle: Oracle) -> LostMaster:
    """Lose a master that is ahead of its replica while the provider holds messages that it answers after the failover.

    Register with the oracle the jobs that had ended only on the lost master: they may be sent once more.
    """
    before = world.deliveries.count()
    await wait_for(lambda: world.deliveries.count() > before + 30, _PATIENCE_S, "messages that the replica misses")
    for mail in world.mails.values():
        mail.keep_answers()
    await wait_for(lambda: _unanswered(world) >= _KEPT, _PATIENCE_S, "messages with the provider")
    lost = await lose_master(world)
    oracle.allow(lost.ended)
    taken = len(lost.in_mid_send) - len(world.deliveries.missing(lost.in_mid_send))
    assert taken >= _KEPT, f"only {taken} messages were with the provider"
    await world.servers.failed_over()
    for mail in world.mails.values():
        mail.heal()
    return lost


def _seen(lost: LostMaster, delivered: Mapping[str, Sequence[object]]) -> str:
    """Print the cost of a failover."""

    def twice(jobs: frozenset[str]) -> str:
        return f"{sum(len(delivered.get(job, ())) > 1 for job in jobs)} of {len(jobs)}"

    return (
        f"sent again: {twice(lost.ended)} ended, {twice(lost.in_mid_send)} in mid-send; vanished: {len(lost.unknown)}"
    )


def _unanswered(world: World) -> int:
    return sum(len(pair.unanswered) for mail in world.mails.values() for pair in mail.pairs)
