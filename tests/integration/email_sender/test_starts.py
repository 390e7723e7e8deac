"""When a message starts: only with an open connection and everything prepared."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import msgspec
import pytest

from services.email_sender import encoder
from services.email_sender.dkim_keys import DkimKey
from services.email_sender.message import Mail
from services.email_sender.server_rate import ServerRate
from services.email_sender.settings import Timeouts
from shared.blasts import Blast
from shared.errors import PermanentError
from shared.sending.provider import Capacity, NotStartedError
from shared.settings import Rate
from tests.awake import awake
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.peer import CLOSE, SILENCE, peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.integration.sending.running import SETTINGS
from tests.integration.sending.test_rate import most_in_any_second
from tests.servers import wait_for


async def _refuse() -> None:
    raise NotStartedError("not now")


def _noting(arrivals: list[float]) -> Callable[[str], str]:
    """Accept every recipient, and note the time of its RCPT."""

    def note(_line: str) -> str:
        arrivals.append(time.monotonic())
        return "250 ok"

    return note


async def _all_sent(world: World, blast: Blast, count: int) -> None:
    async def all_sent() -> bool:
        return (await world.progress(blast)).counts["sent"] == count

    await wait_for(all_sent, what=f"{count} messages")


async def _untried(world: World) -> int:
    return sum(getattr(event, "error_class", "") == "untried" for event in await world.written())


@pytest.mark.timing
async def test_rate_holds_while_connections_are_opened(world: World) -> None:
    """With a greeting after 0.3 s and five messages per connection, at most ten arrive in a second (attacks G6)."""
    arrivals: list[float] = []
    ten_a_second = replace(SETTINGS, rate=Rate(10, 1.0))
    await world.given(500)
    async with peer({"RCPT": _noting(arrivals)}) as server, AsyncExitStack() as stack:
        server.delays["CONNECT"] = 0.3
        for _ in range(4):
            await stack.enter_async_context(
                sending_mail(world, smtp_settings(f"{server.url}?max_messages=5"), ten_a_second)
            )
        await wait_for(lambda: len(arrivals) >= 50, 20, "50 messages")
    assert most_in_any_second(arrivals) <= 10
    assert 49 / (arrivals[49] - arrivals[0]) > 5


async def test_start_is_asked_for_when_only_the_message_is_left_to_be_said() -> None:
    """Greeting, EHLO and RSET precede the start; everything of the message follows it."""
    heard: list[dict[str, int]] = []
    async with peer({"RCPT": ["550 5.1.1 gone"]}) as server, opened(smtp_settings(server.url)) as channel:

        async def note() -> None:
            heard.append(dict(server.heard))

        with pytest.raises(PermanentError):
            await channel.send(make_mail("one@example.com"), note)
        await channel.send(make_mail("two@example.com"), note)
    assert heard == [{"EHLO": 1}, {"EHLO": 1, "MAIL": 1, "RCPT": 1, "DATA": 1, "RSET": 1}]


async def test_refused_start_leaves_the_connection_to_the_next_message() -> None:
    """Nothing of the message was sent, and the next message opens no connection."""
    async with peer() as server, opened(smtp_settings(server.url)) as channel:
        with pytest.raises(NotStartedError):
            await channel.send(make_mail("one@example.com"), _refuse)
        assert server.heard["MAIL"] == 0
        await channel.send(make_mail("two@example.com"))
        assert len(server.sessions) == 1
        assert [b"To: Ana <two@" in message for message in server.messages] == [True]


async def test_start_is_asked_for_again_on_another_connection() -> None:
    """After a closed connection a new handshake takes time, after which the start may be too late."""
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
    """Its connection, which expects its content, is closed, and the next message uses another."""
    first, second, third = (make_mail(f"{name}@example.com") for name in ("one", "two", "three"))
    second, third = (msgspec.structs.replace(mail, job_id=f"{at}") for at, mail in enumerate((second, third)))
    async with peer() as server, opened(smtp_settings(server.url)) as channel:
        await channel.send_chained(first, lambda: second)
        with pytest.raises(NotStartedError):
            await channel.send_chained(second, lambda: None, _refuse)
        await channel.send_chained(third, lambda: None)
        assert [b"To: Ana <two@" in message for message in server.messages] == [False, False]
        assert len(server.sessions) == 2


async def test_room_is_what_the_servers_own_limits_leave() -> None:
    """It is the number of open connections; under a rate it is one, and none until the next start is due."""
    async with (
        peer() as server,
        opened(smtp_settings(f"{server.url}?concurrency=3")) as free,
        opened(smtp_settings(f"{server.url}?rate=1/1m")) as paced,
    ):
        assert (free.capacity(), paced.capacity()) == (Capacity(0, connections=0),) * 2
        for channel in (free, paced):
            await wait_for(lambda channel=channel: channel.capacity(5).starts, what="connections")  # type: ignore[misc]
        await wait_for(lambda: free.capacity(5).connections == 3, what="three connections, as many as are allowed")
        assert (paced.capacity().starts, paced.capacity().lasting) == (1, 0)
        for channel in (free, paced):
            await channel.send(make_mail())
        assert free.capacity(5) == Capacity(3, connections=3, lasting=3)
        assert paced.capacity().starts == 0
        assert 50 < paced.capacity().in_s <= 60
        with pytest.raises(NotStartedError):
            await free.send(make_mail(), _refuse)
        assert free.capacity() == Capacity(3, connections=3, lasting=3)


async def test_no_connection_lasts_while_a_message_would_open_another() -> None:
    """It would start too late: jobs are begun ahead only once all connections that are wanted are open."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?concurrency=3")) as channel:
        await wait_for(lambda: channel.capacity(1).lasting == 1, what="the first connection")
        assert channel.capacity(2).lasting == 0
        await wait_for(lambda: channel.capacity(2).lasting == 2, what="the second connection")


