"""Webhooks where several loggers share a database: another one changes it, leads for a while, or led before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.logger.postgres.store import PostgresStore
from services.logger.webhooks.routes import _add_test
from shared.lifecycle import Stop
from shared.queue.webhook_queues import Outgoing
from shared.queue.webhooks import Endpoints
from shared.webhooks import Endpoint
from tests.integration.logger.webhooks.feeding import Feeding
from tests.postgres_servers import PostgresServer
from tests.unit.logger.database import START_MS, accepted, blast


@pytest.fixture
async def fed(valkey_url: str, tmp_path: Path, postgres_server: PostgresServer) -> AsyncIterator[Feeding]:
    """Return a feeder on an empty Valkey, with a log in PostgreSQL."""
    made = Feeding(valkey_url, tmp_path)
    await made.use(PostgresStore(postgres_server.make_database(), readers=2))
    await made.apply(accepted(blast("b")))
    yield made
    await made.close()


async def test_a_test_that_another_logger_added_is_enqueued(fed: Feeding) -> None:
    """The endpoint has no other event that would bring it along; nothing is enqueued twice."""
    row = await fed.add()
    await fed.send(0)
    await fed.feed()
    _, webhook_id = await fed.store.write(lambda c: _add_test(c, row.endpoint_id, START_MS))
    await fed.feed()
    await fed.feed()
    assert [job.recipient.name == webhook_id for job in await fed.jobs(row.number)] == [False, True]
    await fed.send(1)
    await fed.feed()
    assert [job.index for job in await fed.jobs(row.number)] == [0, 1, 2]


async def test_marks_of_an_earlier_lead_are_forgotten(fed: Feeding) -> None:
    """They were of deliveries that another leader may have numbered again since: this one is not enqueued yet."""
    row = await fed.add()
    _, webhook_id = await fed.store.write(lambda c: _add_test(c, row.endpoint_id, START_MS))
    fed.feeder._marks = [(row.number, 0)]
    ended = Stop()
    ended.set()
    await fed.feeder.run(ended)
    await fed.feed()
    assert [job.recipient.name for job in await fed.jobs(row.number)] == [webhook_id]


async def test_a_logger_that_lost_the_lead_reads_no_events_of_webhooks(fed: Feeding) -> None:
    """The next leader deletes the streams of an endpoint that goes, which a reader would make again."""
    row = await fed.add()
    stop = Stop()
    syncing = asyncio.create_task(fed.sync.run(stop))
    await fed.sync.met.wait()
    assert fed.followed == [row.number]
    stop.set()
    await syncing
    assert fed.followed == []


@pytest.mark.parametrize("stranger", [1, 7], ids=["the next number", "a later number"])
async def test_a_number_that_redis_has_is_given_to_nobody(fed: Feeding, stranger: int) -> None:
    """Neither now nor when the sequence of numbers reaches it."""
    unknown = Endpoint("wh_old", stranger, "https://old.example.com", enabled=True, secrets=[], secret_ends_ms=[])
    await Endpoints(fed.redis).put(unknown)
    await fed.queues.enqueue(unknown, [Outgoing(0, "evt_old", "{}")])
    await fed.settle()
    rows = [await fed.add() for _ in range(8)]
    assert len({row.number for row in rows} - {stranger}) == 8
    assert min(row.number for row in rows) > stranger


async def test_no_number_is_passed_over_while_redis_has_none(fed: Feeding) -> None:
    """The first endpoint gets the first one, as in a file, whether or not a logger has met Redis before."""
    await fed.settle()
    assert [(await fed.add()).number for _ in range(2)] == [1, 2]
