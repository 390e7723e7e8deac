"""Servers that refuse our log-in: each is set aside with its reason, and the channel pauses when none is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from shared.errors import PermanentError, StopChannelError, UnavailableError
from shared.events import Begun
from shared.sending.breaker import BreakerPolicy
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.peer import Peer, foreign, peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.email_sender.token_endpoint import token_endpoint
from tests.integration.queue.world import World
from tests.servers import free_port, wait_for

NEVER_AGAIN = BreakerPolicy(failures=3, open_s=3600, probe_every_s=3600)


def with_password(server: Peer) -> str:
    """Return the server's URL with credentials and without TLS."""
    return server.url.replace("//", "//some:word@") + "?tls=off"


def refusing(times: int, charset: str = "ascii", words: str = "wrong password") -> dict[str, list[str]]:
    """Return the script of a server that refuses the password this often."""
    return {"AUTH": [foreign(f"535 5.7.8 {words}", charset)] * times}


async def test_server_that_refuses_our_password_is_left_alone_and_the_others_go_on() -> None:
    """One of two servers replies 535: the other gets every message, and the first is tried once, not per message."""
    async with peer(refusing(99), ["AUTH PLAIN"]) as strict, peer(extensions=["AUTH PLAIN"]) as good:
        urls = (with_password(strict) + "&weight=1000000", with_password(good))
        async with opened(smtp_settings(*urls, breaker=NEVER_AGAIN)) as channel:
            for _ in range(10):
                await channel.send(make_mail())
            states = {state.server: (state.available, state.refuses) for state in channel.servers()}
            status = await channel.status()
        asked = strict.heard["AUTH"]
    assert len(good.messages) == 10
    assert asked == 2, "once for a message, once for the status"
    name = f"127.0.0.1:{strict.port}"
    assert states == {name: (False, True), f"127.0.0.1:{good.port}": (True, False)}
    looks: Any = status.detail["servers"]
    look, other = looks
    assert (look["breaker"], look["refusesUs"]) == ("open", "AUTH refused: 535 5.7.8 wrong password")
    assert look["error"] == "535 5.7.8 wrong password"
    assert (other["breaker"], other["refusesUs"], status.authenticated) == ("closed", None, True)


async def test_refused_server_is_probed_and_taken_up_again() -> None:
    """Once the server accepts the password, the next probe succeeds: no restart, no resume."""
    policy = BreakerPolicy(failures=3, open_s=0.05, probe_every_s=0.05)
    async with peer(refusing(2), ["AUTH PLAIN"]) as strict, peer(extensions=["AUTH PLAIN"]) as good:
        urls = (with_password(strict) + "&weight=1000000", with_password(good))
        async with opened(smtp_settings(*urls, breaker=policy)) as channel:

            async def taken_up() -> bool:
                await channel.send(make_mail())
                return bool(strict.messages)

            await wait_for(taken_up)
            assert not any(state.refuses for state in channel.servers())


async def test_refusal_of_a_message_shows_that_the_server_lets_us_in() -> None:
    """The server accepts the password again; the next message's refusal concerns only that message."""
    script = {**refusing(1), "RCPT": ["550 5.1.1 gone"]}
    async with peer(script, ["AUTH PLAIN"]) as server, opened(smtp_settings(with_password(server))) as channel:
        with pytest.raises(StopChannelError):
            await channel.send(make_mail())
        assert [state.refuses for state in channel.servers()] == [True]
        with pytest.raises(PermanentError):
            await channel.send(make_mail())
        assert [state.refuses for state in channel.servers()] == [False]


@pytest.mark.parametrize("words", ["550 5.7.1 too many, come later", "554 no SMTP service here", "501 bad name"])
async def test_refused_ehlo_is_reported_in_its_own_words_if_we_must_log_in(words: str) -> None:
    """HELO would offer no AUTH, so the channel would pause with that reason instead of the server's."""
    script = {"EHLO": [words]}
    async with peer(script, ["AUTH PLAIN"]) as server, opened(smtp_settings(with_password(server))) as channel:
        with pytest.raises(UnavailableError) as refused:
            await channel.send(make_mail())
        assert refused.value.reply == words
        await channel.send(make_mail())
        assert server.heard["HELO"] == 0


