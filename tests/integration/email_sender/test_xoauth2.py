"""XOAUTH2: tokens from a real HTTP endpoint, log-ins at a real SMTP server; expiry, renewal, refusal, concurrency."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.email_sender.oauth import TokenSource
from services.email_sender.oauth_settings import OAuthSettings
from services.email_sender.settings import SmtpSettings
from shared.errors import SendError, StopChannelError, UnavailableError
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.peer import CLOSE, Answers, Peer, peer
from tests.integration.email_sender.running import opened
from tests.integration.email_sender.token_endpoint import TokenEndpoint, token_endpoint
from tests.integration.queue.world import open_world
from tests.integration.sending.running import QUARTER
from tests.servers import INTERNAL_SECRET, RedisServer, free_port, wait_for

OFFERS = ["PIPELINING", "AUTH LOGIN PLAIN XOAUTH2"]
USER = "shop%40example.com"
CHALLENGE = {"status": "400", "schemes": "Bearer", "scope": "https://mail.google.com/"}
SECRETS = ("hush", "1//refresh", "token-1", "token-2")


def token_of(line: str) -> str:
    """Return the token of an AUTH command, which must have the documented form."""
    verb, method, presented = line.split(" ")
    user, auth, *rest = base64.b64decode(presented).decode().split("\x01")
    assert (verb, method, user, rest) == ("AUTH", "XOAUTH2", "user=shop@example.com", ["", ""])
    return auth.removeprefix("auth=Bearer ")


def taking(*tokens: str) -> Callable[[str], str]:
    """Accept only these tokens."""
    return lambda line: "235 2.7.0 Accepted" if token_of(line) in tokens else "535 5.7.8 Username not accepted"


def challenging(*tokens: str) -> dict[str, Answers]:
    """Accept only these tokens; refuse others like Gmail: a challenge with the error, an empty line, the refusal."""
    challenge = base64.b64encode(json.dumps(CHALLENGE).encode()).decode()
    return {
        "AUTH": lambda line: "235 2.7.0 Accepted" if token_of(line) in tokens else f"334 {challenge}",
        "": lambda _line: "535 5.7.8 Username and Password not accepted",
    }


def logging_in(server: Peer, oauth: OAuthSettings) -> SmtpSettings:
    """Return settings with one server that uses XOAUTH2."""
    smtp = smtp_settings(f"smtp://{USER}@127.0.0.1:{server.port}?auth=xoauth2&tls=off")
    return replace(smtp, servers=(replace(smtp.servers[0], oauth=oauth),))


async def failure(script: Mapping[str, Answers], endpoint: TokenEndpoint, offers: list[str] = OFFERS) -> SendError:
    """Send one message there and return the error."""
    async with peer(script, offers) as server, opened(logging_in(server, endpoint.settings())) as channel:
        with pytest.raises(SendError) as caught:
            await channel.send(make_mail())
        assert server.heard["MAIL"] == 0
        status = await channel.status()
    shown = f"{caught.value!r} {caught.value.reply} {status.detail}"
    assert not [secret for secret in SECRETS if secret in shown]
    return caught.value


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, {"grant_type": "refresh_token", "refresh_token": "1//refresh", "client_secret": "hush", "scope": "mail"}),
        (
            {"refresh_token": "", "scope": "https://outlook.office365.com/.default"},
            {
                "grant_type": "client_credentials",
                "client_secret": "hush",
                "scope": "https://outlook.office365.com/.default",
            },
        ),
        ({"client_secret": "", "scope": ""}, {"grant_type": "refresh_token", "refresh_token": "1//refresh"}),
    ],
    ids=["refresh token", "client credentials", "public client"],
)
async def test_log_in_by_token(changes: dict[str, str], form: dict[str, str]) -> None:
    """The token request follows RFC 6749, the server gets the token, and later messages need neither."""
    async with (
        token_endpoint() as endpoint,
        peer({"AUTH": taking("token-1")}, OFFERS) as server,
        opened(logging_in(server, endpoint.settings(**changes))) as channel,
    ):
        for _ in range(3):
            await channel.send(make_mail())
        status = await channel.status()
    assert (status.reachable, status.authenticated) == (True, True)
    assert endpoint.asked == [form | {"client_id": "client"}]
    assert len(server.messages) == 3


async def test_many_connections_share_one_request() -> None:
    """Ten concurrent connections wait for one request and share its token."""
    async with token_endpoint(gate=asyncio.Event()) as endpoint, peer({"AUTH": taking("token-1")}, OFFERS) as server:
        assert endpoint.gate is not None
        smtp = replace(logging_in(server, endpoint.settings()), concurrency=10)
        async with opened(smtp) as channel:
            sends = [asyncio.create_task(channel.send(make_mail(f"r{number}@example.com"))) for number in range(10)]
            await wait_for(lambda: server.heard["EHLO"] == 10, what="ten connections")
            endpoint.gate.set()
            await asyncio.gather(*sends)
    assert len(endpoint.asked) == 1
    assert server.heard["AUTH"] == 10


async def test_a_waiter_that_gives_up_takes_no_token_away() -> None:
    """The request continues for the others."""
    async with token_endpoint(gate=asyncio.Event()) as endpoint:
        assert endpoint.gate is not None
        source = TokenSource(endpoint.settings(), 10.0)
        first, second = asyncio.create_task(source.get()), asyncio.create_task(source.get())
        await wait_for(lambda: endpoint.asked, what="the request")
        first.cancel()
        await asyncio.wait({first})
        endpoint.gate.set()
        assert await second == "token-1"
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("expires_in", "used_for_s"),
    [
        (3600, 3540),
        ("3600", 3540),
        (100, 50),
        (None, 240),
        ("soon", 240),
        (0, 240),
        (-5, 240),
        ("inf", 240),
    ],
)
async def test_a_token_is_kept_until_shortly_before_it_expires(expires_in: object, used_for_s: float) -> None:
    """It is renewed a minute before its expiry or at half its life; without a stated lifetime, after minutes."""
    now = [1000.0]
    async with token_endpoint(expires_in=expires_in) as endpoint:
        source = TokenSource(endpoint.settings(), 10.0, lambda: now[0])
        assert await source.get() == "token-1"
        now[0] += used_for_s - 0.1
        assert await source.get() == "token-1"
        now[0] += 0.2
        assert await source.get() == "token-2"


@pytest.mark.parametrize("way", [lambda *tokens: {"AUTH": taking(*tokens)}, challenging], ids=["535", "334 first"])
async def test_a_stale_token_is_renewed_once(way: Callable[..., dict[str, Answers]]) -> None:
    """A token revoked early is refused; with a new one the message is sent over the same connection."""
    async with (
        token_endpoint() as endpoint,
        peer(way("token-2"), OFFERS) as server,
        opened(logging_in(server, endpoint.settings())) as channel,
    ):
        await channel.send(make_mail())
    assert len(endpoint.asked) == 2
    assert (len(server.sessions), len(server.messages)) == (1, 1)


async def test_a_stale_token_is_renewed_once_for_all() -> None:
    """The server refuses one token to ten connections, which share the new one."""
    async with token_endpoint() as endpoint, peer({"AUTH": taking("token-2")}, OFFERS) as server:
        smtp = replace(logging_in(server, endpoint.settings()), concurrency=10)
        async with opened(smtp) as channel:
            await asyncio.gather(*(channel.send(make_mail(f"r{number}@example.com")) for number in range(10)))
    assert len(endpoint.asked) == 2
    assert len(server.messages) == 10


@pytest.mark.parametrize("way", [lambda *tokens: {"AUTH": taking(*tokens)}, challenging], ids=["535", "334 first"])
async def test_a_renewed_token_that_is_refused_stops(way: Callable[..., dict[str, Answers]]) -> None:
    """Then the token is not the cause but the mailbox, permission or setting; the reason has the server's words."""
    async with token_endpoint() as endpoint:
        error = await failure(way(), endpoint)
    assert isinstance(error, StopChannelError)
    assert error.code.startswith("535")
    assert "not accepted" in error.reply
    assert ("https://mail.google.com/" in error.reply) == (way is challenging)
    assert len(endpoint.asked) == 4  # twice for the message, twice for the status


