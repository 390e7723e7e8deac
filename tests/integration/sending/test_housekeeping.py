"""An unexpected error in a sender's housekeeping does not stop it from sending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.lifecycle import Stop
from shared.sending.keeper import StuckError
from shared.sending.loop import SendingLoop
from shared.sending.provider import RenderedMessage
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts
from tests.integration.sending.running import SETTINGS
from tests.servers import PATIENCE_S, wait_for

QUICK = replace(
    SETTINGS, sender_id="housekeeper", timing=replace(SETTINGS.timing, check_every_ms=20, watch_every_ms=20)
)
Part = Callable[[SendingLoop[RenderedMessage], Callable[..., Awaitable[object]]], None]


def _fail_reaper(loop: SendingLoop[RenderedMessage], fail: Callable[..., Awaitable[object]]) -> None:
    loop._shares.each[0].keeper._reaper.reap_dead = fail  # type: ignore[assignment,method-assign]


def _fail_watch(loop: SendingLoop[RenderedMessage], fail: Callable[..., Awaitable[object]]) -> None:
    loop._consumer.list_held = fail  # type: ignore[assignment,method-assign]


def _fail_heartbeat(loop: SendingLoop[RenderedMessage], fail: Callable[..., Awaitable[object]]) -> None:
    consumer = loop._shares.each[0].consumer
    beat = consumer.heartbeat

    async def fail_but_at_first(said: dict[str, object], *, first: bool = False) -> bool:
        if first or asked:
            return await beat(said, first=first)
        asked.append(True)
        await fail()
        return False

    asked: list[bool] = []
    consumer.heartbeat = fail_but_at_first  # type: ignore[method-assign]


def _fail_bell(loop: SendingLoop[RenderedMessage], fail: Callable[..., Awaitable[object]]) -> None:
    loop._shares.each[0].wake_ups.wait = fail  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize(
    ("part", "task"),
    [(_fail_reaper, "reap"), (_fail_watch, "watch"), (_fail_heartbeat, "heartbeat"), (_fail_bell, "bell")],
)
async def test_an_error_in_the_housekeeping_does_not_end_sending(world: World, part: Part, task: str) -> None:
    """The error is logged with its traceback and counted, the task continues, and jobs are still sent."""
    observer, provider, stop = RememberedAttempts(), FakeProvider(), Stop()
    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, provider, QUICK, observer)

    async def fail(*_args: object) -> object:
        raise ValueError("nobody thought of this")

    part(loop, fail)
    running = asyncio.create_task(loop.run(stop))
    await wait_for(lambda: task in observer.surprises, what="the error")
    await world.given(20)
    await wait_for(lambda: len(observer.attempts) == 20, what="the jobs to go out")
    assert not running.done()
    stop.set()
    await running


async def test_a_stuck_send_still_ends_the_sender(world: World) -> None:
    """Only a stuck send ends the sender, even while each look fails."""
    observer, stop = RememberedAttempts(), Stop()
    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, FakeProvider(), QUICK, observer)

    async def fail(*_args: object) -> object:
        raise ValueError("nobody thought of this")

    def be_stuck(_clock: object) -> None:
        raise StuckError("a send lasts forever")

    _fail_reaper(loop, fail)
    loop._shares.each[0].keeper._check_stuck = be_stuck  # type: ignore[assignment,method-assign]
    with pytest.raises(ExceptionGroup) as raised:
        await loop.run(stop)
    assert raised.group_contains(StuckError)


async def test_a_swallowed_cancellation_does_not_keep_a_stuck_sender_alive(world: World) -> None:
    """A stuck send ends the sender even where a task loses its first cancellation (CPython gh-86296)."""
    loop: SendingLoop[RenderedMessage] = SendingLoop(world.redis, FakeProvider(), QUICK, RememberedAttempts())
    swallowed: list[bool] = []

    async def wait(_block_ms: int) -> bool:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if swallowed:
                raise
            swallowed.append(True)
        return False

    def be_stuck(_clock: object) -> None:
        raise StuckError("a send lasts forever")

    loop._shares.each[0].wake_ups.wait = wait  # type: ignore[assignment,method-assign]
    loop._shares.each[0].keeper._check_stuck = be_stuck  # type: ignore[assignment,method-assign]
    running = asyncio.create_task(loop.run(Stop()))
    await asyncio.wait([running], timeout=PATIENCE_S)
    assert running.done()
    assert swallowed
    assert isinstance(running.exception(), ExceptionGroup)
