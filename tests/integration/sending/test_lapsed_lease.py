"""A sender whose lease lapsed: earlier grants are void, even once the lease holds again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from shared.blasts import Blast
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.queue.connection import Connection
from shared.queue.consumer import Consumer
from shared.queue.keys import PartitionKeys
from shared.queue.partitions import Partition
from shared.queue.reaper import Reaper
from shared.sending.holdings import Holdings
from shared.sending.keeper import Keeper
from shared.sending.loop import SendingLoop
from shared.sending.provider import RenderedMessage
from tests.clocks import HandClock
from tests.integration.queue.world import World, eventually
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts
from tests.integration.sending.running import SETTINGS
from tests.servers import wait_for


@dataclass
class HandRedis:
    """Answers heartbeats with the given answers; None loses the reply."""

    answers: list[bool | None] = field(default_factory=list)
    partition = Partition(cast("Connection", None), PartitionKeys("email"))

    async def heartbeat(self, said: dict[str, object], *, first: bool = False) -> bool:
        del said, first
        answer = self.answers.pop(0)
        if answer is None:
            raise QueueUnavailableError("the reply was lost")
        return answer

    def forget(self) -> None:
        return


async def _held_after(gap_s: float, *answers: bool | None) -> bool:
    """Renew after a gap, once per answer; return whether a grant from before the gap still holds."""
    clock, redis = HandClock(), HandRedis([True, *answers])
    keeper = Keeper(cast("Consumer", redis), cast("Reaper", redis), Holdings(), SETTINGS, dict)
    assert await keeper.first_heartbeat(clock)
    granted_at = clock.now
    clock.now += gap_s
    for _ in answers:
        await keeper._renew(clock)
    return keeper.held_since(granted_at)


async def test_grants_are_void_once_the_lease_has_lapsed() -> None:
    """Renewed in time, the lease holds; a gap voids earlier grants, even if the reply that reported it was lost."""
    ttl_s = SETTINGS.timing.heartbeat_ttl_ms / 1000
    assert await _held_after(ttl_s * 0.4, True)
    assert not await _held_after(ttl_s * 0.4, False)
    assert not await _held_after(ttl_s * 1.1, None, True)


@pytest.mark.parametrize("where", ["loading its blast", "connecting"])
async def test_job_granted_before_a_lapse_is_left_to_its_new_sender(world: World, where: str) -> None:
    """A sender that was frozen and reaped does not send jobs that it had begun and not handed over (attacks G2)."""
    blast = await world.given(1)
    provider, gate, standing = FakeProvider(), asyncio.Event(), asyncio.Event()
    settings = replace(SETTINGS, sender_id="frozen")
    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, provider, settings, RememberedAttempts())
    load = loop._snapshots.get

    async def stand_still() -> None:
        standing.set()
        await gate.wait()

    def not_loaded(blast_id: str) -> Blast | None:
        del blast_id
        return None

    async def load_late(blast_id: str) -> Blast | None:
        await stand_still()
        return await load(blast_id)

    if where == "connecting":
        provider.prepare = lambda _message: stand_still()
    else:
        loop._snapshots.kept = not_loaded  # type: ignore[method-assign]
        loop._snapshots.get = load_late  # type: ignore[method-assign]
    stop = Stop()
    running = asyncio.create_task(loop.run(stop))
    await standing.wait()
    loop._dispatcher.gates.lease_fresh = lambda: False  # it begins nothing more, like a frozen sender
    other = await world.sender("other")
    await world.redis.delete(PartitionKeys("email").sender("frozen"))
    await world.reaper("other")._take("frozen")
    (lease,) = await eventually(lambda: other.take(1), "the abandoned job")
    await wait_for(lambda: not loop._shares.each[0].keeper.held_since(0), what="the frozen sender to renew its lease")
    gate.set()
    assert await other.finish(lease) == [True]
    stop.set()
    await running
    assert provider.calls == []
    assert (await world.progress(blast)).counts["sent"] == 1
