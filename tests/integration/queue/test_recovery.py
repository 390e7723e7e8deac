"""Faults of Redis: lost replies, lost scripts, lost data, full memory, entries that are not jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from shared.errors import QueueFullError
from shared.events import Begun, Ended, EventBatch, Sent, SystemEvent, pack_batch
from shared.queue.batches import Numbered
from shared.queue.leases import Lease
from shared.queue.producer import BacklogLimits, Producer
from shared.queue.suppressions import Suppressions
from shared.suppressions import Suppression
from tests.clocks import StandingClock
from tests.integration.queue.world import World, open_world
from tests.servers import wait_for


def repeat_next(numbers: Numbered) -> None:
    """Give the next two calls of a step one number: the second repeats the first."""
    number = numbers.next()
    numbers.next = lambda: number  # type: ignore[method-assign]


async def test_repeated_begin_is_answered_as_before(world: World) -> None:
    """A begin whose reply was lost grants the same jobs again, with one event and one charge."""
    blast = await world.given(2)
    sender = await world.sender()
    leases = await sender.fetch()
    repeat_next(sender.consumers[0]._begins)
    assert await sender.begin(leases) == await sender.begin(leases)
    assert [len(event) for event in await world.written() if isinstance(event, Begun)] == [2]
    await world.check_balance(blast)


async def test_repeated_late_answer_counts_once(world: World) -> None:
    """A late report whose reply was lost gets the same answer and one event."""
    await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    await world.reaper(sender.name).give_up([lease])
    repeat_next(sender.consumers[0]._lates)
    assert [await sender.late(lease), await sender.late(lease)] == [True, True]
    assert sum(isinstance(event, Sent) for event in await world.written()) == 1


async def test_copy_of_an_older_call_does_nothing(world: World) -> None:
    """A begin that was delayed in a dead connection arrives after later ones were answered: it begins nothing."""
    blast = await world.given(2)
    sender = await world.sender()
    numbers = sender.consumers[0]._begins
    old = numbers.next()
    first, second = await sender.fetch()
    assert [grant.kind for grant in await sender.begin([first])] == ["granted"]
    numbers.next = lambda: old  # type: ignore[method-assign]
    with pytest.raises(Exception, match="STALE"):
        await sender.begin([second])
    assert (await world.progress(blast)).counts["processing"] == 1


def by_id(lease: Lease) -> str:
    return lease.job_id


async def test_list_held_returns_the_jobs_of_a_lost_fetch(world: World) -> None:
    """Jobs that a fetch took before its reply was lost are in the buffer, and listed."""
    await world.given(3)
    await world.given(120, "bulk")
    sender = await world.sender()
    fetched = await sender.fetch(40)
    listed = await sender.consumer.list_held("buf")
    assert sorted(await sender.consumer.load(listed), key=by_id) == sorted(fetched, key=by_id)
    assert await sender.consumer.list_held("tx") == []


async def test_scripts_come_back_after_a_script_flush(world: World) -> None:
    """A server that forgot the scripts receives them again."""
    blast = await world.given(1)
    sender = await world.sender()
    await world.redis.script_flush()
    (lease,) = await sender.take()
    await world.redis.script_flush()
    assert await sender.finish(lease) == [True]
    await world.check_balance(blast)


async def test_queue_works_after_flushall(world: World) -> None:
    """All data is gone: a sender loses what it held without an error, and new work flows immediately."""
    await world.given(3)
    await world.given(120, "bulk")
    sender = await world.sender()
    leases = await sender.take(20)
    await world.redis.flushall()
    assert set(await sender.finish(*leases)) == {False}
    assert not await sender.late(leases[0])
    assert not await sender.consumer.heartbeat({}), "the lease had lapsed"
    blast = await world.given(5)
    assert all(await sender.finish(*await sender.take(5)))
    await world.check_balance(blast)
    assert not [key async for key in world.redis.scan_iter("{email}:blast:*") if blast.blast_id not in key.decode()]


async def test_lost_group_is_created_again_from_the_start(world: World) -> None:
    """A stream whose group is gone delivers all its entries."""
    await world.given(3)
    await world.redis.xgroup_destroy("{email}:jobs:normal", "senders")
    assert len(await (await world.sender()).fetch(10)) == 3


async def test_entry_that_is_not_a_job_ends_visibly(world: World) -> None:
    """An entry that is not a job is removed, counted as failed, reported to the logger, and blocks nothing."""
    blast = await world.given(2)
    await world.redis.xtrim("{email}:jobs:normal", maxlen=0, approximate=False)
    broken = msgspec.msgpack.encode([blast.blast_id, 0, "email", "no such lane"])
    await world.redis.xadd("{email}:jobs:normal", {"d": broken})
    await world.redis.xadd("{email}:jobs:normal", {"d": b"\xc1 noise"})
    sender = await world.sender()
    fetched = await sender.consumer.fetch(10)
    assert [entry.job_id for entry in fetched.undecodable] == [f"{blast.blast_id}:0:email", ""]
    for entry in fetched.undecodable:
        await sender.consumer.discard(entry, 1)
    assert (await world.progress(blast)).counts["failed"] == 1
    await world.check_balance()
    events = await world.written()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert (ended.error_class, ended.job) == ("undecodable", broken)
    assert len([event for event in events if isinstance(event, SystemEvent)]) == 2


async def test_backlog_is_bounded(world: World) -> None:
    """Beyond the limit of waiting jobs, or of unread events, the backlog is full."""
    await world.given(10)
    await Producer(world.redis, "roomy", BacklogLimits(jobs=20)).check_backlog("email", 10)
    with pytest.raises(QueueFullError, match="10 jobs wait"):
        await Producer(world.redis, "full", BacklogLimits(jobs=19)).check_backlog("email", 10)
    with pytest.raises(QueueFullError, match="events"):
        await Producer(world.redis, "unread", BacklogLimits(events=0)).check_backlog("email")


async def test_the_backlog_is_checked_in_one_round_trip(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request of a client waits for it."""
    asked: list[object] = []
    pipeline = world.redis.pipeline

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(args)
        return pipeline(*args, **options)

    monkeypatch.setattr(world.redis, "pipeline", counted)
    monkeypatch.setattr(world.redis, "execute_command", None)
    await Producer(world.redis, "asking").check_backlog("email")
    assert len(asked) == 1


