"""One loop for each endpoint: they start, change and end with the endpoints in Redis, and leave each other alone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from shared.errors import StopChannelError, UnavailableError
from shared.events import Begun, Sent, unpack_batch
from shared.queue.consumer import BeginPolicy, Consumer
from shared.queue.keys import WEBHOOKS
from shared.queue.reaper import Reaper
from shared.queue.timing import UNSCALED
from shared.queue.webhooks import Endpoints, webhook_partition
from shared.sending.keeper import StuckError
from shared.sending.loop import SendingLoop
from shared.sending.provider import Receipt, RenderedMessage
from tests.awake import awake
from tests.integration.queue.webhooks import deliver, endpoint, ids, publish
from tests.integration.queue.world import HandSender, World
from tests.integration.sending.fakes import accept
from tests.integration.webhook_sender.senders import SETTINGS, FakeEndpoint, Receivers, running
from tests.servers import wait_for


async def hang(message: RenderedMessage) -> Receipt:
    await asyncio.Event().wait()
    return await accept(message)


async def senders_of(world: World, number: int) -> list[str]:
    """Return the live senders of an endpoint's partition."""
    stats = await world.control.partition_stats(webhook_partition(world.redis, number))
    return [one.sender_id for one in stats.senders]


async def test_endpoints_come_change_and_go_while_the_sender_runs(world: World) -> None:
    """A new one is served, a changed one updated without a restart, a disabled or deleted one left in peace."""
    receivers = Receivers()
    await publish(world.redis, endpoint(1))
    async with running(world.redis, receivers):
        await deliver(world.redis, 1, 0, 3)
        await wait_for(lambda: sorted(receivers.received(1)) == ids(1, 0, 3), what="the first endpoint's deliveries")
        await publish(world.redis, endpoint(1, "https://example.com/moved"), endpoint(2))
        await wait_for(lambda: receivers.made[1][0].endpoint.url.endswith("/moved"), what="the update")
        await wait_for(lambda: 2 in receivers.made, what="the second endpoint")
        await publish(world.redis, endpoint(1, enabled=False))
        await Endpoints(world.redis).remove(2)
        await wait_for(lambda: receivers.made[1][0].closed and receivers.made[2][0].closed, what="the ends")
        assert await senders_of(world, 1) == await senders_of(world, 2) == []
        await deliver(world.redis, 1, 3, 2)
        await publish(world.redis, endpoint(1))
        await wait_for(lambda: sorted(receivers.received(1)) == ids(1, 0, 5), what="what waited meanwhile")
    assert len(receivers.made[1]) == 2
    assert len(receivers.made[2]) == 1


async def test_a_hanging_endpoint_delays_no_other(world: World) -> None:
    """With every worker of one endpoint stuck in a request, another's deliveries pass as fast as before."""
    receivers = Receivers()

    def prepare(channel: FakeEndpoint) -> None:
        if channel.endpoint.number == 1:
            channel.behaviour = hang

    receivers.prepare = prepare
    await publish(world.redis, endpoint(1), endpoint(2))
    async with running(world.redis, receivers, replace(SETTINGS, grace_s=0.2)):
        await deliver(world.redis, 1, 0, 50)
        await wait_for(lambda: len(receivers.received(1)) == SETTINGS.concurrency, what="the hanging requests")
        waits = []
        async with awake() as spent:
            for n in range(20):
                begun_s = spent.seconds
                await deliver(world.redis, 2, n, 1)
                await wait_for(partial(receivers.has, 2, n + 1), what="a quick delivery")
                waits.append(spent.seconds - begun_s)
        assert sorted(waits)[10] < 0.2
    stats = await world.control.partition_stats(webhook_partition(world.redis, 1))
    assert (stats.active, stats.waiting, stats.counters["failed"]) == (0, 50, 0)


async def test_what_the_end_of_the_sender_cuts_off_uses_no_attempt(world: World) -> None:
    """A request that the receiver may have got is simply made again: it has the same id. Nothing becomes uncertain."""
    receivers = Receivers(prepare=lambda channel: setattr(channel, "behaviour", hang))
    await publish(world.redis, endpoint(1))
    await deliver(world.redis, 1, 0, 1)
    for _ in range(4):
        count = len(receivers.received(1)) + 1
        async with running(world.redis, receivers, replace(SETTINGS, grace_s=0.1)):
            await wait_for(partial(receivers.has, 1, count), what="the request")
    receivers.prepare = lambda _channel: None
    async with running(world.redis, receivers):
        await wait_for(lambda: len(receivers.received(1)) == 5, what="the request that is answered")
        await wait_for(lambda: _counter(world, 1, "sent"), what="its outcome")
    assert {event.attempt for event in await events_of(world, 1) if isinstance(event, Begun | Sent)} == {1}


