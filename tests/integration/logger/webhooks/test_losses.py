"""What Redis or the database lost does not keep an endpoint from its events."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.logger.webhooks.endpoints import create
from services.logger.webhooks.planning import WINDOW
from shared.events import Begun
from shared.lifecycle import Stop
from shared.queue.keys import PartitionKeys
from shared.queue.webhook_queues import Outgoing
from shared.queue.webhooks import Endpoints
from shared.webhooks import MOST_ENDPOINTS, Endpoint
from tests.integration.logger.webhooks.feeding import SEAL, Feeding, events_in
from tests.servers import wait_for
from tests.unit.logger.database import START_MS

UNREADABLE = """
INSERT INTO webhook_events (type, subject, mark, channel, at_ms, kept_at_ms, data)
VALUES ('channel.paused', 'email', '1', 'email', 1, 1, 'no JSON')
"""


@pytest.fixture
async def fed(redis_url: str, tmp_path: Path) -> AsyncIterator[Feeding]:
    """Return a feeder on an empty server."""
    made = Feeding(redis_url, tmp_path)
    await made.open()
    yield made
    await made.close()


async def test_a_failover_that_forgot_a_resumption_leaves_no_enabled_endpoint_paused(fed: Feeding) -> None:
    """The sync had written it and cleared its mark; the replica that was promoted still has the pause."""
    row = await fed.add()
    await fed.patch(row, enabled=False)
    await fed.patch(row, enabled=True)
    paused = PartitionKeys("webhook", row.number).key("paused")
    await fed.redis.set(paused, "disabled")  # as the replica has it
    for _ in range(3):
        await fed.sync.sync()
    await fed.store.close()
    await fed.open_again()
    await fed.sync.sync()
    assert await fed.redis.exists(paused) == 0


async def test_a_restored_database_does_not_wait_for_what_was_delivered(fed: Feeding, tmp_path: Path) -> None:
    """Redis has nothing of its open deliveries and never reports their ends; they must not fill the window for good."""
    row = await fed.add()
    await fed.fill(WINDOW)
    await fed.feed()
    await fed.store.close()
    shutil.copy(tmp_path / "logs.db", tmp_path / "backup.db")
    await fed.open_again()
    assert len(await fed.deliver(row)) == WINDOW
    await fed.store.close()
    for name in ("logs.db-wal", "logs.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup.db", tmp_path / "logs.db")
    await fed.open_again()
    await fed.sync.sync()
    await fed.send(1)
    seen: list[str] = []
    for _ in range(3):
        fed.feeder._check_at_s = 0.0
        await fed.feed()
        seen += events_in(await fed.deliver(row))
    assert "b:1:email" in seen


async def test_a_report_that_waited_hides_no_restored_database(fed: Feeding, tmp_path: Path) -> None:
    """The recorder reads a report once the sync lets it, maybe before the feeder's first turn."""
    row = await fed.add()
    await fed.send(0, 1)
    await fed.feed()
    await fed.store.close()
    shutil.copy(tmp_path / "logs.db", tmp_path / "backup.db")
    await fed.open_again()
    assert len(await fed.deliver(row, 1)) == 1  # its report is taken, and is not in the backup
    keys = PartitionKeys("webhook", row.number)
    redis: Any = fed.redis
    waiting: bytes = await redis.xadd(keys.events, {"d": b"a report"})
    await fed.store.close()
    for name in ("logs.db-wal", "logs.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup.db", tmp_path / "logs.db")
    await fed.open_again()
    await fed.sync.sync()
    begun = Begun(START_MS + 20, 1, 1, "s", f"{row.endpoint_id}:1:webhook")
    await fed.apply(begun, stream=keys.events, entry_id=waiting.decode())
    await fed.feed()
    assert "b:0:email" in events_in(await fed.jobs(row.number))


async def test_a_new_endpoint_gets_no_number_that_redis_has(fed: Feeding) -> None:
    """Not even one that was added before the first sync: a stranger's deliveries must not go to its URL."""
    stranger = Endpoint("wh_old", 1, "https://old.example.com", enabled=True, secrets=[], secret_ends_ms=[])
    await Endpoints(fed.redis).put(stranger)
    await fed.queues.enqueue(stranger, [Outgoing(0, "evt_old", '{"of": "another"}')])
    wanted = {"url": "https://example.com/hook", "events": ["*"]}
    row, _ = await fed.store.write(lambda connection: create(connection, wanted, SEAL, START_MS))
    await fed.settle()
    await fed.settle()
    now = next(one for one in (await fed.rows()).values() if one.endpoint_id == row.endpoint_id)
    assert [job.recipient.name for job in await fed.jobs(now.number)] == []


async def test_dead_endpoints_leave_redis_to_messages(fed: Feeding) -> None:
    """A hundred that are away with batches must fit a quarter of the 512 MB that Redis has by default."""
    for _ in range(4):
        await fed.add(batch={"max": 500, "withinMs": 0})
    before = int((await fed.redis.info("memory"))["used_memory"])
    await fed.fill(60_000)
    await fed.feed()
    used = int((await fed.redis.info("memory"))["used_memory"])
    assert (used - before) / 4 * MOST_ENDPOINTS < 128 * 1024 * 1024


async def test_a_type_that_is_added_later_brings_no_past(fed: Feeding) -> None:
    """An endpoint that has got all that it wanted gets what happens from the change on, also if the logger restarts."""
    await fed.add()
    row = await fed.add(events=["message.bounced"])
    await fed.send(*range(5))
    await fed.feed()
    await fed.patch(row, events=["message.sent"])
    await fed.store.close()
    await fed.open_again()
    await fed.send(9)
    await fed.feed()
    assert events_in(await fed.jobs(row.number)) == ["b:9:email"]


async def test_a_body_that_cannot_be_made_holds_up_no_other_endpoint(fed: Feeding) -> None:
    """Whatever is wrong with the events of one endpoint, the others go on."""
    broken, other = await fed.add(events=["channel.paused"]), await fed.add(events=["message.sent"])
    await fed.store.write(lambda connection: connection.execute(UNREADABLE).rowcount)
    await fed.send(0)
    stop = Stop()
    task = asyncio.create_task(fed.feeder.run(stop))
    try:
        await wait_for(lambda: fed.jobs(other.number))
    finally:
        stop.set()
        await task
    assert events_in(await fed.jobs(other.number)) == ["b:0:email"]
    assert await fed.jobs(broken.number) == []
