"""When a message is started: with a connection open and nothing left to be done, or not at all."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from shared.errors import PermanentError
from shared.sending.provider import NotStartedError, Room
from shared.settings import Rate
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.peer import CLOSE, peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.integration.sending.running import SETTINGS
from tests.integration.sending.test_rate import most_in_any_second
from tests.servers import wait_for


async def _refuse() -> None:
    raise NotStartedError("not now")


@pytest.mark.timing
async def test_rate_holds_while_connections_are_opened(world: World) -> None:
    """A server that takes 0.3 s to greet and five messages a connection sees at most ten in a second (attacks G6)."""
    arrivals: list[float] = []

    def note(_line: str) -> str:
        arrivals.append(time.monotonic())
        return "250 ok"

    ten_a_second = replace(SETTINGS, rate=Rate(10, 1.0))
    await world.given(500)
    async with peer({"RCPT": note}) as server, AsyncExitStack() as stack:
        server.greets_after_s = 0.3
        for _ in range(4):
            await stack.enter_async_context(
                sending_mail(world, smtp_settings(f"{server.url}?max_messages=5"), ten_a_second)
            )
        await wait_for(lambda: len(arrivals) >= 50, 20, "50 messages")
    assert most_in_any_second(arrivals) <= 10
    assert 49 / (arrivals[49] - arrivals[0]) > 5


async def test_start_is_asked_for_when_only_the_message_is_left_to_be_said() -> None:
    """Greeting, EHLO and RSET come before the start, every word of the message after it."""
    heard: list[dict[str, int]] = []
    async with peer({"RCPT": ["550 5.1.1 gone"]}) as server, opened(smtp_settings(server.url)) as channel:

        async def note() -> None:
            heard.append(dict(server.heard))

        with pytest.raises(PermanentError):
            await channel.send(make_mail("one@example.com"), note)
        await channel.send(make_mail("two@example.com"), note)
    assert heard == [{"EHLO": 1}, {"EHLO": 1, "MAIL": 1, "RCPT": 1, "DATA": 1, "RSET": 1}]


async def test_refused_start_leaves_the_connection_to_the_next_message() -> None:
    """Nothing of the message was said, and the next does not open a connection of its own."""
    async with peer() as server, opened(smtp_settings(server.url)) as channel:
        with pytest.raises(NotStartedError):
            await channel.send(make_mail("one@example.com"), _refuse)
        assert server.heard["MAIL"] == 0
        await channel.send(make_mail("two@example.com"))
        assert len(server.sessions) == 1
        assert [b"To: Ana <two@" in message for message in server.messages] == [True]


async def test_start_is_asked_for_again_on_another_connection() -> None:
    """A connection that the server had closed costs a handshake, after which the start may be too late."""
    starts = 0

    async def once() -> None:
        nonlocal starts
        starts += 1
        if starts == 2:
            raise NotStartedError("too late")

    async with peer({"MAIL": ["250 ok", f"421 4.3.2 too long idle{CLOSE}"]}) as server:
        async with opened(smtp_settings(server.url)) as channel:
            await channel.send(make_mail("one@example.com"))
            with pytest.raises(NotStartedError):
                await channel.send(make_mail("two@example.com"), once)
        assert len(server.messages) == 1
    assert starts == 2


async def test_message_whose_start_is_refused_after_it_was_announced_reaches_nobody() -> None:
    """Its connection waits for its content: it goes, and the next message takes another."""
    first, second, third = (make_mail(f"{name}@example.com") for name in ("one", "two", "three"))
    second, third = replace(second, job_id="second"), replace(third, job_id="third")
    async with peer() as server, opened(smtp_settings(server.url)) as channel:
        await channel.send_chained(first, lambda: second)
        with pytest.raises(NotStartedError):
            await channel.send_chained(second, lambda: None, _refuse)
        await channel.send_chained(third, lambda: None)
        assert [b"To: Ana <two@" in message for message in server.messages] == [False, False]
        assert len(server.sessions) == 2


async def test_room_is_what_the_servers_own_limits_leave() -> None:
    """As many as there are connections; one at a time under a rate, and none until the next is due."""
    async with (
        peer() as server,
        opened(smtp_settings(f"{server.url}?concurrency=3")) as free,
        opened(smtp_settings(f"{server.url}?rate=1/1m")) as paced,
    ):
        assert (free.room(), paced.room()) == (Room(3), Room(1))
        for channel in (free, paced):
            await channel.send(make_mail())
        assert free.room() == Room(3)
        assert paced.room().starts == 0
        assert 50 < paced.room().in_s <= 60
        with pytest.raises(NotStartedError):
            await free.send(make_mail(), _refuse)
        assert free.room() == Room(3)


async def test_message_on_its_way_to_its_start_takes_the_room_of_the_next() -> None:
    """While a connection is opened under a server's own rate, nothing else could start there in time."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?rate=1/1m")) as channel:
        server.greets_after_s = 0.2
        sending = asyncio.ensure_future(channel.send(make_mail()))
        await wait_for(lambda: len(server.sessions) == 1, what="the connection")
        assert channel.room() == Room(0)
        await sending


async def test_start_that_comes_to_nothing_leaves_its_place_to_the_next() -> None:
    """A server's own rate counts what was started."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?rate=1/1m")) as channel:
        with pytest.raises(NotStartedError):
            await channel.send(make_mail(), _refuse)
        assert channel.room() == Room(1)
        await channel.send(make_mail())


async def test_server_slower_than_the_channel_is_not_given_what_would_be_late(world: World) -> None:
    """Four a second at the server, ten in the channel: no job is begun only to be given back."""
    blast = await world.given(6)
    async with peer() as server:
        url = f"{server.url}?rate=4/1s"
        async with sending_mail(world, smtp_settings(url), replace(SETTINGS, rate=Rate(10, 1.0))):

            async def all_sent() -> bool:
                return (await world.progress(blast)).counts["sent"] == 6

            await wait_for(all_sent, 10, "six messages")
    assert [event for event in await world.written() if getattr(event, "error_class", "") == "untried"] == []
