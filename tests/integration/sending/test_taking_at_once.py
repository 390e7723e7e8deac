"""An idle sender fetches new jobs and begins them with one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from shared.blasts import Blast
from shared.errors import QueueUnavailableError, StopChannelError
from shared.lifecycle import Stop
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.consumer import BeginRequest, Consumer, Taking
from shared.queue.leases import Grant
from shared.queue.scripts import Argument
from shared.sending.holdings import Holdings
from shared.sending.keeper import Keeper
from shared.sending.loop import SendingLoop
from shared.sending.provider import Capacity, RenderedMessage
from tests.integration.queue.world import World, lose_answer
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import wait_for


async def send_singly(world: World, provider: FakeProvider, count: int) -> None:
    """Send single messages, each once the one before has been settled."""
    for number in range(1, count + 1):
        blast = await world.given(1)

        async def is_sent(blast_id: str = blast.blast_id) -> bool:
            progress = await world.blasts.progress(blast_id)
            return progress is not None and progress.channels["email"].counts["sent"] == 1

        await wait_for(is_sent, what="the message to be sent")
        assert len(provider.calls) == number


async def test_single_messages_are_begun_by_their_fetch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender calls `begin` only for the first, and after it had no open connection."""
    begin, asked = Consumer.begin, []

    async def counted(self: Consumer, requests: Sequence[BeginRequest], *more: int) -> list[Grant]:
        asked.append(len(requests))
        return await begin(self, requests, *more)

    monkeypatch.setattr(Consumer, "begin", counted)
    provider = FakeProvider()
    async with sending(world, provider):
        await send_singly(world, provider, 3)
        assert asked == [1]
        provider.offers = Capacity(0, connections=0)
        blast = await world.given(1)
        await wait_for(lambda: provider.wanted == 1, what="a connection to be wanted")
        assert (await world.progress(blast)).counts["queued"] == 1
        provider.offers = Capacity()
        provider.changed()
        await wait_for(lambda: len(provider.calls) == 4, what="the message to be sent")
    assert asked == [1, 1]


async def test_a_single_message_is_sent_without_asking_for_its_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first, which was not begun by its fetch, needs a call for it."""
    load, loaded = BlastStore.load, []

    async def counted(self: BlastStore, blast_id: str) -> Blast | None:
        if self is not world.blasts:
            loaded.append(blast_id)
        return await load(self, blast_id)

    monkeypatch.setattr(BlastStore, "load", counted)
    provider = FakeProvider()
    async with sending(world, provider):
        await send_singly(world, provider, 3)
    assert len(loaded) == 1


def test_a_sender_on_a_cluster_asks_for_no_snapshot_with_a_fetch() -> None:
    """A snapshot has a slot of its own there, which the script may not read."""
    clustered = connect("redis+cluster://127.0.0.1:1")
    for redis, asks in ((clustered, False), (connect("redis://127.0.0.1:1"), True)):
        loop = SendingLoop(redis, FakeProvider(), SETTINGS, RememberedAttempts())
        assert isinstance(loop._consumer, Consumer)
        assert (loop._consumer.keep_snapshot is not None) == asks


@dataclass
class _Unusable(FakeProvider):
    """Can send nothing until an operator acts."""

    def capacity(self, wanted: int = 0) -> Capacity:
        raise StopChannelError(f"{wanted} wanted", code="url", reply="unusable")


async def test_an_idle_sender_stops_no_channel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that cannot be used is asked only once a job waits for it."""
    fetch, fetched = Consumer._call, []

    async def counted(self: Consumer, name: str, args: Sequence[Argument]) -> Any:
        fetched.extend([name] if name == "fetch" else [])
        return await fetch(self, name, args)

    async def is_paused() -> bool:
        return bool((await world.control.channel_stats("email")).pause_reason)

    monkeypatch.setattr(Consumer, "_call", counted)
    async with sending(world, _Unusable()):
        await wait_for(lambda: len(fetched) >= 3, what="the sender to look for jobs")
        assert not await is_paused()
        await world.given(1)
        await wait_for(is_paused, what="the channel to be stopped")


async def test_a_sender_that_stops_asks_for_a_lost_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends what was begun before it ends: no job is left in flight for others to find."""
    call, stop, provider = Consumer._call, Stop(), FakeProvider()

    async def lossy(self: Consumer, name: str, args: Sequence[Argument]) -> Any:
        answer: Any = await call(self, name, args)
        if name == "fetch" and len(args) > 4 and len(answer) > 5 and not stop.is_set():
            stop.set()
            raise QueueUnavailableError("the connection was lost")
        return answer

    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, provider, SETTINGS, RememberedAttempts())
    running = asyncio.create_task(loop.run(stop))
    await send_singly(world, provider, 1)
    monkeypatch.setattr(Consumer, "_call", lossy)
    blast = await world.given(1)
    async with asyncio.timeout(20):
        await running
    assert (await world.progress(blast)).counts["sent"] == 1
    assert len(provider.calls) == 2


@pytest.mark.parametrize("made", [True, False])
async def test_a_lost_answer_loses_and_repeats_no_message(
    world: World, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    """The sender asks for the answer, also where its call was never made, and sends the message once."""
    call = Consumer._call
    lost: list[Sequence[Argument]] = []

    async def lossy(self: Consumer, name: str, args: Sequence[Argument]) -> Any:
        if name == "fetch" and len(args) > 4 and len(lost) < 2 and is_losing:
            lost.append(args)
            if made:
                await call(self, name, args)
            raise QueueUnavailableError("the connection was lost")
        return await call(self, name, args)

    is_losing = False
    monkeypatch.setattr(Consumer, "_call", lossy)
    provider = FakeProvider()
    async with sending(world, provider):
        await send_singly(world, provider, 1)
        is_losing = True
        blast = await world.given(3)

        async def are_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 3

        await wait_for(are_sent, what="the messages to be sent")
    assert lost
    assert len(provider.calls) == 4
    assert not [event for event in await world.written() if getattr(event, "error_class", "")]


async def test_jobs_of_a_lost_answer_are_not_taken_for_lost_ones(world: World) -> None:
    """They are in flight without a task only until the sender has asked for the answer."""
    await world.given(2)
    sender = await world.sender()
    consumer = sender.consumer
    assert isinstance(consumer, Consumer)
    lose_answer(consumer)
    with pytest.raises(QueueUnavailableError):
        await consumer.take(Taking(2, 0, 0, 0.0, 0))
    keeper = Keeper(consumer, world.reaper(sender.name), Holdings(), SETTINGS, dict)
    for _ in range(3):
        await keeper._watch()
    assert len(await consumer.list_held("tx")) == 2
    await consumer.taken()
    for _ in range(2):
        await keeper._watch()
    assert await consumer.list_held("tx") == []
