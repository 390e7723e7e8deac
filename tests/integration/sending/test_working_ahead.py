"""A provider that can work ahead gets the jobs that a sender has fetched and not begun, until they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shared.blasts import Blast
from shared.jobs import Job
from shared.sending.provider import Receipt, RenderedMessage
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, accept
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import wait_for

ONE_AT_A_TIME = replace(SETTINGS, concurrency=1, grace_s=0.2)


@dataclass
class PreparingFake(FakeProvider):
    """Records the jobs that it is given, and hangs in the third send."""

    told: list[str] = field(default_factory=list)
    rendered: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    hangs: bool = True
    prepares: bool = True

    def __post_init__(self) -> None:
        self.behaviour = self.behave

    async def behave(self, message: RenderedMessage) -> Receipt:
        if self.hangs and len(self.calls) == 3:
            await asyncio.Event().wait()
        return await accept(message)

    def work_ahead(self, jobs: Sequence[tuple[Job, Blast]]) -> None:
        self.told += [job.job_id for job, _ in jobs]

    def forget(self, job: Job) -> None:
        self.forgotten.append(job.job_id)

    def render(self, job: Job, blast: Blast) -> RenderedMessage:
        self.rendered.append(job.job_id)
        return super().render(job, blast)


async def test_work_starts_ahead_on_what_was_only_fetched(world: World) -> None:
    """While one send hangs, the provider already knows the next jobs, though none of them has been begun."""
    blast = await world.given(10)
    provider = PreparingFake()
    async with sending(world, provider, ONE_AT_A_TIME):
        await wait_for(lambda: len(provider.calls) == 3, what="the third to hang")
        ahead = await wait_for(lambda: set(provider.told) - set(provider.rendered), what="others to be made known")

        async def only_one_is_begun() -> bool:
            counts = (await world.progress(blast)).counts
            return (counts["sent"], counts["processing"], counts["queued"]) == (2, 1, 7)

        await wait_for(only_one_is_begun, what="the first two to be settled")
    assert ahead <= set(provider.forgotten)


async def test_every_job_that_was_made_known_is_forgotten_in_the_end(world: World) -> None:
    """A job leaves when it is sent, refused by `begin` or given back."""
    blast = await world.given(200)
    provider = PreparingFake(hangs=False)
    async with sending(world, provider):
        await wait_for(lambda: len(provider.calls) >= 20, 30, "some to be sent")
        await world.control.cancel_blast(blast.blast_id)

        async def none_left() -> bool:
            counts = (await world.progress(blast)).counts
            return counts["sent"] + counts["cancelled"] == 200

        await wait_for(none_left, 30, "the rest to be cancelled")
    assert provider.told
    assert set(provider.told) <= set(provider.forgotten)


async def test_provider_with_nothing_to_prepare_is_not_asked(world: World) -> None:
    """It gets no jobs ahead of their turns, and is not told which have left; all are sent."""
    blast = await world.given(20)
    provider = PreparingFake(hangs=False, prepares=False)
    async with sending(world, provider):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 20

        await wait_for(all_sent, 30, "all to be sent")
    assert (provider.told, provider.forgotten) == ([], [])
    assert len(provider.rendered) == 20