async def test_message_on_its_way_to_its_start_takes_the_room_of_the_next() -> None:
    """While one waits for its start under a server's own rate, no other could start there in time."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await go.wait()

    async with peer() as server, opened(smtp_settings(f"{server.url}?rate=1/1m")) as channel:
        await wait_for(lambda: channel.capacity(2).connections == 2, what="two connections")
        sending = asyncio.ensure_future(channel.send(make_mail(), hold))
        await reached.wait()
        assert (channel.capacity().starts, channel.capacity().connections) == (0, 2)
        go.set()
        await sending


async def test_start_that_fails_leaves_its_place_to_the_next() -> None:
    """A server's own rate counts only starts that were made."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?rate=1/1m")) as channel:
        with pytest.raises(NotStartedError):
            await channel.send(make_mail(), _refuse)
        assert channel.capacity() == Capacity(1, connections=1)
        await channel.send(make_mail())


@pytest.mark.timing
async def test_each_message_may_need_a_connection_of_its_own(world: World) -> None:
    """If starts are farther apart than a connection lives, each job waits, not begun, until one is open."""
    blast = await world.given(4)
    async with peer() as server:
        server.delays["CONNECT"] = 0.4
        smtp = smtp_settings(server.url, timeouts=replace(Timeouts(), idle_s=0.2))
        async with sending_mail(world, smtp, replace(SETTINGS, rate=Rate(1, 0.9))):
            await wait_for(lambda: len(server.messages) == 4, 15, "four messages")
            await _all_sent(world, blast, 4)
    assert len(server.sessions) >= 4
    assert await _untried(world) == 0


@pytest.mark.timing
async def test_slow_answers_do_not_slow_a_servers_rate(world: World) -> None:
    """At five a second, with replies after 0.6 s, a start does not wait for the previous message's reply."""
    arrivals: list[float] = []
    blast = await world.given(11)
    async with peer({"RCPT": _noting(arrivals)}) as server:
        server.delays["."] = 0.6
        smtp = smtp_settings(f"{server.url}?rate=5/1s")
        async with sending_mail(world, smtp, replace(SETTINGS, rate=Rate(20, 1.0))):
            await _all_sent(world, blast, 11)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert min(gaps) > 0.19
    assert sum(gaps) < 10 * 0.2 * 1.4


@pytest.mark.timing
async def test_a_servers_rate_counts_a_message_once() -> None:
    """Replacing a closed connection does not wait for the server's rate again."""
    async with (
        peer({"MAIL": ["250 ok", f"421 4.3.2 too long idle{CLOSE}"]}) as server,
        opened(smtp_settings(f"{server.url}?rate=4/1s")) as channel,
    ):
        began = time.monotonic()
        async with awake() as spent:
            await channel.send(make_mail("one@example.com"))
            await channel.send(make_mail("two@example.com"))
        assert time.monotonic() - began > 0.249
        assert spent.seconds < 0.45
        assert len(server.sessions) == 2