@pytest.fixture
async def full_world(redis_url: str) -> AsyncIterator[World]:
    """A queue whose Redis can be filled; its limit is removed at the end."""
    world = open_world(redis_url)
    yield world
    await world.redis.config_set("maxmemory", 0)
    await world.redis.aclose()


async def test_full_redis_takes_no_new_work_and_always_drains(full_world: World) -> None:
    """At maxmemory enqueueing is refused; scripts that move or end jobs still run, and make room."""
    world = full_world
    blast = await world.given(40)
    bulk = await world.given(120, "bulk")
    await world.redis.config_set("maxmemory", 1)
    with pytest.raises(QueueFullError):
        await world.enqueue(world.unknown_blast(5))
    sender = await world.sender()
    leases = await sender.take(6)
    assert all([await sender.finish(leases[0]), await sender.fail(leases[1]), await sender.retry(leases[2], 1)])
    assert all([await sender.defer(leases[3], 1), await sender.give_back(leases[4])])
    assert await world.reaper(sender.name).give_up([leases[5]]) == 1
    assert await sender.late(leases[5])
    await world.control.pause_channel("email", "535")
    await world.control.resume_channel("email")
    assert await Suppressions(world.redis).add(
        "email", "r7@example.com", Suppression("all", "bounce", "hard_bounce: 550")
    )
    assert await world.control.pause_blast(blast.blast_id, "wait")
    assert await world.control.resume_blast(blast.blast_id)
    assert await world.control.cancel_blast(bulk.blast_id)
    assert (await world.progress(bulk)).counts["cancelled"] >= 115
    await world.check_balance(blast, bulk)
    assert len(await world.written()) > 120
    await world.redis.config_set("maxmemory", 0)
    await world.given(5)


