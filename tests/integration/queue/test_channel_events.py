"""Events of a channel: a pause, a resumption and new suppressions each become one event, also after a lost reply."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shared.errors import QueueFullError
from shared.events import ChannelChanged, EventBatch, SuppressedAddress, SuppressionsAdded
from shared.queue.control import Control
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys
from shared.queue.partitions import Partition
from shared.queue.refusals import Refusals, Refused
from shared.queue.suppressions import Suppressions
from shared.suppressions import Suppression
from tests.integration.queue.world import World

BOUNCE = Suppression("all", "bounce", "hard_bounce: 550", 1000, job_id="b:0:email", words="550 no such user")
OPT_OUT = Suppression("marketing", "opt_out", "opted_out: 131050", 1000)


async def changes(world: World) -> list[tuple[str, str, str]]:
    """Return the changes of channels so far."""
    events = await world.written()
    return [(one.channel, one.change, one.reason) for one in events if isinstance(one, ChannelChanged)]


async def added(world: World) -> list[SuppressionsAdded]:
    """Return the events of new suppressions so far."""
    return [one for one in await world.written() if isinstance(one, SuppressionsAdded)]


async def server_ms(world: World) -> int:
    """Return the server's time."""
    seconds, microseconds = await world.redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_a_pause_and_a_resumption_are_one_event_each(world: World) -> None:
    """A call repeated after a lost reply adds none; nor does a second sender that stops the channel in other words."""
    before = await server_ms(world)
    for reason in ("535 wrong password", "535 wrong password", "535 wrong password (id 7)"):
        await world.control.pause_channel("email", reason)
    assert (await world.control.channel_stats("email")).pause_reason == "535 wrong password (id 7)"
    for _ in range(2):
        await world.control.resume_channel("email")
    assert await changes(world) == [("email", "paused", "535 wrong password"), ("email", "resumed", "")]
    times = [one.at_ms for one in world.events if isinstance(one, ChannelChanged)]
    assert before <= times[0] <= times[1] <= await server_ms(world)


async def test_each_pause_has_its_own_event(world: World) -> None:
    """Paused, resumed and paused again is three events, in this order, from however many processes."""
    other = Control(world.redis, "another process")
    await world.control.pause_channel("email", "first")
    await other.resume_channel("email")
    await other.pause_channel("email", "second")
    assert await changes(world) == [
        ("email", "paused", "first"),
        ("email", "resumed", ""),
        ("email", "paused", "second"),
    ]


async def test_a_resumption_of_a_channel_that_sends_adds_no_event(world: World) -> None:
    """Only a change is an event."""
    await world.control.resume_channel("email")
    assert await changes(world) == []


async def test_one_partition_is_paused_alone(world: World) -> None:
    """The event is in the stream of that partition and has the name of the channel, without the number."""
    partition = Partition(world.redis, PartitionKeys("webhook", 3))
    await world.control.pause_partitions([partition], "410 gone")
    await world.control.resume_partitions([partition])
    assert await world.redis.xlen(partition.keys.events) == 2
    assert not await world.redis.exists("{webhook}:events", "{webhook}:paused", "{webhook.3}:paused")
    log = EventLog(world.redis)
    log._streams, log._pending_from = [partition.keys.events], {}
    found = await log.read(10, 0.0) or await log.read(10, 0.0)
    batches = [one.batch for one in found]
    assert all(isinstance(one, EventBatch) for one in batches)
    events = [event for one in batches if isinstance(one, EventBatch) for event in one.events]
    assert [(one.channel, one.change, one.reason) for one in events if isinstance(one, ChannelChanged)] == [
        ("webhook", "paused", "410 gone"),
        ("webhook", "resumed", ""),
    ]


@pytest.mark.parametrize("alone_from_the_start", [True, False])
async def test_a_run_of_refusals_reports_its_pause(alone_from_the_start: bool, world: World) -> None:
    """Once, whether its server was the last one from the start or became it; further refusals add nothing."""
    refusals = Refusals(world.partition, "s")
    for number in range(3):
        refused = Refused("mx", "550", f"r{number}@example.com", "", "everybody is refused")
        await refusals.count(refused, 3, alone=alone_from_the_start)
    assert bool(await changes(world)) == alone_from_the_start
    for number in range(3, 5):
        assert await refusals.count(replace_address(refused, number), 3, alone=True) == "back"
    assert await changes(world) == [("email", "paused", "everybody is refused")]


