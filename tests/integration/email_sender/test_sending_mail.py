"""A whole email sender on a real queue: server failures, limits by domain, suppression."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from shared.blasts import Blast
from shared.events import Ended, Retrying
from shared.jobs import Recipient
from shared.queue.producer import Chunk
from shared.queue.suppressions import Suppressions
from shared.settings import Rate
from tests.integration.email_sender.mails import smtp_settings
from tests.integration.email_sender.peer import SILENCE, peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.integration.sending.running import SETTINGS
from tests.servers import free_port, wait_for


async def sent(world: World, blast: Blast) -> int:
    return (await world.progress(blast)).counts["sent"]


async def test_server_that_is_down_costs_no_message_and_no_attempt(world: World) -> None:
    """Down for many rests of the breaker, the server costs no job an attempt, and sending resumes when it is back."""
    blast = await world.given(40)
    async with peer() as server:
        await server.stop()
        async with sending_mail(world, smtp_settings(server.url)) as observer:

            async def left_alone() -> bool:
                senders = (await world.control.channel_stats("email")).senders
                return bool(senders) and not senders[0].available

            await wait_for(left_alone, what="the sender to say that its provider is away")
            await asyncio.sleep(1.5)  # the test is about this time: over ten rests of the breaker
            stats = await world.control.channel_stats("email")
            assert (stats.waiting + stats.active, stats.delayed) == (40, 0)
            await server.start()
            back = time.monotonic()

            async def all_sent() -> bool:
                return await sent(world, blast) == 40

            await wait_for(all_sent, what="all to be sent after its return")
            assert time.monotonic() - back < 30
    assert {name for name, _ in observer.attempts} == {"sent"}, "nothing is begun while no connection can be opened"
    assert not [event for event in await world.written() if isinstance(event, Retrying | Ended)]
    assert len(server.messages) == 40
    await world.check_balance()


async def test_server_lost_in_mid_blast_is_taken_up_again(world: World) -> None:
    """Connections cut and a port refused in the middle of a blast: all is sent in the end, no connection is left."""
    blast = await world.given(300)

    async def all_ended() -> bool:
        return (await world.progress(blast)).ended_at_ms > 0

    async with peer() as server:
        async with sending_mail(world, smtp_settings(server.url)):
            await wait_for(lambda: len(server.messages) > 50, what="the blast to be under way")
            await server.stop()
            await asyncio.sleep(0.3)  # the test is about this time
            await server.start()
            await wait_for(all_ended, 60, "the end of the blast")
            assert await sent(world, blast) == 300
            assert server.open_connections <= SETTINGS.concurrency
        await wait_for(lambda: server.open_connections == 0, what="the sender's connections to be closed")
    await world.check_balance()


async def test_limit_of_a_domain_holds_back_that_domain_alone(world: World) -> None:
    """Twenty messages to a limited domain do not hold up twenty to another, and are themselves sent in time."""
    blast = await world.blast(40)
    addresses = [f"r{index}@{'slow' if index < 20 else 'fast'}.example" for index in range(40)]
    jobs = [world.jobs(blast, [index], recipient=Recipient(one, "R"))[0] for index, one in enumerate(addresses)]
    await world.producer.enqueue(Chunk(blast, "email", 0, jobs))
    settings = replace(SETTINGS, domain_rates={"slow.example": Rate(10, 1.0)})
    limited: list[bool] = []

    def note(line: str) -> str:
        limited.append("@slow.example>" in line)
        return "250 ok"

    async with peer({"RCPT": note}) as server, sending_mail(world, smtp_settings(server.url), settings):
        started = time.monotonic()

        await wait_for(lambda: limited.count(False) >= 20, what="all of the fast domain")
        elapsed = time.monotonic() - started
        assert sum(limited) <= 10 * (elapsed + 1)
        last_of_fast = max(place for place, is_slow in enumerate(limited) if not is_slow)
        assert sum(limited[:last_of_fast]) < 20

        async def all_sent() -> bool:
            return await sent(world, blast) == 40

        await wait_for(all_sent, what="all of the slow domain")
        assert time.monotonic() - started >= 19 / 10 - 0.2
    await world.check_balance()


@pytest.mark.parametrize(
    ("reply", "suppressed"), [("550 5.1.1 no such user", True), ("550 5.7.1 policy", False), ("552 5.2.2 full", False)]
)
async def test_hard_bounce_suppresses_the_address(world: World, reply: str, suppressed: bool) -> None:
    """The address of a hard bounce is suppressed with the reason; that of any other refusal is not."""
    blast = await world.given(1)
    async with peer({"RCPT": [reply]}) as server, sending_mail(world, smtp_settings(server.url)):

        async def failed() -> bool:
            return (await world.progress(blast)).counts["failed"] == 1

        await wait_for(failed)
        suppressions = Suppressions(world.redis)

        async def reason() -> bool:
            return bool(await suppressions.get("email", "r0@example.com")) is suppressed

        await wait_for(reason)
    (ended,) = [event for event in await world.written() if isinstance(event, Ended)]
    assert (ended.error_class, ended.code, ended.message) == ("permanent", " ".join(reply.split()[:2]), reply)


async def test_stop_ends_the_sender_within_its_grace(world: World) -> None:
    """A server that does not answer does not keep the sender from stopping; its message is uncertain."""
    blast = await world.given(1)
    hasty = replace(SETTINGS, grace_s=0.3)
    async with peer({".": [SILENCE]}) as server, sending_mail(world, smtp_settings(server.url), hasty):
        await wait_for(lambda: server.messages)
    assert (await world.progress(blast)).counts["retrying"] == 1


async def test_status_of_servers_that_cannot_be_reached() -> None:
    """If one of two works, the status is reachable, with the other's error."""
    dead = f"smtp://127.0.0.1:{free_port()}"
    async with peer() as server, opened(smtp_settings(dead, server.url)) as channel:
        status = await channel.status()
    assert (status.reachable, status.authenticated) == (True, True)
    assert "Connect call failed" in str(status.detail)
