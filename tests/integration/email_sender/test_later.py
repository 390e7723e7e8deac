"""Servers that defer every message, or drop every connection, for longer than the attempts last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from shared.events import Ended
from tests.integration.email_sender.mails import smtp_settings
from tests.integration.email_sender.peer import CLOSE, peer
from tests.integration.email_sender.running import sending_mail
from tests.integration.queue.world import World
from tests.integration.sending.running import SETTINGS
from tests.servers import wait_for

_TROUBLE_S = 2.5  # the attempts last 0.6 s at this scale
_FRIENDLY = {"MAIL": "250 2.1.0 ok", "RCPT": "250 2.1.5 ok", "DATA": "354 go ahead", ".": "250 2.0.0 ok"}


@dataclass
class Trouble:
    """A temporary reply to every occurrence of one command; counts how often it was given."""

    stage: str
    answer: str
    lasts: bool = True
    given: int = 0

    def script(self) -> dict[str, Callable[[str], str]]:
        """Return the script of a peer that replies so."""
        return {self.stage: self._say}

    def _say(self, _line: str) -> str:
        self.given += self.lasts
        return self.answer if self.lasts else _FRIENDLY[self.stage]


@pytest.mark.parametrize(("count", "most"), [(1, 3), (40, 1), (40, 3)])
@pytest.mark.parametrize(
    ("stage", "answer"),
    [("RCPT", "451 4.3.0 try later"), ("MAIL", f"421 4.3.2 shutting down{CLOSE}"), ("DATA", CLOSE), (".", "452 full")],
)
async def test_trouble_of_the_server_fails_nothing(
    world: World, stage: str, answer: str, most: int, count: int
) -> None:
    """However long it lasts, and however many attempts and messages there are, all are sent once it is over."""
    trouble = Trouble(stage, answer)
    blast = await world.given(count)
    settings = replace(SETTINGS, max_attempts=most)
    async with peer(trouble.script()) as server, sending_mail(world, smtp_settings(server.url), settings):
        await wait_for(lambda: trouble.given > 0, what="the trouble to be met")
        await asyncio.sleep(_TROUBLE_S)  # how long it lasts is the point
        trouble.lasts = False

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == count

        await wait_for(all_sent, what="all to be sent")
    assert not [event for event in await world.written() if isinstance(event, Ended)]
    await world.check_balance()


async def test_message_that_always_breaks_the_connection_fails_in_the_end(world: World) -> None:
    """As the server accepts others in between, such a message uses its attempts, and does not hold up the others."""
    blast = await world.given(30)

    def answer(line: str) -> str:
        return CLOSE if "<r7@" in line else "250 2.1.5 ok"

    async with peer({"RCPT": answer}) as server, sending_mail(world, smtp_settings(server.url)):

        async def ended() -> bool:
            await world.given(1)  # the server keeps accepting others
            return (await world.progress(blast)).ended_at_ms > 0

        await wait_for(ended, what="the end of the blast")
        counts = (await world.progress(blast)).counts
    assert (counts["sent"], counts["failed"]) == (29, 1)


async def test_without_patience_later_fails_when_the_attempts_are_used(world: World) -> None:
    """KURIR_EMAIL_GIVE_UP_AFTER=0 restores the old system's behaviour."""
    trouble = Trouble("RCPT", "451 4.3.0 try later")
    blast = await world.given(3)
    settings = replace(SETTINGS, give_up_after_s=0)
    async with peer(trouble.script()) as server, sending_mail(world, smtp_settings(server.url), settings):

        async def all_failed() -> bool:
            return (await world.progress(blast)).counts["failed"] == 3

        await wait_for(all_failed, what="all to fail")
    assert trouble.given == 9


async def test_giving_up_is_reported_with_the_last_reply(world: World) -> None:
    """After KURIR_EMAIL_GIVE_UP_AFTER the job fails as `gave_up`, with the server's last words."""
    trouble = Trouble("RCPT", "451 4.3.0 not today")
    blast = await world.given(1)
    settings = replace(SETTINGS, give_up_after_s=2.0, max_attempts=1)
    async with peer(trouble.script()) as server, sending_mail(world, smtp_settings(server.url), settings):

        async def failed() -> bool:
            return (await world.progress(blast)).counts["failed"] == 1

        await wait_for(failed, what="the job to fail")
    (ended,) = [event for event in await world.written() if isinstance(event, Ended)]
    assert (ended.error_class, ended.message) == ("gave_up", "451 4.3.0 not today")
    assert trouble.given > 1


async def test_blast_of_deferred_messages_says_why_it_waits(world: World) -> None:
    """`waitingFor` is `retrying` while all remaining jobs wait for their next attempt."""
    trouble = Trouble("RCPT", "451 4.3.0 not now")
    blast = await world.given(2)
    async with peer(trouble.script()) as server, sending_mail(world, smtp_settings(server.url)):

        async def deferred() -> bool:
            return (await world.control.channel_stats("email")).counters["deferred"] == 2

        await wait_for(deferred, what="both to be deferred")
        progress = await world.blasts.progress(blast.blast_id)
        assert progress is not None
        assert await world.control.waiting_for(progress) == {"email": "retrying"}
