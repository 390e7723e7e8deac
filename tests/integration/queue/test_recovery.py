"""Bad days of Redis: lost replies, lost scripts, lost data, a full memory, bytes that are no job."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from shared.errors import QueueFullError
from shared.events import Ended, Processing, Sent, SystemEvent
from shared.queue.batches import Numbered
from shared.queue.leases import Lease
from shared.queue.producer import BacklogLimits, Producer
from shared.queue.suppressions import Suppressions
from shared.suppressions import Suppression
from tests.integration.queue.world import World, open_world


def repeat_next(numbers: Numbered) -> None:
    """Let the next two calls of a step bear one number: the second repeats the first."""
    number = numbers.next()
    numbers.next = lambda: number  # type: ignore[method-assign]


async def test_repeated_begin_is_answered_as_before(world: World) -> None:
    """A begin whose reply was lost grants the same jobs again, with one event and one charge."""
    blast = await world.given(2)
    sender = await world.sender()
    leases = await sender.fetch()
    repeat_next(sender.consumer._begins)
    assert await sender.begin(leases) == await sender.begin(leases)
    assert sum(isinstance(event, Processing) for event in await world.written()) == 2
    await world.check_balance(blast)


async def test_repeated_late_answer_counts_once(world: World) -> None:
    """A late report whose reply was lost gets the same answer and one event."""
    await world.given(1)
    sender = await world.sender()
    (lease,) = await sender.take()
    await world.reaper(sender.name).give_up([lease])
    repeat_next(sender.consumer._lates)
    assert [await sender.late(lease), await sender.late(lease)] == [True, True]
    assert sum(isinstance(event, Sent) for event in await world.written()) == 1


async def test_copy_of_an_older_call_does_nothing(world: World) -> None:
    """A begin that lay in a dead connection comes after later ones were answered: it begins nothing."""
    blast = await world.given(2)
    sender = await world.sender()
    numbers = sender.consumer._begins
    old = numbers.next()
    first, second = await sender.fetch()
    assert [grant.kind for grant in await sender.begin([first])] == ["granted"]
    numbers.next = lambda: old  # type: ignore[method-assign]
    with pytest.raises(Exception, match="STALE"):
        await sender.begin([second])
    assert (await world.progress(blast)).counts["processing"] == 1


def by_id(lease: Lease) -> str:
    return lease.job_id


async def test_own_lists_what_a_lost_fetch_brought(world: World) -> None:
    """What a fetch took before its reply was lost is in the buffer, and listed."""
    await world.given(3)
    await world.given(120, "bulk")
    sender = await world.sender()
    fetched = await sender.fetch(40)
    listed = await sender.consumer.own("buf")
    assert sorted(await sender.consumer.load(listed), key=by_id) == sorted(fetched, key=by_id)
    assert await sender.consumer.own("tx") == []


async def test_scripts_come_back_after_a_script_flush(world: World) -> None:
    """A server that forgot the scripts is sent them again."""
    blast = await world.given(1)
    sender = await world.sender()
    await world.redis.script_flush()
    (lease,) = await sender.take()
    await world.redis.script_flush()
    assert await sender.finish(lease) == [True]
    await world.check_balance(blast)


async def test_queue_works_on_after_flushall(world: World) -> None:
    """All data gone: what was held is lost to its sender without an error, and new work flows at once."""
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


async def test_lost_group_is_made_anew_from_the_start(world: World) -> None:
    """A stream whose group is gone gives out everything it holds."""
    await world.given(3)
    await world.redis.xgroup_destroy("{email}:jobs:normal", "senders")
    assert len(await (await world.sender()).fetch(10)) == 3


async def test_what_is_no_job_ends_visibly(world: World) -> None:
    """Bytes that are no job are taken out, counted as failed, told to the logger, and block nothing."""
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
    """Past the limit of waiting jobs, or of unread events, there is no room."""
    await world.given(10)
    await Producer(world.redis, "roomy", BacklogLimits(jobs=20)).check_room("email", 10)
    with pytest.raises(QueueFullError, match="10 jobs wait"):
        await Producer(world.redis, "full", BacklogLimits(jobs=19)).check_room("email", 10)
    with pytest.raises(QueueFullError, match="events"):
        await Producer(world.redis, "unread", BacklogLimits(events=0)).check_room("email")


@pytest.fixture
async def full_world(redis_url: str) -> AsyncIterator[World]:
    """A queue whose Redis can be filled: the limit is lifted again at the end."""
    world = open_world(redis_url)
    yield world
    await world.redis.config_set("maxmemory", 0)
    await world.redis.aclose()


async def test_full_redis_takes_no_new_work_and_always_drains(full_world: World) -> None:
    """At maxmemory enqueueing is refused; everything that moves or ends jobs goes on, and makes room."""
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