async def test_a_delivery_whose_last_attempts_were_killed_is_sent_once_more(world: World) -> None:
    """Three senders die with it in flight, as often as it may be tried: it is delivered, not given up as uncertain."""
    partition = webhook_partition(world.redis, 1)
    await publish(world.redis, endpoint(1))
    await deliver(world.redis, 1, 0, 1)
    policy = BeginPolicy(on_uncertain=SETTINGS.on_uncertain)
    heir = Consumer(partition, "heir", world.timing, policy)
    await heir.heartbeat({}, first=True)
    reaper = Reaper(partition, "heir", replace(UNSCALED, checks_apart_ms=0, redis_up_ms=0))
    for turn in range(SETTINGS.max_attempts):
        dead = HandSender(Consumer(partition, f"dead{turn}", world.timing, policy))
        await dead.consumer.heartbeat({}, first=True)
        assert len(await dead.take()) == 1
        await world.redis.delete(partition.keys.sender(dead.name))
        taken = [await reaper.reap_dead() for _ in range(2)]
        assert sum(one.in_flight for every in taken for one in every) == 1
    receivers = Receivers()
    async with running(world.redis, receivers):
        await wait_for(partial(_sent, world, 1, 1), what="the delivery")
    assert await _counter(world, 1, "failed") == 0


async def _counter(world: World, number: int, name: str) -> int:
    return (await world.control.partition_stats(webhook_partition(world.redis, number))).counters[name]


async def events_of(world: World, number: int) -> list[Any]:
    """Return all events of an endpoint so far."""
    redis: Any = world.redis
    stream = webhook_partition(world.redis, number).keys.events
    batches = [unpack_batch(fields[b"d"]) for _, fields in await redis.xrange(stream)]
    return [event for batch in batches for event in batch.events]


async def test_a_loop_that_fails_is_started_again_and_ends_no_other(world: World) -> None:
    """A send that outlasts all time-outs ends its loop alone; the next one, under a new name, takes over its jobs."""
    receivers = Receivers()

    def prepare(channel: FakeEndpoint) -> None:
        if channel.endpoint.number == 1 and len(receivers.made[1]) == 1:
            channel.behaviour = hang

    receivers.prepare = prepare
    settings = replace(SETTINGS, stuck_after_s=0.5)
    await publish(world.redis, endpoint(1), endpoint(2))
    async with running(world.redis, receivers, settings) as process:
        await deliver(world.redis, 1, 0, 2)
        await wait_for(lambda: len(receivers.made.get(1, [])) > 1, what="the restart")
        await deliver(world.redis, 2, 0, 5)
        await wait_for(lambda: sorted(receivers.received(2)) == ids(2, 0, 5), what="the other endpoint's deliveries")
        await wait_for(lambda: _sent(world, 1, 2), what="the jobs of the loop that failed")
        assert len(receivers.made[2]) == 1
        assert (await process.senders.status())["endpoints"][0]["restarts"] == 1  # type: ignore[index]
        assert not process.task.done()
    assert receivers.made[1][0].closed


async def _sent(world: World, number: int, count: int) -> bool:
    return await _counter(world, number, "sent") == count


