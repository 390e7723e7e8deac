"""Senders that are killed: idle, with jobs only buffered, in mid-send, and after the provider's acceptance.

Attacks G1 (nothing lost), G2 (only jobs in mid-send twice), G4, G7 (its jobs flow again in time).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from functools import partial

import pytest
import pytest_asyncio

from shared.settings import Rate
from tests.faults.acts import flowing, kill, kill_holding
from tests.faults.checks import Checks
from tests.faults.children import Child
from tests.faults.client import Posted, people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 40.0
_CONNECTIONS = 5  # of each sender, by default


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two email senders, the first with proxies to Redis and to its mail server, and a WhatsApp sender."""
    design = Design(email_senders=2, mail_proxy=True, proxied=frozenset({"email_sender"}), whatsapp=True)
    async with running(form, design) as world:
        yield world


async def test_kill_of_an_idle_sender(world: World, oracle: Oracle) -> None:
    """G1, G2: killing an idle sender loses nothing and causes no duplicate."""
    held = await kill(world, world.senders[0], oracle)
    assert not held.buffered | held.in_flight
    posted = await world.client.post(people(100, "idle"))
    await oracle.audit([posted], _PATIENCE_S)
    await world.restart("email_sender")


async def test_kill_of_a_sender_with_buffered_jobs(world: World, oracle: Oracle, checks: Checks) -> None:
    """G2: jobs that were fetched and not begun were surely not sent, so none of them is sent twice."""
    await world.queue.control.set_rate("email", Rate.parse("10/1s"))
    posted = await world.client.post(people(60, "buffered"))
    async with world.queue.watching(checks):
        sender = world.senders[0]
        held = await kill_holding(world, sender, oracle, buffered=True, in_flight=False, timeout_s=_PATIENCE_S)
        killed_at = time.monotonic()
        await wait_for(lambda: _are_taken(world, held.buffered), _PATIENCE_S, "the buffered jobs to go out")
        took_s = time.monotonic() - killed_at
        checks.that("G7", took_s < world.form.dead_sender_s, f"a dead sender's buffer waited for {took_s:.1f} s")
        await world.queue.control.set_rate("email", None)
        await oracle.audit([posted], _PATIENCE_S)
    await world.restart("email_sender")


