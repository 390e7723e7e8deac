"""The lead over several loggers: one has it at a time, and the next one waits until nothing acts on an earlier lead."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from services.logger.database import DatabaseError
from services.logger.postgres import leading
from services.logger.postgres import store as store_module
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.leading import LEADER_KEY, SETTLE_S
from services.logger.postgres.store import PostgresStore
from shared.lifecycle import end_tasks
from tests.postgres_servers import PostgresServer
from tests.servers import wait_for

SHORT = 0.1
END = f"""
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND objid = {LEADER_KEY & 0xFFFF_FFFF} AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# long enough that psql sees who waits
SOON = 0.3
HOLDER = f"""
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {LEADER_KEY & 0xFFFF_FFFF} AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server keep the session of a leader that says nothing for long: these tests may stand still."""
    monkeypatch.setattr(store_module, "IDLE_S", 600.0)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a logger that has to wait for what the earlier leader may still do wait for an hour."""
    monkeypatch.setattr(leading, "SETTLE_S", 3600.0)


@pytest.fixture(params=[SHORT])
async def stores(
    request: pytest.FixtureRequest, postgres_server: PostgresServer
) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    """Two stores of one database, of which the first has the lead; the parameter is the scale of times."""
    url = postgres_server.make_database()
    first, second = (PostgresStore(url, 1, request.param) for _ in range(2))
    await first.open()
    await second.open()
    await first.lead()
    yield first, second
    await first.close()
    await second.close()


async def _lead(store: PostgresStore) -> float:
    began_s = time.monotonic()
    await asyncio.wait_for(store.lead(), 60)
    return time.monotonic() - began_s


async def _leads(store: PostgresStore) -> None:
    """Wait until the server confirms the lead, as it does again and again for a logger that works."""
    losing = asyncio.create_task(store.lost())
    await wait_for(lambda: store.leads, what="the lead to be confirmed")
    await end_tasks([losing])


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("stores", [1.0], indirect=True)
async def test_a_lead_that_is_given_up_is_taken_at_once(stores: tuple[PostgresStore, PostgresStore]) -> None:
    """What the earlier leader did has ended, so nothing is waited for; before, the second one does not lead."""
    first, second = stores
    holding, waiting = asyncio.create_task(first.lost()), asyncio.create_task(_lead(second))
    await asyncio.wait({waiting}, timeout=0.3)
    await wait_for(lambda: first.leads, what="the lead to be confirmed")
    assert (second.leads, waiting.done()) == (False, False)
    holding.cancel()
    await first.close()
    await waiting
    await _leads(second)


async def test_after_a_crash_the_next_one_waits_for_what_the_earlier_one_may_still_do(
    stores: tuple[PostgresStore, PostgresStore],
) -> None:
    """The earlier leader does not know that its session ended: its lease is over before the next one acts."""
    first, second = stores
    await first.write(lambda database: database.run(END).fetchall())
    assert await _lead(second) >= SETTLE_S * SHORT
    assert not first.leads
    await _leads(second)


async def test_a_lease_ends_without_the_server(
    stores: tuple[PostgresStore, PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader whose questions get no answer does nothing, although its session may still have the lock."""
    first, _ = stores
    losing = asyncio.create_task(first.lost())
    await wait_for(lambda: first.leads)
    over = threading.Event()

    def silent(*_: object) -> object:
        over.wait(300)
        raise DatabaseError("no answer")

    monkeypatch.setattr(PostgresDatabase, "run", silent)
    await wait_for(lambda: not first.leads)
    assert not losing.done()
    over.set()
    await losing
    monkeypatch.undo()


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("stores", [1.0], indirect=True)
async def test_a_leader_that_lost_its_session_leads_again_at_once_if_nobody_did_meanwhile(
    stores: tuple[PostgresStore, PostgresStore],
) -> None:
    """A restart of the server does not hold up outboxes and webhooks."""
    first, _ = stores
    losing = asyncio.create_task(first.lost())
    await first.write(lambda database: database.run(END).fetchall())
    await asyncio.wait_for(losing, 30)
    await _lead(first)


async def _end_and_await_next(first: PostgresStore, server: PostgresServer) -> None:
    """End the session that has the lock, and return once another one has it."""
    name = first.where.rpartition("/")[2]
    ended = server.sql(HOLDER, name)
    await first.write(lambda database: database.run(END).fetchall())
    await wait_for(lambda: server.sql(HOLDER, name) not in {"", ended})


@pytest.mark.parametrize("stores", [SOON], indirect=True)
async def test_one_that_stops_while_it_waits_leaves_the_wait_to_the_next(
    stores: tuple[PostgresStore, PostgresStore], postgres_server: PostgresServer
) -> None:
    """The lease of the leader before both may still run: the one that stops gave up nothing."""
    first, second = stores
    third = PostgresStore(postgres_server.url(first.where.rpartition("/")[2]), 1, SOON)
    await third.open()
    second._leading._settle_s = 3600.0  # it stops before it leads
    waiting = asyncio.create_task(second.lead())
    await _end_and_await_next(first, postgres_server)
    assert not second.leads
    waiting.cancel()
    await second.close()
    assert await _lead(third) >= SETTLE_S * SOON
    await third.close()


@pytest.mark.parametrize("stores", [SOON], indirect=True)
async def test_one_that_lost_its_session_while_it_waited_waits_again(
    stores: tuple[PostgresStore, PostgresStore], postgres_server: PostgresServer
) -> None:
    """It has not led, so that it had the lock before says nothing."""
    first, second = stores
    usual_s, second._leading._settle_s = second._leading._settle_s, 3600.0
    waiting = asyncio.create_task(_lead(second))
    await _end_and_await_next(first, postgres_server)
    taken_s = second._leading._confirmed_s
    await wait_for(lambda: second._leading._confirmed_s > taken_s, what="the wait to have begun")
    second._leading._settle_s = usual_s
    again_s = time.monotonic()
    await _end_and_await_next(first, postgres_server)
    await waiting
    assert time.monotonic() - again_s >= SETTLE_S * SOON


@pytest.mark.parametrize("stores", [1.0], indirect=True)
async def test_a_lease_runs_out_while_the_machine_is_suspended(
    stores: tuple[PostgresStore, PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still then, a leader would act on a lead that another one has taken."""
    first, _ = stores
    read = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + (60 if clock == time.CLOCK_BOOTTIME else 0))
    assert not first.leads