async def test_a_loop_that_cannot_start_tries_again_later_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at once, again and again, neither ends the process nor keeps it busy; its metric counts them."""
    failures: list[float] = []
    usual = SendingLoop.run

    async def fail(self: Any, stop: Any) -> None:
        if self._partition.keys.index == 1 and len(failures) < 4:
            failures.append(time.monotonic())
            raise StuckError("a bug")
        await usual(self, stop)

    monkeypatch.setattr(SendingLoop, "run", fail)
    receivers = Receivers()
    await publish(world.redis, endpoint(1), endpoint(2))
    async with running(world.redis, receivers) as process:
        await deliver(world.redis, 1, 0, 1)
        await wait_for(lambda: receivers.received(1) == ids(1, 0, 1), what="the delivery after the failures")
        shown = process.senders._around.metrics.exposition()[0].decode()
    assert 'kurir_housekeeping_errors_total{channel="webhook",task="endpoint"} 4.0' in shown
    gaps = [after - before for before, after in pairwise(failures)]
    assert all(gap > expected for gap, expected in zip(gaps, (0.09, 0.19, 0.39), strict=True))


async def test_a_stop_pauses_one_endpoint(world: World) -> None:
    """An endpoint that answers 410 is paused with its words; the delivery waits, and others continue."""

    async def gone(_message: RenderedMessage) -> Receipt:
        raise StopChannelError("the endpoint is gone", code="410", reply="Gone")

    receivers = Receivers()
    receivers.prepare = lambda channel: setattr(channel, "behaviour", gone if channel.endpoint.number == 1 else accept)
    await publish(world.redis, endpoint(1), endpoint(2))
    async with running(world.redis, receivers):
        await deliver(world.redis, 1, 0, 3)
        await wait_for(lambda: _pause(world, 1), what="the pause")
        await deliver(world.redis, 2, 0, 3)
        await wait_for(lambda: sorted(receivers.received(2)) == ids(2, 0, 3), what="the other endpoint's deliveries")
    assert await _pause(world, 1) == "the endpoint is gone Gone"
    assert await _pause(world, 2) == ""
    stats = await world.control.partition_stats(webhook_partition(world.redis, 1))
    assert (stats.waiting, stats.counters["failed"]) == (3, 0)


async def _pause(world: World, number: int) -> str:
    return (await world.control.partition_stats(webhook_partition(world.redis, number))).pause_reason


async def test_an_endpoint_that_is_down_leaves_the_process_healthy(world: World) -> None:
    """It is its owner's concern: a warning names it, a metric counts it, and no other suffers."""

    async def refuse(_message: RenderedMessage) -> Receipt:
        raise UnavailableError("cannot connect", code="connect")

    receivers = Receivers()

    def prepare(channel: FakeEndpoint) -> None:
        if channel.endpoint.number == 1:
            channel.behaviour, channel.is_available = refuse, False

    receivers.prepare = prepare
    await publish(world.redis, endpoint(1), endpoint(2), endpoint(3, enabled=False))
    async with running(world.redis, receivers) as process:
        await deliver(world.redis, 1, 0, 1)
        await wait_for(process.health.warnings, what="the warning")
        assert process.health.warnings() == {"endpoints": "cannot be reached: we_1"}
        assert process.health.reasons() == {}
        assert process.senders.states() == {"served": 2, "unreachable": 1, "disabled": 1}
        receivers.made[1][0].behaviour, receivers.made[1][0].is_available = accept, True
        await wait_for(lambda: not process.health.warnings(), what="its end")


async def test_events_of_all_loops_have_names_of_their_own(world: World) -> None:
    """The log drops a second batch of one name as a repetition: so a loop that starts again must not reuse any."""
    receivers = Receivers()
    names: list[tuple[str, int]] = []
    for first in range(0, 9, 3):
        await publish(world.redis, endpoint(1), endpoint(2))
        async with running(world.redis, receivers):
            for number in (1, 2):
                await deliver(world.redis, number, first, 3)
                await wait_for(partial(_sent, world, number, first + 3), what="the deliveries")
            for enabled in (False, True):
                await publish(world.redis, endpoint(1, enabled=enabled))
                await wait_for(partial(_is_served, world, 1, enabled), what="the change")
    redis: Any = world.redis
    for number in (1, 2):
        stream = webhook_partition(world.redis, number).keys.events
        for _, fields in await redis.xrange(stream):
            batch = unpack_batch(fields[b"d"])
            names.append((batch.producer, batch.sequence))
    # each time and for each at least one with the enqueueing, the begin and the end of all three
    assert len(names) == len(set(names)) >= 18


async def _is_served(world: World, number: int, expected: bool) -> bool:
    return bool(await senders_of(world, number)) == expected


async def test_a_hundred_endpoints_in_one_process(world: World) -> None:
    """Each gets its deliveries, and the end of the process leaves none of their senders listed."""
    receivers = Receivers()
    numbers = range(1, 101)
    await publish(world.redis, *(endpoint(number) for number in numbers))
    # full time constants: a hundred loops at a quarter of them keep a core busy
    async with running(world.redis, receivers, replace(SETTINGS, timing=UNSCALED)):
        for number in numbers:
            await deliver(world.redis, number, 0, 2)
        await wait_for(lambda: all(len(receivers.received(n)) == 2 for n in numbers), 180, "all deliveries")
    assert {number: sorted(receivers.received(number)) for number in numbers} == {
        number: ids(number, 0, 2) for number in numbers
    }
    assert not [number for number in numbers if await senders_of(world, number)]


async def test_what_cannot_be_read_changes_nothing(world: World) -> None:
    """An endpoint that a later version wrote stays served as it was; without Redis, everything stays as it is."""
    receivers = Receivers()
    redis: Any = world.redis
    await publish(world.redis, endpoint(1))
    async with running(world.redis, receivers):
        await deliver(world.redis, 1, 0, 1)
        await wait_for(lambda: receivers.received(1), what="the first delivery")
        await redis.hset(WEBHOOKS, "1", b"\xc1")
        await publish(world.redis, endpoint(2))
        await wait_for(lambda: 2 in receivers.made, what="a refresh after it")
        await deliver(world.redis, 1, 1, 1)
        await wait_for(lambda: len(receivers.received(1)) == 2, what="the second delivery")
        assert len(receivers.made[1]) == 1
