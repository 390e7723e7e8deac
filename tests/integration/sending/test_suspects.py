"""Jobs of a sender that died in mid-send, among many others: sent soon, each alone, without delaying the rest."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

import pytest

from shared.events import Ended
from shared.jobs import Lane
from shared.queue.reaper import Reaper
from shared.sending.provider import Receipt, RenderedMessage
from tests.integration.queue.world import AT_ONCE, World
from tests.integration.sending.fakes import FakeProvider, accept
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import wait_for

_SUSPECTS, _OTHERS = 15, 1_000
_SEND_S = 0.01


@dataclass
class _Watched:
    """A provider that takes 10 ms per message; `order` is the order of sends, `beside` which ran beside each one."""

    order: list[str] = field(default_factory=list)
    beside: dict[str, set[str]] = field(default_factory=dict)
    _now: set[str] = field(default_factory=set)

    async def send(self, message: RenderedMessage) -> Receipt:
        self.order.append(message.job_id)
        self._now.add(message.job_id)
        for job_id in self._now:
            self.beside.setdefault(job_id, set()).update(self._now)
        await asyncio.sleep(_SEND_S)
        self._now.discard(message.job_id)
        return await accept(message)


async def _abandoned(world: World, count: int, lane: Lane = "normal") -> set[str]:
    """Let a sender die in mid-send of `count` jobs, and take them over; return their ids."""
    await world.given(count, lane)
    dead, reaping = await world.sender(), await world.sender()
    leases = await dead.take(count)
    await world.redis.delete(f"{{email}}:sender:{dead.name}")
    (taken,) = await Reaper(world.partition, reaping.name, AT_ONCE).reap_dead()
    assert taken.in_flight == count
    return {lease.job_id for lease in leases}


@pytest.mark.timing
async def test_suspects_are_sent_first_and_alone(world: World) -> None:
    """G2, G7: with 1,000 others waiting, the abandoned jobs are sent first, one by one; the others flow as before."""
    suspects = await _abandoned(world, _SUSPECTS)
    await world.given(_OTHERS)
    watched = _Watched()
    started = time.monotonic()
    async with sending(world, FakeProvider(watched.send)):
        await wait_for(lambda: len(watched.order) == _SUSPECTS + _OTHERS, 60, "all to be sent")
    took_s = time.monotonic() - started
    last = max(watched.order.index(job_id) for job_id in suspects)
    assert last < _SUSPECTS + 100, f"the last abandoned job was sent as number {last + 1}"
    assert all(watched.beside[job_id] == {job_id} for job_id in suspects)
    alone_s = 2 * _SUSPECTS * _SEND_S  # each waits for one round of sends, then for itself
    assert took_s < 3 * (_OTHERS * _SEND_S / SETTINGS.concurrency + alone_s), f"{took_s:.1f} s"


async def test_suspects_let_high_pass(world: World) -> None:
    """G6: a job of lane `high` waits for one abandoned job at most, not for all of them."""
    suspects = await _abandoned(world, _SUSPECTS)
    await world.given(200)
    watched = _Watched()
    async with sending(world, FakeProvider(watched.send)):
        await wait_for(lambda: len(suspects & set(watched.order)) >= 3, 60, "some abandoned jobs to be sent")
        urgent = await world.given(1, "high")
        job_id = f"{urgent.blast_id}:0:email"
        before = len(watched.order)
        await wait_for(lambda: job_id in watched.order, 60, "the urgent message")
        assert watched.order.index(job_id) - before <= 3
        await wait_for(lambda: len(watched.order) == _SUSPECTS + 201, 60, "all to be sent")


async def test_a_suspect_without_an_attempt_left_is_not_sent(both: World) -> None:
    """G2: a job that was abandoned in its only attempt ends as failed; its sender does not risk a second copy."""
    await _abandoned(both, 1)
    provider = FakeProvider()

    async def has_failed() -> bool:
        return (await both.control.channel_stats("email")).failed == 1

    async with sending(both, provider, replace(SETTINGS, max_attempts=1)):
        await wait_for(has_failed, what="the abandoned job to end")
    (event,) = [event for event in await both.written() if isinstance(event, Ended)]
    assert (event.status, event.error_class, provider.calls) == ("failed", "uncertain", [])
    await both.check_balance()
