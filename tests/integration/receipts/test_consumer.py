"""The consumer: every entry takes effect under one name, or is set aside whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.receipts import consumer
from services.receipts.consumer import Source
from services.receipts.reading import Reading
from shared.events import MOST_RECEIPTS, Receipts
from shared.queue.keys import PartitionKeys
from shared.queue.receipts import batch_name
from tests.integration.receipts.world import SOURCES, Fails, LosesAnswers, NeverDone, World, statuses
from tests.servers import wait_for

POISON = b'{"object": "page"'


async def test_entry_becomes_one_batch_of_its_name(world: World) -> None:
    """The receipts of an entry are one batch, named by the entry, in the stream of the provider's channel."""
    entry_id = await world.inbox.add("meta", statuses("wamid.A", "wamid.B"))
    mailed = await world.inbox.add("sendgrid", b'[{"event": "delivered", "smtp-id": "<a>"}, {"event": "open"}]')
    one = world.consumer("one")
    async with one.running():
        await world.emptied()
    (batch,) = await world.batches("whatsapp")
    assert (batch.producer, batch.sequence) == batch_name("whatsapp", entry_id)
    assert [receipt.provider_id for receipt in await world.receipts("whatsapp")] == ["wamid.A", "wamid.B"]
    (batch,) = await world.batches("email")
    assert (batch.producer, batch.sequence) == batch_name("email", mailed)
    assert one.state.read == {("meta", "delivered"): 2, ("sendgrid", "delivered"): 1, ("sendgrid", "ignored"): 1}
    assert one.health.reasons() == {}


async def test_large_batch_is_one_batch_of_bounded_events(world: World) -> None:
    """A webhook with thousands of statuses is one batch, whose events have at most 500 receipts each."""
    await world.inbox.add("meta", statuses(*(f"wamid.{n}" for n in range(1_777))))
    async with world.consumer("one").running():
        await world.emptied()
    (batch,) = await world.batches()
    sizes = [len(event.items) for event in batch.events if isinstance(event, Receipts)]
    assert sizes == [MOST_RECEIPTS] * 3 + [277]
    assert [one.provider_id for one in await world.receipts()] == [f"wamid.{n}" for n in range(1_777)]


async def test_poison_is_set_aside_whole_and_its_neighbours_go_on(world: World) -> None:
    """What cannot be read is kept with the reason; what can be read beside it counts."""
    half = json.loads(statuses("wamid.C"))
    half["entry"][0]["changes"].append({"field": "moods", "value": {}})
    bodies = [statuses("wamid.A"), POISON, statuses("wamid.B"), json.dumps(half).encode()]
    ids = [await world.inbox.add("meta", body) for body in bodies]
    unread = await world.inbox.add("carrier-pigeon", b"coo")
    one = world.consumer("one")
    async with one.running():
        await world.emptied()
    assert {receipt.provider_id for receipt in await world.receipts()} == {"wamid.A", "wamid.B", "wamid.C"}
    kept = {aside.entry_id: (aside.why, aside.source, aside.body) for aside in await world.inbox.list_set_aside(10)}
    assert kept == {
        ids[1]: ("it is not JSON", "meta", POISON),
        ids[3]: ("unknown content of the field moods", "meta", bodies[3]),
        unread: ("its source has no reader", "carrier-pigeon", b"coo"),
    }
    assert one.state.set_aside == {"meta": 2, "carrier-pigeon": 1}


async def test_entries_of_another_form_are_set_aside(world: World) -> None:
    """Entries that Kurir did not write, whatever their fields, delay nobody."""
    foreign: list[dict[Any, Any]] = [
        {"x": "y"},
        {"p": b"\xff", "t": "1", "d": "{}"},
        {"p": "meta", "t": "9" * 5000, "d": ""},
    ]
    for fields in foreign:
        await world.redis.xadd("receipts", fields)
    await world.inbox.add("meta", statuses("wamid.A"))
    async with world.consumer("one").running():
        await world.emptied()
    assert len(await world.receipts()) == 1
    assert {aside.why for aside in await world.inbox.list_set_aside(10)} == {"its source has no reader"}
    assert len(await world.inbox.list_set_aside(10)) == 3


async def test_reader_that_raises_delays_nobody(world: World) -> None:
    """A mistake in a reader sets its entries aside, and the others are read."""

    def broken(body: bytes, taken_at: float) -> Reading:
        raise ZeroDivisionError(f"{len(body) / taken_at}")

    one = world.consumer("one", {**SOURCES, "ses": Source(broken, "email")})
    await world.inbox.add("ses", b"{}")
    await world.inbox.add("meta", statuses("wamid.A"))
    async with one.running():
        await world.emptied()
    assert len(await world.receipts()) == 1
    (aside,) = await world.inbox.list_set_aside(10)
    assert (aside.source, aside.why) == ("ses", "its reader failed: ZeroDivisionError")


async def test_entry_that_cannot_be_emitted_delays_its_neighbours_once(world: World) -> None:
    """What was to be emitted with it is taken again, one by one; it is set aside after ten tries."""
    for one_id in ("wamid.A", "wamid.BAD", "wamid.B"):
        await world.inbox.add("meta", statuses(one_id))
    mailed = await world.inbox.add("sendgrid", b'[{"event": "delivered", "smtp-id": "<a>"}]')
    async with world.consumer("one", inbox=Fails).running():
        await world.emptied()
    assert sorted(receipt.provider_id for receipt in await world.receipts()) == ["wamid.A", "wamid.B"]
    assert [batch.sequence for batch in await world.batches("email")] == [batch_name("email", mailed)[1]]
    (aside,) = await world.inbox.list_set_aside(10)
    assert (b"wamid.BAD" in aside.body, aside.why) == (True, "it was taken 11 times and never finished")