async def test_kill_of_a_sender_in_mid_data(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2: the provider did not accept a message whose content was cut off; the other sender sends each once."""
    mail = world.mails["email_sender"]
    mail.hang_in_data = True
    posted = await world.client.post(people(100, "middata"))
    async with world.queue.watching(checks):
        await wait_for(lambda: mail.broken["hung in DATA"] > 0, _PATIENCE_S, "a send to hang in DATA")
        held = await kill(world, world.senders[0], oracle)
        assert held.in_flight
        mail.heal()
        killed_at = time.monotonic()
        await wait_for(lambda: _are_taken(world, held.in_flight), _PATIENCE_S, "the jobs in mid-send to go out")
        took_s = time.monotonic() - killed_at
        checks.that("G7", took_s < world.form.dead_sender_s, f"a dead sender's jobs waited for {took_s:.1f} s")
        oracle.allowed.clear()  # the provider had accepted none of them
        await oracle.audit([posted], _PATIENCE_S)
    await world.restart("email_sender")


async def test_kill_between_acceptance_and_settle(world: World, oracle: Oracle, checks: Checks) -> None:
    """G2: what the provider accepted and the queue did not record is in the sender's journal, and is not repeated."""
    proxy = world.redis_proxies["email_sender"]
    proxy.hold("settle")
    posted = await world.client.post(people(100, "unfinished"))
    async with world.queue.watching(checks):
        await wait_for(lambda: proxy.broken["held settle"] > 0, _PATIENCE_S, "a finish to be kept back")
        held = await kill(world, world.senders[0], oracle)
        proxy.release("settle")
        before = world.deliveries.by_job()
        unheard = [job for job in held.in_flight if before.get(job)]
        assert unheard, "nothing was taken by the provider before the kill"
        await oracle.audit([posted], _PATIENCE_S)
        repeated = _repeated(world, unheard)
        most = _CONNECTIONS
        checks.that("G2", len(repeated) <= most, f"{len(repeated)} sent again, with {most} connections: {repeated}")
    await world.restart("email_sender")
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def test_a_killed_sender_repeats_at_most_one_message_a_connection(
    world: World, oracle: Oracle, checks: Checks
) -> None:
    """G2, G7: killed at full speed, five times, it repeats at most one message a connection; no job waits long.

    What it had in flight is taken in time after the kill, whether or not its next process runs yet.
    """
    for number in range(5):
        posted = await world.client.post(people(2000, f"speed{number}"))
        sender = world.senders[number % 2]
        held = await _kill_at_full_speed(world, sender, posted, oracle)
        # at the same time: the other sender takes over, and waits for no start, which on a busy machine lasts longer
        # than the bound of the short form (the form scales the bound, and not the start)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_seconds_until_taken(world, held))
            group.create_task(world.restart(sender.name))
        await oracle.audit([posted], _PATIENCE_S)
        _check_takeover(world, held, waiting.result(), checks)


async def test_a_killed_whatsapp_sender_repeats_at_most_one_message_a_connection(
    world: World, oracle: Oracle, checks: Checks
) -> None:
    """G2, G7: the same where a connection carries one request after the other; its next process reads the journal.

    There is no other sender, so its jobs wait for that process, and the time that it takes to start does not count.
    """
    for number in range(5):
        posted = await world.client.post(people(1000, f"posts{number}"), ("whatsapp",))
        held = await _kill_at_full_speed(world, world.children["whatsapp_sender"], posted, oracle)
        await world.restart("whatsapp_sender")
        took_s = await _seconds_until_taken(world, held)
        await oracle.audit([posted], _PATIENCE_S)
        _check_takeover(world, held, took_s, checks)


async def _kill_at_full_speed(world: World, sender: Child, posted: Posted, oracle: Oracle) -> frozenset[str]:
    """Kill a sender once it is at work; return the jobs that it had in flight."""
    await flowing(world, posted, 200)
    return (await kill(world, sender, oracle)).in_flight


def _check_takeover(world: World, held: frozenset[str], took_s: float, checks: Checks) -> None:
    checks.that("G7", took_s < world.form.dead_sender_s, f"a killed sender's jobs waited for {took_s:.1f} s")
    repeated, most = _repeated(world, held), _CONNECTIONS
    checks.that("G2", len(repeated) <= most, f"{len(repeated)} sent again, with {most} connections: {repeated}")


async def test_jobs_of_a_dead_sender_are_sent_before_thousands(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G7: with 5,000 jobs waiting at a limit, a killed sender's jobs in mid-send are sent first, in time."""
    await world.queue.control.set_rate("email", Rate.parse("100/1s"))
    posted = await world.client.post(people(5000, "thousands"))
    await flowing(world, posted, 50)
    held = await kill_holding(world, world.senders[0], oracle, buffered=True, in_flight=True, timeout_s=_PATIENCE_S)
    killed_at = time.monotonic()
    again = await oracle.within(lambda: _are_taken(world, held.in_flight), _PATIENCE_S)
    took_s = time.monotonic() - killed_at
    checks.that("G7", again and took_s < world.form.dead_sender_s, f"jobs in mid-send waited for {took_s:.1f} s")
    await world.queue.control.set_rate("email", None)
    async with world.queue.watching(checks):
        await world.restart("email_sender")  # one sender on a busy machine sends fewer than a hundred in a second
        await oracle.audit([posted], 3 * _PATIENCE_S)
    await oracle.audit_database()
    await oracle.audit_leftovers()


async def _seconds_until_taken(world: World, jobs: frozenset[str]) -> float:
    began = time.monotonic()
    await wait_for(partial(_are_taken, world, jobs), _PATIENCE_S, "the jobs of a killed sender to go out")
    return time.monotonic() - began


def _are_taken(world: World, jobs: frozenset[str]) -> bool:
    return not world.deliveries.missing(jobs)


def _repeated(world: World, jobs: Iterable[str]) -> list[str]:
    """Return the jobs that the provider has taken more than once."""
    taken = world.deliveries.by_job()
    return [job for job in jobs if len(taken.get(job, ())) > 1]