async def test_a_servers_rate_counts_from_the_start_that_was_made() -> None:
    """If the channel's limit delays a start, the next keeps its distance from the actual start."""
    rate = ServerRate("here", Rate(5, 1.0), time.monotonic)
    starts: list[float] = []

    async def late() -> None:
        if not starts:
            await asyncio.sleep(0.15)
        starts.append(time.monotonic())

    for _ in range(3):
        with rate.spacing(late) as start:
            await start()
    assert all(later - earlier >= 0.199 for earlier, later in itertools.pairwise(starts))


async def test_connection_that_closes_while_its_start_is_awaited_costs_nothing() -> None:
    """A new or used connection is replaced, since nothing of the message was sent on it."""
    starts = 0

    async with peer() as server, opened(smtp_settings(server.url)) as channel:

        async def close_once() -> None:
            nonlocal starts
            starts += 1
            if starts == 1:
                (connection,) = server.sessions
                await server.say_to_all("421 4.3.2 bye")
                await wait_for(lambda: server.open_connections == 0, what="the end of the connection")
                assert connection.verbs == ["EHLO"]

        await channel.send(make_mail(), close_once)
        assert (starts, len(server.messages), len(server.sessions)) == (2, 1, 2)
        assert channel._opened().servers[0].breaker._failures == 0


async def test_server_that_closes_idle_connections_unheard_is_not_taken_for_open_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection found closed shows how long this server keeps idle ones."""
    monkeypatch.setattr("services.email_sender.server.LEAST_STALE_S", 0.2)
    script = {"MAIL": ["250 ok", f"421 4.3.2 too long idle{CLOSE}", "250 ok"]}
    async with peer(script) as server, opened(smtp_settings(server.url)) as channel:
        for _ in range(2):
            await channel.send(make_mail())
        assert [session.verbs[-1] for session in server.sessions] == ["MAIL", "DATA"]
        (known,) = channel._opened().servers
        # the test needs a connection that is idle for longer than the server was seen to allow
        await asyncio.sleep(known._stale_s + 0.05)
        await channel.send(make_mail())
        assert server.heard["MAIL"] == 4
        assert len(server.sessions) == 3
        for _ in range(1000):
            known.tend()
        assert known._stale_s == Timeouts().idle_s, "the bound did not return to the setting"


@pytest.mark.timing
async def test_server_slower_than_the_channel_is_not_given_what_would_be_late(world: World) -> None:
    """At four a second for the server and ten for the channel, no job is begun only to be returned."""
    blast = await world.given(6)
    async with peer() as server:
        url = f"{server.url}?rate=4/1s"
        async with sending_mail(world, smtp_settings(url), replace(SETTINGS, rate=Rate(10, 1.0))):
            await _all_sent(world, blast, 6)
    assert await _untried(world) == 0


async def test_nothing_is_in_flight_while_no_connection_is_open(world: World) -> None:
    """While a server takes half a second to greet no job is begun, so a crash leaves none uncertain."""
    blast = await world.given(20)
    async with peer() as server:
        server.delays["CONNECT"] = 0.5
        async with sending_mail(world, smtp_settings(server.url)):
            await wait_for(lambda: server.sessions, what="a connection")
            while True:
                stats = await world.control.channel_stats("email")
                if server.heard["EHLO"]:
                    break  # maybe before the answer
                assert (stats.active, stats.waiting) == (0, 20)
            await _all_sent(world, blast, 20)
    assert await _untried(world) == 0


@pytest.mark.timing
@pytest.mark.parametrize("rate", [None, Rate(50, 1.0)], ids=["unlimited", "limited"])
async def test_slow_greeting_delays_no_message_of_another_server(world: World, rate: Rate | None) -> None:
    """While one of two servers takes 3 s to greet, the other gets every message."""
    blast = await world.given(40)
    async with peer() as slow, peer() as quick:
        slow.delays["CONNECT"] = 3.0
        smtp = smtp_settings(f"{slow.url}?weight=100", quick.url)
        async with sending_mail(world, smtp, replace(SETTINGS, rate=rate)) as observer:
            await _all_sent(world, blast, 40)
            assert slow.heard["EHLO"] == 0, "the slow server has already greeted"
        assert len(quick.messages) == 40
    assert observer.attempts == [("sent", "")] * 40


async def test_with_no_connection_open_each_server_is_asked() -> None:
    """One wanted connection is opened at both servers, and the first to greet is used."""
    async with peer() as slow, peer() as quick:
        slow.delays["CONNECT"] = 300.0
        async with opened(smtp_settings(f"{slow.url}?weight=1000000", quick.url)) as channel:
            assert channel.capacity(1).starts == 0
            await wait_for(lambda: channel.capacity(0).starts == 1, what="the quick one to greet")
            assert (len(slow.sessions), len(quick.sessions)) == (1, 1)


async def test_no_more_connections_are_opened_than_a_server_allows() -> None:
    """The limit holds however often and however many are wanted."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?concurrency=2")) as channel:
        server.delays["CONNECT"] = 0.1
        for _ in range(5):
            channel.capacity(50)
        await wait_for(lambda: channel.capacity(50).starts == 2, what="two connections")
        assert len(server.sessions) == 2