async def test_killed_between_event_and_acknowledgement(world: World) -> None:
    """A consumer that ends after it emitted leaves the entry; another one emits it again under the same name."""
    entry_id = await world.inbox.add("meta", statuses("wamid.A"))
    first = world.consumer("first", inbox=NeverDone)
    assert isinstance(first.inbox, NeverDone)
    task = asyncio.create_task(first.consumer.handle(await first.inbox.read(10)))
    await first.inbox.reached.wait()
    task.cancel()
    assert len(await world.batches()) == 1
    async with world.consumer("second").running():
        await world.emptied()
    batches = await world.batches()
    assert len(batches) == 2
    assert {(batch.producer, batch.sequence) for batch in batches} == {batch_name("whatsapp", entry_id)}
    assert batches[0] == batches[1]


async def test_entries_of_a_dead_consumer_are_taken(world: World) -> None:
    """Entries that a consumer took and never finished are finished by another, once they have been idle."""
    ids = [await world.inbox.add("meta", statuses(f"wamid.{n}")) for n in range(40)]
    assert len(await world.consumer("dead").inbox.read(50)) == len(ids)
    async with world.consumer("living").running():
        await world.emptied()
    assert sorted(one.provider_id for one in await world.receipts()) == sorted(f"wamid.{n}" for n in range(40))


async def test_entry_that_ends_its_consumers_is_set_aside(world: World) -> None:
    """An entry that was taken ten times and never finished is not read again; others that were taken with it are."""
    killer = await world.inbox.add("meta", statuses("wamid.KILLER"))
    await world.inbox.add("meta", statuses("wamid.A"))
    victim = world.consumer("victim").inbox
    await victim.read(10)
    for _ in range(9):
        assert [entry.entry_id for entry in await victim.claim(1, 0.0)] == [killer]
    one = world.consumer("one")
    async with one.running():
        await world.emptied()
    assert [receipt.provider_id for receipt in await world.receipts()] == ["wamid.A"]
    (aside,) = await world.inbox.list_set_aside(10)
    assert (aside.entry_id, aside.why) == (killer, "it was taken 11 times and never finished")


async def test_lost_answers_have_no_second_effect(world: World) -> None:
    """Calls whose answers are lost are repeated: one name for each entry, and each poison set aside once."""
    for n in range(10):
        await world.inbox.add("meta", statuses(f"wamid.{n}"))
    await world.inbox.add("meta", POISON)
    async with world.consumer("one", inbox=LosesAnswers).running():
        await world.emptied()
    batches = await world.batches()
    names = {(batch.producer, batch.sequence) for batch in batches}
    assert len(names) == 10
    assert len(batches) > 10
    assert len(await world.inbox.list_set_aside(10)) == 1


async def test_a_wait_follows_a_small_read_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a read that found little, entries gather; a full read and entries of the dead are followed at once."""
    monkeypatch.setattr(consumer, "_GATHER_S", 3600.0)
    for n in range(204):
        await world.inbox.add("meta", statuses(f"wamid.{n}"))
    assert len(await world.consumer("dead").inbox.read(3)) == 3
    async with world.consumer("one", time_scale=0.0).running():
        await world.emptied()
        await world.inbox.add("meta", statuses("wamid.LATER"))
    assert len(await world.receipts()) == 204
    assert (await world.inbox.counts()).waiting == 1


async def test_several_consumers_share_the_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three consumers that live read 300 entries, each once: nobody takes what another one works on."""
    monkeypatch.setattr(consumer, "CLAIM_IDLE_S", 3600.0)  # as long as one of them may stand still here
    for n in range(300):
        await world.inbox.add("meta", statuses(f"wamid.{n}"))
    consumers = [world.consumer(f"c{n}", time_scale=1.0) for n in range(3)]
    async with consumers[0].running(), consumers[1].running(), consumers[2].running():
        await world.emptied()
    batches = await world.batches()
    assert len({(batch.producer, batch.sequence) for batch in batches}) == len(batches) == 300


async def test_full_events_hold_the_consumer_back(world: World) -> None:
    """While too many events wait for the logger nothing is emitted; health says why, and it continues by itself."""
    events = PartitionKeys("whatsapp").events
    await world.redis.config_set("maxmemory", "64mb")
    try:
        for _ in range(20):
            await world.redis.xadd(events, {"d": b"x" * 1024 * 1024})
        await world.inbox.add("meta", statuses("wamid.A"))
        one = world.consumer("one")
        async with one.running():
            await wait_for(lambda: "events" in one.health.reasons(), what="the reason in the health")
            assert not await world.is_empty()
            await world.redis.xtrim(events, 0, approximate=False)
            await world.emptied()
        assert one.health.reasons() == {}
        assert len(await world.receipts()) == 1
    finally:
        await world.redis.config_set("maxmemory", "0")


@pytest.mark.parametrize("full", [False, True])
async def test_stop_leaves_what_cannot_be_emitted(world: World, full: bool) -> None:
    """A consumer that is stopped while the logger is behind ends, and its entries wait for the next one."""
    events = PartitionKeys("whatsapp").events
    await world.redis.config_set("maxmemory", "64mb" if full else "0")
    try:
        for _ in range(20):
            await world.redis.xadd(events, {"d": b"x" * 1024 * 1024})
        await world.inbox.add("meta", statuses("wamid.A"))
        one = world.consumer("one")
        async with one.running():
            await wait_for(lambda: one.health.reasons() or one.state.read, what="the entry was tried")
        assert await world.is_empty() is not full
    finally:
        await world.redis.config_set("maxmemory", "0")