def revoked(_number: int) -> web.Response:
    """Return an endpoint's response to a revoked grant (RFC 6749, 5.2)."""
    return web.json_response({"error": "invalid_grant", "error_description": "Token has been revoked."}, status=400)


async def test_token_endpoint_that_refuses_us_leaves_its_server_alone() -> None:
    """A revoked grant is like a wrong password: the other server still sends; without one, the channel pauses."""
    offers = ["AUTH XOAUTH2 PLAIN"]
    async with (
        token_endpoint(answer=revoked) as endpoint,
        peer({}, offers) as first,
        peer({"AUTH": ["235 ok", "535 5.7.8 no"]}, offers) as second,
    ):
        smtp = smtp_settings(
            f"smtp://me%40example.com@127.0.0.1:{first.port}?auth=xoauth2&tls=off&weight=1000000",
            with_password(second),
            breaker=NEVER_AGAIN,
        )
        own = replace(smtp.servers[0], oauth=endpoint.settings())
        async with opened(replace(smtp, servers=(own, smtp.servers[1]))) as channel:
            for _ in range(5):
                await channel.send(make_mail())
            assert [(state.available, state.refuses) for state in channel.servers()] == [(False, True), (True, False)]
            assert len(endpoint.asked) == 1
            await second.say_to_all("421 closing")
            with pytest.raises(StopChannelError) as stopped:
                await channel.send(make_mail())
    assert "invalid_grant" in stopped.value.reply
    assert "535 5.7.8 no" in stopped.value.reply
    assert len(second.messages) == 5


async def test_channel_stops_once_every_server_refuses_us() -> None:
    """The reason names each server; after the pause all are tried again, and one that works is enough."""
    async with peer(refusing(1), ["AUTH PLAIN"]) as one, peer(refusing(9), ["AUTH PLAIN"]) as two:
        urls = (with_password(one), with_password(two))
        async with opened(smtp_settings(*urls, breaker=NEVER_AGAIN)) as channel:
            with pytest.raises(StopChannelError) as stopped:
                await channel.send(make_mail())
            assert channel.available()
            await channel.send(make_mail())
    assert len(one.messages) == 1
    for port in (one.port, two.port):
        assert f"127.0.0.1:{port}: AUTH refused: 535 5.7.8 wrong password" in stopped.value.reply


async def test_channel_continues_while_a_server_is_only_away() -> None:
    """One refuses us and the other is down: the latter may recover, so no operator is needed yet."""
    dead = f"smtp://127.0.0.1:{free_port()}"
    async with (
        peer(refusing(99), ["AUTH PLAIN"]) as strict,
        opened(smtp_settings(with_password(strict), dead, breaker=NEVER_AGAIN)) as channel,
    ):
        for _ in range(4):
            with pytest.raises(UnavailableError):
                await channel.send(make_mail())


@pytest.mark.parametrize(("charset", "words"), [("gbk", "请使用授权码登录"), ("latin-1", "Kennwort ungültig")])
async def test_single_server_that_refuses_us_stops_the_channel_legibly(charset: str, words: str) -> None:
    """The reason is in the server's own words, whatever their charset."""
    async with (
        peer(refusing(1, charset, words), ["AUTH PLAIN"]) as server,
        opened(smtp_settings(with_password(server))) as channel,
    ):
        with pytest.raises(StopChannelError) as stopped:
            await channel.send(make_mail())
        assert stopped.value.reply == f"535 5.7.8 {words}"
        await channel.send(make_mail())


async def test_refused_log_in_pauses_the_channel_and_no_message_meets_it(world: World) -> None:
    """Connections are opened before any job is begun, so the jobs wait untouched and are sent after the resume."""
    await world.given(3)

    async def reason() -> str:
        return (await world.control.channel_stats("email")).pause_reason

    async with (
        peer(refusing(1), ["AUTH PLAIN"]) as server,
        sending_mail(world, smtp_settings(with_password(server), concurrency=1)) as observer,
    ):
        assert "535 5.7.8 wrong password" in await wait_for(reason, what="the channel to be paused")
        assert observer.attempts == []
        assert not [event for event in await world.written() if isinstance(event, Begun)]
        await world.control.resume_channel("email")
        await wait_for(lambda: len(server.messages) == 3, what="all to be sent")