@pytest.mark.timing
async def test_slow_greeting_blocks_no_start_of_another_sender(world: World) -> None:
    """While its server takes 3 s to greet, the other sender makes all the starts of the channel's rate."""
    arrivals: list[float] = []
    await world.given(60)
    limited = replace(SETTINGS, rate=Rate(20, 1.0))
    async with peer() as slow, peer({"RCPT": _noting(arrivals)}) as quick:
        slow.delays["CONNECT"] = 3.0
        async with sending_mail(world, smtp_settings(slow.url), limited):
            await wait_for(lambda: slow.sessions, what="the slow one to connect")
            async with sending_mail(world, smtp_settings(quick.url), limited):
                await wait_for(lambda: len(arrivals) >= 30, 10, "thirty messages")
            assert slow.heard["EHLO"] == 0
    assert most_in_any_second(arrivals) <= 20
    assert 29 / (arrivals[29] - arrivals[0]) > 12


async def test_message_waits_for_a_connection_that_is_in_use_rather_than_open_one() -> None:
    """If one of two servers does not greet, a second message uses the other's connection after the first message."""
    async with peer({"CONNECT": lambda _line: SILENCE}) as silent, peer() as good:
        async with opened(smtp_settings(f"{good.url}?concurrency=1", silent.url)) as channel:
            await wait_for(lambda: channel.capacity(1).starts, what="a connection")
            reached, go = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                reached.set()
                await go.wait()

            first = asyncio.ensure_future(channel.send(make_mail("one@example.com"), hold))
            await reached.wait()
            second = asyncio.ensure_future(channel.send(make_mail("two@example.com")))
            await asyncio.sleep(0)
            go.set()
            await first
            async with asyncio.timeout(20):
                await second
        assert len(good.messages) == 2
        assert len(good.sessions) == 1


async def test_large_message_whose_encoding_made_it_late_is_in_time_the_second_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoded message is kept, so that it is in time the next time."""
    taken: list[int] = []

    def slowly(mail: Mail, keys: Sequence[DkimKey], *, eight_bit: bool) -> bytes:
        assert not keys
        taken.append(1)
        time.sleep(0.4)
        return mail.encode(eight_bit=eight_bit)

    monkeypatch.setattr(encoder, "_encoded", slowly)
    monkeypatch.setattr(encoder, "ENCODE_ASIDE_BYTES", 0)
    monkeypatch.setattr(encoder, "SIGN_AHEAD_BYTES", 0)
    blast = await world.given(2)
    async with peer() as server, sending_mail(world, smtp_settings(server.url), replace(SETTINGS, rate=Rate(10, 1.0))):
        await _all_sent(world, blast, 2)
    assert len(taken) == 2


@pytest.mark.parametrize("farewell", ["", "421 4.4.2 idle too long", "421 4.3.2 going down"])
async def test_sending_continues_after_a_server_has_closed_every_idle_connection(world: World, farewell: str) -> None:
    """As after its restart: closed connections take no place, so new ones are opened at once (attacks G7)."""
    async with peer() as server, sending_mail(world, smtp_settings(f"{server.url}?concurrency=3")):
        server.delays["."] = 0.05
        await _all_sent(world, await world.given(60), 60)
        await wait_for(lambda: server.open_connections == 3, what="as many connections as are allowed")
        await server.say_to_all(farewell) if farewell else await server.restart()
        await wait_for(lambda: server.open_connections == 0, what="the connections to be closed")
        await _all_sent(world, await world.given(20), 20)