async def test_a_refusal_of_all_connections_asks_for_two_tokens() -> None:
    """Two are requested, however many connections there are."""
    async with token_endpoint() as endpoint, peer({"AUTH": taking()}, OFFERS) as server:
        smtp = replace(logging_in(server, endpoint.settings()), concurrency=10)
        async with opened(smtp) as channel:
            sends = (channel.send(make_mail(f"r{number}@example.com")) for number in range(10))
            found = await asyncio.gather(*sends, return_exceptions=True)
    assert {type(error) for error in found} <= {StopChannelError, UnavailableError}
    assert StopChannelError in {type(error) for error in found}
    assert len(endpoint.asked) <= 4


async def test_a_server_that_closes_at_a_refusal_gets_the_new_token_next_time() -> None:
    """The lost connection counts against the server; the next uses a new token, and stops if that is refused."""
    script: dict[str, Answers] = {"AUTH": lambda _line: f"535 5.7.8 Username not accepted{CLOSE}"}
    async with (
        token_endpoint() as endpoint,
        peer(script, OFFERS) as server,
        opened(logging_in(server, endpoint.settings())) as channel,
    ):
        with pytest.raises(UnavailableError):
            await channel.send(make_mail())
        with pytest.raises(StopChannelError):
            await channel.send(make_mail())
    assert [token_of(line) for one in server.sessions for line in one.commands if line[:4] == "AUTH"] == [
        "token-1",
        "token-2",
    ]


