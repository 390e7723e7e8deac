"""What idle workers keep: nothing of the messages that they sent."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import pytest

from shared.blasts import Blast
from shared.errors import PermanentError
from shared.jobs import Job
from shared.sending.provider import Receipt, RenderedMessage
from tests.integration.queue.world import World
from tests.integration.sending.fakes import Behaviour, FakeProvider, accept
from tests.integration.sending.running import sending
from tests.integration.sending.test_outcomes_of_sending import ended
from tests.servers import wait_for


class _Message(RenderedMessage, frozen=True, weakref=True):
    """A message of which a test can see whether anything still has it."""


@dataclass
class _Rendering(FakeProvider):
    rendered: list[weakref.ref[_Message]] = field(default_factory=list)

    def render(self, job: Job, blast: Blast) -> RenderedMessage:
        message = _Message(job.job_id, blast.template.subject)
        self.rendered.append(weakref.ref(message))
        return message


async def _refuse(message: RenderedMessage) -> Receipt:
    raise PermanentError(f"no to {message.job_id}")


@pytest.mark.parametrize("behaviour", [accept, _refuse])
async def test_an_idle_worker_has_freed_its_last_message(world: World, behaviour: Behaviour) -> None:
    """A message, which may have megabytes of files, is freed when its job has ended, not with the worker's next job."""
    provider = _Rendering(behaviour)
    async with sending(world, provider):
        await ended(world, await world.given(5))
        await wait_for(lambda: not any(one() for one in provider.rendered), what="the messages to be freed")
    assert len(provider.rendered) == 5
