"""Jobs that a worker takes early, so that the provider can announce the next message with this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shared.sending.provider import Receipt, RenderedMessage, Start, at_once
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import wait_for

Next = Callable[[], RenderedMessage | None]


@dataclass
class ChainingFake(FakeProvider):
    """Asks for the next message with each one; hangs once it has been given one `hang_after` times."""

    hang_after: int = 1_000_000
    followed: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    async def send_chained(self, message: RenderedMessage, following: Next, start: Start = at_once) -> Receipt:
        await start()
        following_message = following()
        if following_message is not None:
            self.followed.append(following_message.job_id)
            if len(self.followed) >= self.hang_after:
                await asyncio.Event().wait()
        return await self.send(message)

    def withdraw(self, message: RenderedMessage) -> None:
        self.withdrawn.append(message.job_id)


async def test_every_job_is_sent_once_by_the_worker_that_took_it(world: World) -> None:
    """A provider that announces the next message sends each message once, announced or not."""
    blast = await world.given(400)
    provider = ChainingFake()
    async with sending(world, provider):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 400

        await wait_for(all_sent, 60, "all to be sent")
    assert sorted(job_id for job_id, _ in provider.calls) == sorted(f"{blast.blast_id}:{i}:email" for i in range(400))
    assert provider.followed
    assert provider.withdrawn == []
    await world.check_balance()


async def test_stop_gives_back_what_was_only_announced(world: World) -> None:
    """A message cut off in mid-send is uncertain; the one announced with it is withdrawn and waits as before."""
    blast = await world.given(200)
    provider = ChainingFake(hang_after=3)
    async with sending(world, provider, replace(SETTINGS, concurrency=1, grace_s=0.2)):
        await wait_for(lambda: len(provider.followed) == 3, 30, "a message to hang with another announced")
    assert provider.withdrawn == [provider.followed[-1]]
    counts = (await world.progress(blast)).counts
    sent = len(provider.calls)
    assert (counts["sent"], counts["retrying"], counts["queued"]) == (sent, 1, 199 - sent)
    await world.check_balance()


async def test_jobs_of_the_lane_high_are_never_taken_early(world: World) -> None:
    """An urgent job waits for the first free worker, not for the end of a particular send."""
    blast = await world.given(200, "high")
    provider = ChainingFake()
    async with sending(world, provider):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 200

        await wait_for(all_sent, 60, "all to be sent")
    assert provider.followed == []