async def test_a_temporary_failure_keeps_the_token() -> None:
    """A 454 does not reject the token."""
    async with token_endpoint() as endpoint:
        error = await failure({"AUTH": lambda _line: "454 4.7.0 Temporary authentication failure"}, endpoint)
    assert isinstance(error, UnavailableError)
    assert len(endpoint.asked) == 1


async def test_a_server_that_reads_no_initial_response_is_sent_it_again() -> None:
    """An empty challenge asks for it (RFC 4954, 4)."""
    presented = base64.b64encode(b"user=shop@example.com\x01auth=Bearer token-1\x01\x01").decode()
    script = {"AUTH": ["334 "], presented.upper(): ["235 2.7.0 Accepted"]}
    async with token_endpoint() as endpoint, peer(script, OFFERS) as server:
        async with opened(logging_in(server, endpoint.settings())) as channel:
            await channel.send(make_mail())
        assert server.sessions[0].commands[1:3] == [f"AUTH XOAUTH2 {presented}", presented]


async def test_a_server_without_xoauth2_stops() -> None:
    """No token is requested, since it could not be used."""
    async with token_endpoint() as endpoint:
        error = await failure({}, endpoint, ["AUTH LOGIN PLAIN"])
    assert isinstance(error, StopChannelError)
    assert "does not offer AUTH XOAUTH2 (login plain)" in error.message
    assert endpoint.asked == []


def refusing(status: int, body: object) -> Callable[[int], web.Response]:
    """Answer every request with this response."""
    text = body if isinstance(body, str) else json.dumps(body)
    return lambda _number: web.Response(status=status, text=text, headers={"Location": "http://127.0.0.1:1/"})


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, "expired"),
        (
            401,
            {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret"},
            "AADSTS7000215",
        ),
        (401, {"error": "invalid_client"}, "invalid_client"),
        (400, {"error": "unauthorized_client"}, "unauthorized_client"),
        (400, {"error": "invalid_scope", "error_description": 7}, "invalid_scope"),
        (400, {"error": "unsupported_grant_type"}, "unsupported_grant_type"),
        (400, {"error": "invalid_request", "error_description": "bad secret hush 1//refresh"}, "bad secret *** ***"),
    ],
)
async def test_a_refusal_of_the_endpoint_stops_with_its_words(status: int, body: Any, words: str) -> None:
    """A retry would not help; a message that repeats our secrets is shown without them."""
    async with token_endpoint(answer=refusing(status, body)) as endpoint:
        error = await failure({}, endpoint)
    assert isinstance(error, StopChannelError)
    assert words in error.message
    assert error.code == f"oauth {body['error']}"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, "<html>Internal Server Error</html>"),
        (503, {"error": "temporarily_unavailable"}),
        (400, {"error": "temporarily_unavailable"}),
        (429, {"error": "invalid_request"}),
        (200, "<html>Log in to the network</html>"),
        (200, {"token_type": "Bearer"}),
        (200, {"access_token": ""}),
        (200, {"access_token": "two\r\nlines"}),
        (200, [1]),
        (302, ""),
        (404, "404 page not found"),
        (403, "<html>firewall</html>"),
    ],
)
async def test_an_endpoint_in_trouble_is_unavailable(status: int, body: object) -> None:
    """It is no refusal of us: the message waits, and the server's breaker counts the failure."""
    async with token_endpoint(answer=refusing(status, body)) as endpoint:
        error = await failure({}, endpoint)
    assert isinstance(error, UnavailableError)
    assert str(endpoint.port) in error.message
    assert error.code.startswith("oauth")


async def test_an_endpoint_that_is_away_is_unavailable() -> None:
    """Once it is back, the next message is sent."""
    endpoint = TokenEndpoint(port=free_port())
    error = await failure({}, endpoint)
    assert isinstance(error, UnavailableError)
    assert error.code == "oauth"