async def test_nothing_is_fetched_while_too_many_events_wait(world: World) -> None:
    """G1: without a logger, events fill only their share of memory: jobs wait until the events are read."""
    blast = await world.given(400)
    sender = await world.sender()
    sender.consumers[0].fit_events(4 * 200_000)  # a quarter of it
    event = Ended(0, "x", 1, 1, "failed", "permanent", "550", "no" * 500)
    taken = await sender.take(5)
    filler = Producer(world.redis, "filler")
    for _ in range(100):
        number, _ = filler._gateway.next()
        batch = EventBatch("filler", number, [event] * 4)
        await world.partition.call("emit_event", (pack_batch(batch),))
    held = await sender.consumer.fetch(10)
    assert (held.leases, held.log_behind) == ([], True)
    assert all(await sender.finish(*taken)), "what was begun is settled all the same"
    await world.written()
    assert len((await sender.consumer.fetch(10)).leases) == 10
    await world.check_balance(blast)


async def test_waiting_request_events_are_bounded(world: World) -> None:
    """Events of requests are refused once they take their share of memory; events of messages do not count."""
    await world.redis.config_set("maxmemory", 16_000_000)
    producer = Producer(world.redis, "ingest")
    event = SystemEvent(0, "info", "x" * 10_000, "ingest", {})

    async def is_refused() -> bool:
        try:
            await producer.emit(event)
        except QueueFullError as error:
            return "wait for the logger" in str(error)
        return False

    try:
        await wait_for(is_refused, 60, "the events to reach their limit")
        size = await world.redis.memory_usage("gateway:events")
        assert 3_000_000 < (size or 0) < 4_500_000
        await world.written()
        await producer.emit(event)
    finally:
        await world.redis.config_set("maxmemory", 0)


async def test_processes_together_keep_the_bound_of_request_events(world: World) -> None:
    """Ten processes that emit in turns, each with a reserved part of the free bytes, exceed the limit by little."""
    await world.redis.config_set("maxmemory", 16_000_000)
    producers = [Producer(world.redis, f"ingest{number}") for number in range(10)]
    event = SystemEvent(0, "info", "x" * 10_000, "ingest", {})
    refused: set[int] = set()
    try:
        for turn in range(2000):
            number = turn % len(producers)
            try:
                await producers[number].emit(event)
            except QueueFullError:
                refused.add(number)
            if len(refused) == len(producers):
                break
        assert len(refused) == len(producers)
        size = await world.redis.memory_usage("gateway:events")
        assert 3_000_000 < (size or 0) < 4_500_000
    finally:
        await world.redis.config_set("maxmemory", 0)


async def test_request_events_seldom_ask_for_the_size_of_their_stream(world: World) -> None:
    """Of many batches within a second, only the first asks Redis how much memory they take."""
    clock = StandingClock()
    producer = Producer(world.redis, "ingest", clock=clock)
    before = await _size_calls(world)
    for _ in range(20):
        await producer.emit(SystemEvent(0, "info", "x", "ingest", {}))
    asked = await _size_calls(world)
    clock.now += 60
    await producer.emit(SystemEvent(0, "info", "x", "ingest", {}))
    assert (asked - before, await _size_calls(world) - before) == (1, 2)


async def _size_calls(world: World) -> int:
    """Return how often Redis has been asked for the size of a key since its start."""
    stats = await world.redis.info("commandstats")
    return int(stats.get("cmdstat_memory|usage", {"calls": 0})["calls"])


async def test_blasts_are_refused_before_senders_stop(world: World) -> None:
    """Ingest accepts nothing from half of the events' share on, so that accepted jobs can still be sent."""
    await world.redis.config_set("maxmemory", 16_000_000)
    producer = Producer(world.redis, "ingest")
    try:
        await producer.check_backlog("email")
        filler = Producer(world.redis, "filler")
        for _ in range(300):
            number, _ = filler._gateway.next()
            event = Ended(0, "x", 1, 1, "failed", "permanent", "550", "no" * 5000)
            await world.partition.call("emit_event", (pack_batch(EventBatch("filler", number, [event])),))
        with pytest.raises(QueueFullError, match="wait for the logger take"):
            await producer.check_backlog("email")
        await world.written()
        await producer.check_backlog("email")
    finally:
        await world.redis.config_set("maxmemory", 0)
