"""Events reach each endpoint's queue once and in order, over lost answers, a lost Redis and a restored database."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.logger.webhooks.endpoints import delete
from services.logger.webhooks.planning import WINDOW
from services.logger.webhooks.routes import _add_test
from shared.errors import QueueUnavailableError
from shared.events import ChannelChanged
from shared.queue.connection import connect
from shared.queue.keys import PartitionKeys
from shared.queue.webhook_queues import Outgoing, WebhookQueues
from shared.queue.webhooks import Endpoints
from shared.webhooks import Endpoint
from tests.integration.logger.webhooks.feeding import Feeding, events_in
from tests.unit.logger.database import START_MS


class Losing(WebhookQueues):
    """Queues whose answer to `enqueue` is lost after it was done, as often as a test says."""

    lost = 0

    async def enqueue(self, endpoint: Endpoint, deliveries: Sequence[Outgoing]) -> int:
        done = await super().enqueue(endpoint, deliveries)
        if self.lost:
            self.lost -= 1
            raise QueueUnavailableError("the answer was lost")
        return done


@pytest.fixture
async def fed(redis_url: str, tmp_path: Path) -> AsyncIterator[Feeding]:
    """Return a feeder on an empty server."""
    made = Feeding(redis_url, tmp_path, Losing)
    await made.open()
    yield made
    await made.close()


async def test_events_reach_the_queue_in_order(fed: Feeding) -> None:
    """As jobs whose id, `webhook-id` and body are constant; a turn without news adds nothing."""
    row = await fed.add()
    await fed.send(0, 1, 2)
    await fed.feed()
    jobs = await fed.jobs(row.number)
    assert events_in(jobs) == ["b:0:email", "b:1:email", "b:2:email"]
    assert [job.job_id for job in jobs] == [f"{row.endpoint_id}:{n}:webhook" for n in range(3)]
    assert len({job.recipient.name for job in jobs}) == 3
    await fed.feed()
    await fed.send(3)
    await fed.feed()
    assert events_in(await fed.jobs(row.number)) == ["b:0:email", "b:1:email", "b:2:email", "b:3:email"]


async def test_a_lost_answer_repeats_the_same_chunk(fed: Feeding) -> None:
    """Each event is in the queue once; the deliveries stay those that were written."""
    assert isinstance(fed.queues, Losing)
    row = await fed.add()
    await fed.send(*range(5))
    fed.queues.lost = 1
    with pytest.raises(QueueUnavailableError):
        await fed.feed()
    fed.feeder._start_over()
    await fed.send(5)
    await fed.feed()
    assert events_in(await fed.jobs(row.number)) == [f"b:{n}:email" for n in range(6)]


async def test_a_dead_endpoint_keeps_redis_bounded_and_delays_nobody(fed: Feeding) -> None:
    """Of its 100,000 events 1,000 are in Redis; another endpoint gets all of its own meanwhile."""
    dead, alive = await fed.add(), await fed.add(batch={"max": 500, "withinMs": 0})
    await fed.fill(1)
    await fed.feed()
    before = int((await fed.redis.info("memory"))["used_memory"])
    await fed.fill(100_000)
    began, seen = time.monotonic(), 1
    while seen < 100_001:
        await fed.feed()
        seen += len(events_in(await fed.deliver(alive)))
        assert time.monotonic() - began < 120
    assert seen >= 100_001
    assert len(await fed.jobs(dead.number)) == WINDOW
    used = int((await fed.redis.info("memory"))["used_memory"])
    assert used - before < 8_000_000
    # each report opens the window for the next, without a gap
    first = await fed.deliver(dead, 300)
    await fed.feed()
    assert [job.index for job in await fed.jobs(dead.number)] == list(range(300, 300 + WINDOW))
    assert [job.index for job in first] == list(range(300))


async def test_a_flushed_redis_gets_all_that_is_open_again(fed: Feeding) -> None:
    """Under the same ids, with the endpoint itself; what was delivered is not sent again."""
    row = await fed.add()
    await fed.send(*range(6))
    await fed.feed()
    before = {job.index: job.recipient for job in await fed.jobs(row.number)}
    await fed.deliver(row, 2)
    await fed.redis.flushall()
    await fed.sync.sync()
    await fed.send(6)
    await fed.feed()
    after = await fed.jobs(row.number)
    assert [job.index for job in after] == list(range(2, 7))
    assert all(job.recipient == before[job.index] for job in after[:-1])
    assert [one.endpoint_id for one in (await Endpoints(fed.redis).load())[0]] == [row.endpoint_id]


async def test_a_flush_is_noticed_without_new_events(fed: Feeding) -> None:
    """The watermarks are compared every few seconds."""
    row = await fed.add()
    await fed.send(*range(3))
    await fed.feed()
    await fed.redis.flushall()
    fed.feeder._check_at_s = 0.0
    await fed.feed()
    assert len(await fed.jobs(row.number)) == 3


async def test_a_failover_loses_only_what_redis_forgot(fed: Feeding) -> None:
    """A replica that is promoted may lack the last chunk: its deliveries are enqueued again, and no others."""
    row = await fed.add()
    await fed.send(*range(4))
    await fed.feed()
    keys = PartitionKeys("webhook", row.number)
    entries: Any = await fed.redis.xrange(keys.lane("normal"))
    await fed.redis.xdel(keys.lane("normal"), *(entry for entry, _ in entries[2:]))
    await fed.redis.hset(keys.blast(row.endpoint_id), "wm:jobs", 2)
    await fed.send(4)
    await fed.feed()
    assert events_in(await fed.jobs(row.number)) == [f"b:{n}:email" for n in range(5)]


async def test_a_restored_database_loses_no_new_event(fed: Feeding, redis_url: str, tmp_path: Path) -> None:
    """Its numbers were used for other events since: it continues after them."""
    row = await fed.add()
    await fed.send(0, 1)
    await fed.feed()
    backup = tmp_path / "restored"
    backup.mkdir()
    await fed.store.close()
    shutil.copy(tmp_path / "logs.db", backup / "logs.db")
    await fed.open_again()
    await fed.send(*range(2, 9))
    await fed.feed()
    restored = Feeding(redis_url, backup)
    await restored.open()
    await restored.send(20, 21)
    await restored.feed()
    waiting = await restored.jobs(row.number)
    assert [job.index for job in waiting] == list(range(13))
    assert events_in(waiting[9:]) == ["b:0:email", "b:1:email", "b:20:email", "b:21:email"]
    assert waiting[9].recipient.name == waiting[0].recipient.name
    await restored.close()


async def test_a_disabled_endpoint_gets_nothing_until_it_is_enabled(fed: Feeding) -> None:
    """Its partition is paused with what waits there; then all since follows, in order."""
    row = await fed.add()
    await fed.send(0)
    await fed.feed()
    gone = ChannelChanged(START_MS + 5, "webhook", "paused", "410 Gone")
    await fed.apply(gone, stream=PartitionKeys("webhook", row.number).events)
    await fed.sync.sync()
    paused = PartitionKeys("webhook", row.number).key("paused")
    assert await fed.redis.get(paused) == b"disabled"
    await fed.send(*range(1, 6))
    await fed.feed()
    assert len(await fed.jobs(row.number)) == 1
    await fed.patch(row, enabled=True)
    await fed.feed()
    assert await fed.redis.exists(paused) == 0
    assert events_in(await fed.jobs(row.number)) == [f"b:{n}:email" for n in range(6)]
    assert (await Endpoints(fed.redis).load())[0][0].enabled


async def test_a_test_goes_to_its_endpoint_alone(fed: Feeding) -> None:
    """Also while a turn has planned the next deliveries already."""
    row, other = await fed.add(), await fed.add()
    await fed.send(0)
    number, webhook_id = await fed.store.write(lambda c: _add_test(c, row.endpoint_id, START_MS))
    await fed.send(1)
    await fed.feed()
    fed.feeder.reload(number)
    await fed.feed()
    jobs = await fed.jobs(row.number)
    assert [job.index for job in jobs] == [0, 1, 2]
    assert [job.recipient.name == webhook_id for job in jobs] == [True, False, False]
    assert events_in(await fed.jobs(other.number)) == ["b:0:email", "b:1:email"]
    _, second = await fed.store.write(lambda c: _add_test(c, row.endpoint_id, START_MS))
    await fed.send(2)
    await fed.feed()
    fed.feeder.reload(number)
    await fed.feed()
    assert [job.recipient.name == second for job in await fed.jobs(row.number)][3:] == [True, False]


async def test_a_deleted_endpoint_leaves_nothing(fed: Feeding) -> None:
    """Its keys go when no sender is alive there, then its rows; others stay."""
    row, other = await fed.add(), await fed.add()
    await fed.send(*range(3))
    await fed.feed()
    keys = PartitionKeys("webhook", row.number)
    await fed.redis.hset(keys.key("senders"), "s", "host")
    await fed.redis.set(keys.sender("s"), "alive")
    await fed.store.write(lambda connection: delete(connection, row.endpoint_id))
    assert not await fed.sync.sync()
    assert fed.followed == [other.number]
    assert [one.number for one in (await Endpoints(fed.redis).load())[0]] == [other.number]
    assert len(await fed.jobs(row.number)) == 3
    await fed.redis.delete(keys.sender("s"))
    assert not await fed.sync.sync()
    await fed.redis.set(keys.key("late"), "made by a call that was on its way")
    await fed.settle()
    assert [key async for key in fed.redis.scan_iter(match=f"{keys.tag}*")] == []
    assert list(await fed.rows()) == [other.number]
    assert len(await fed.jobs(other.number)) == 3


async def test_endpoints_of_another_database_are_removed(fed: Feeding) -> None:
    """Their numbers are never given to others, whose senders would get their deliveries."""
    stranger = Endpoint("wh_old", 7, "https://old.example.com", enabled=True, secrets=[], secret_ends_ms=[])
    await Endpoints(fed.redis).put(stranger)
    await fed.queues.enqueue(stranger, [Outgoing(0, "evt_old", "{}")])
    row = await fed.add()
    assert row.number != stranger.number
    assert [one.number for one in (await Endpoints(fed.redis).load())[0]] == [row.number]
    assert await fed.jobs(stranger.number) == []
    later = [await fed.add() for _ in range(2)]
    assert len({one.number for one in later} - {7}) == 2


async def test_redis_may_be_away(fed: Feeding) -> None:
    """Nothing is lost, and what was planned is not planned again."""
    row = await fed.add()
    await fed.send(*range(3))
    away = connect("redis://127.0.0.1:1/0")
    fed.feeder._queues = WebhookQueues(away, "away")
    for _ in range(2):
        with pytest.raises(QueueUnavailableError):
            await fed.feed()
        fed.feeder._start_over()
    await away.aclose()
    fed.feeder._queues = fed.queues
    await fed.feed()
    assert events_in(await fed.jobs(row.number)) == [f"b:{n}:email" for n in range(3)]