async def test_an_endpoint_that_does_not_answer_is_given_up() -> None:
    """The request ends within the command time-out."""
    async with token_endpoint(gate=asyncio.Event()) as endpoint:
        source = TokenSource(endpoint.settings(), 0.05)
        with pytest.raises(UnavailableError):
            await source.get()
        assert endpoint.gate is not None
        endpoint.gate.set()


async def test_a_rotated_refresh_token_is_used() -> None:
    """Microsoft returns a new one with each response; the next request uses it."""
    rotated = {"access_token": "a", "expires_in": 2, "refresh_token": "next"}
    now = [0.0]
    async with token_endpoint(answer=refusing(200, rotated)) as endpoint:
        source = TokenSource(endpoint.settings(), 10.0, lambda: now[0])
        await source.get()
        now[0] = 5.0
        await source.get()
    assert [form["refresh_token"] for form in endpoint.asked] == ["1//refresh", "next"]


async def test_each_server_has_its_own() -> None:
    """Two servers have two clients and two tokens; a third logs in by password."""
    async with (
        token_endpoint() as one,
        token_endpoint() as two,
        peer({"AUTH": taking("token-1")}, OFFERS) as first,
        peer({"AUTH": taking("token-1")}, OFFERS) as second,
        peer({}, OFFERS) as third,
    ):
        smtp = smtp_settings(
            *(f"smtp://{USER}@127.0.0.1:{server.port}?auth=xoauth2&tls=off" for server in (first, second)),
            f"smtp://some:word@127.0.0.1:{third.port}?tls=off",
        )
        oauth = (one.settings(client_id="first"), two.settings(client_id="second"), None)
        servers = tuple(replace(server, oauth=own) for server, own in zip(smtp.servers, oauth, strict=True))
        async with opened(replace(smtp, servers=servers)) as channel:
            status = await channel.status()
    assert status.authenticated
    assert ([form["client_id"] for form in one.asked], [form["client_id"] for form in two.asked]) == (
        ["first"],
        ["second"],
    )
    assert third.sessions[0].commands[1].startswith("AUTH PLAIN ")


async def test_the_service_logs_no_secret_and_pauses_when_the_grant_ends(tmp_path: Path) -> None:
    """The service, set up from the environment and secret files, sends mail until the endpoint revokes the grant."""
    (tmp_path / "refresh").write_text("1//refresh\n")
    revoked = refusing(400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
    redis = RedisServer("valkey")
    redis.start()
    async with token_endpoint(expires_in=0.001) as endpoint, peer({"AUTH": taking("token-1")}, OFFERS) as server:
        # a connection may be opened ahead, so the grant ends with the first token, not with the first message
        endpoint.answer = lambda number: None if number == 1 else revoked(number)
        env = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")} | {
            "KURIR_SMTP_URL": f"smtp://{USER}@127.0.0.1:{server.port}?auth=xoauth2&oauth=own&tls=off&max_messages=1",
            "KURIR_SMTP_OAUTH_TOKEN_URL": endpoint.url,
            "KURIR_SMTP_OAUTH_OWN_CLIENT_ID": "client",
            "KURIR_SMTP_OAUTH_CLIENT_SECRET": "hush",
            "KURIR_SMTP_OAUTH_OWN_REFRESH_TOKEN_FILE": str(tmp_path / "refresh"),
            "KURIR_SMTP_HELO": "client.example.com",
            "KURIR_EMAIL_FROM": "shop@example.com",
            "KURIR_EMAIL_RATE": "off",
            "KURIR_PUBLIC_URL": "https://kurir.example.com",
            "KURIR_SECRET": "a secret that signs links in tests",
            "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
            "KURIR_REDIS_URL": redis.url,
            "KURIR_PORT": str(free_port()),
            "KURIR_DATA_DIR": str(tmp_path),
            "KURIR_LOG_LEVEL": "debug",
            "KURIR_TIME_SCALE": "0.25",
        }
        with (tmp_path / "out").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.email_sender"], env=env, stdout=output, stderr=output
            )
        world = open_world(redis.url, QUARTER)
        try:
            await world.given(1)
            await wait_for(lambda: len(server.messages) == 1, 30, "the first message")
            await world.given(1)

            async def paused() -> str:
                return (await world.control.channel_stats("email")).pause_reason

            reason = await wait_for(paused, 30, "the pause")
        finally:
            process.terminate()
            process.wait(60)
            await world.redis.aclose()
            redis.destroy()
    assert "invalid_grant: Token has been expired or revoked." in reason
    logged = b"".join(path.read_bytes() for path in (tmp_path / "out", *tmp_path.glob("logs/*.log"))).decode()
    assert not [secret for secret in SECRETS if secret in logged]