def replace_address(refused: Refused, number: int) -> Refused:
    return Refused(refused.server, refused.alike, f"r{number}@example.com", refused.suppression, refused.reason)


async def test_a_run_of_refusals_in_a_paused_channel_adds_no_second_pause(world: World) -> None:
    """The reason changes; the pause is the one that was reported."""
    await world.control.pause_channel("email", "by hand")
    refusals = Refusals(world.partition, "s")
    words = [
        await refusals.count(Refused("mx", "550", f"r{number}@example.com", "", "all refused"), 2, alone=True)
        for number in range(2)
    ]
    assert words == ["hold", "stop"]
    assert await changes(world) == [("email", "paused", "by hand")]


async def test_suppressions_of_one_call_are_one_event(world: World) -> None:
    """It has those that are new or changed, with the identity of their address, and not those that stay as they are."""
    suppressions = Suppressions(world.redis)
    await suppressions.add("email", "known@example.com", OPT_OUT)
    stored = await suppressions.add_all(
        "email",
        [("Siti@Example.com", BOUNCE), ("known@example.com", OPT_OUT), ("known@example.com", BOUNCE)],
    )
    assert stored == ["new", "kept", "changed"]
    first, second = await added(world)
    assert (first.channel, [one.address for one in first.items]) == ("email", ["known@example.com"])
    assert second.items == [
        SuppressedAddress("siti@example.com", "all", "bounce", "hard_bounce: 550", "b:0:email"),
        SuppressedAddress("known@example.com", "all", "bounce", "hard_bounce: 550", "b:0:email"),
    ]


async def test_a_repeated_suppression_adds_no_event(world: World) -> None:
    """So a call repeated after a lost reply reports nothing twice."""
    suppressions = Suppressions(world.redis)
    for _ in range(2):
        await suppressions.add("email", "r@example.com", BOUNCE)
        await suppressions.add("email", "r@example.com", replace(OPT_OUT, expires_at_ms=1 << 42))
    await suppressions.add("email", "r@example.com", replace(OPT_OUT, expires_at_ms=1 << 43))
    assert [(one.items[0].address, one.items[0].scope) for one in await added(world)] == [
        ("r@example.com", "all"),
        ("r@example.com", "marketing"),
        ("r@example.com", "marketing"),
    ]


async def test_text_of_any_language_is_reported_as_it_is(world: World) -> None:
    """The server's msgpack writes it as Python reads it."""
    await world.control.pause_channel("email", "ditolak: sebab “tidak dikenal” 🛑")
    reason = replace(BOUNCE, reason="日本語 " * 40)
    await Suppressions(world.redis).add("whatsapp", "6281200000001", reason)
    assert (await changes(world))[0][2] == "ditolak: sebab “tidak dikenal” 🛑"
    (one,) = await added(world)
    assert (one.channel, one.items[0].reason) == ("whatsapp", "日本語 " * 40)


async def test_a_block_of_suppressions_costs_one_entry(world: World) -> None:
    """500 addresses are one entry of at most 100 KB, and repeating them costs nothing."""
    suppressions = Suppressions(world.redis)
    every = [(f"reader.number.{number:07}@newsletter.example.com", BOUNCE) for number in range(500)]
    for _ in range(2):
        await suppressions.add_all("email", every)
    redis: Any = world.redis
    rows = await redis.xrange(world.partition.keys.events)
    assert [len(one) < 100_000 for _, fields in rows for one in fields.values()] == [True]
    (event,) = await added(world)
    assert len(event.items) == 500


async def test_an_event_stream_near_its_limit_is_reported(world: World) -> None:
    """Callers that add only events, such as an import of suppressions, learn that the logger is behind."""
    await world.producer.check_events("email")
    await world.redis.config_set("maxmemory", 100_000_000)
    big = replace(BOUNCE, reason="x" * 2000)
    for first in range(0, 7500, 500):
        every = [(f"r{number}@example.com", big) for number in range(first, first + 500)]
        await Suppressions(world.redis).add_all("email", every)
    with pytest.raises(QueueFullError, match="events that wait for the logger"):
        await world.producer.check_events("email")
    await world.producer.check_events("whatsapp")
    await world.written()
    await world.producer.check_events("email")
    await world.redis.config_set("maxmemory", 0)
