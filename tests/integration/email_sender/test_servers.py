"""Several servers: weights, limits, breakers, and fail-over only before the hand-over."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import structlog
import trustme

from services.email_sender.channel import EmailChannel
from services.email_sender.replies import POLICY_RUN, RUN
from services.email_sender.settings import SmtpSettings, Timeouts
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from shared.sending.breaker import BreakerPolicy
from tests.clocks import StandingClock
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.peer import CLOSE, SILENCE, peer
from tests.integration.email_sender.running import opened
from tests.servers import free_port, wait_for

NEVER_AGAIN = BreakerPolicy(failures=3, open_s=3600, probe_every_s=3600)


async def send_many(channel: EmailChannel, count: int) -> Counter[str]:
    """Send messages concurrently and count the outcomes."""

    async def one(number: int) -> str:
        try:
            await channel.send(make_mail(f"r{number}@example.com"))
        except SendError as error:
            return error.error_class
        return "accepted"

    return Counter(await asyncio.gather(*(one(number) for number in range(count))))


async def test_weights_share_the_messages() -> None:
    """A server of weight 3 gets about three times as many as one of weight 1 (six standard deviations are allowed)."""
    async with peer() as heavy, peer() as light:
        settings = smtp_settings(f"{heavy.url}?weight=3&concurrency=20", f"{light.url}?weight=1&concurrency=20")
        async with opened(settings) as channel:
            for _ in range(20):
                assert await send_many(channel, 10) == {"accepted": 10}
        assert 113 < len(heavy.messages) < 187
        assert len(heavy.messages) + len(light.messages) == 200


async def test_another_server_takes_over_before_the_hand_over() -> None:
    """One refuses connections, one hangs up in mid-session, one works: every message is accepted once."""
    dead = f"smtp://127.0.0.1:{free_port()}"
    async with peer({"RCPT": lambda _line: CLOSE}) as flaky, peer() as good:
        async with opened(smtp_settings(dead, flaky.url, good.url)) as channel:
            assert await send_many(channel, 40) == {"accepted": 40}
        assert len(good.messages) == 40
        assert not flaky.messages


async def test_no_server_takes_over_after_the_hand_over() -> None:
    """A lost reply to the final dot is uncertain; the message is not sent through the other server."""
    async with peer({".": [CLOSE] * 40}) as lossy, peer() as good:
        async with opened(smtp_settings(f"{lossy.url}?weight=1000000", good.url)) as channel:
            with pytest.raises(UncertainError):
                await channel.send(make_mail())
        assert not good.messages


async def test_refusal_is_an_answer_not_a_reason_to_ask_another() -> None:
    """A message that one server refuses, permanently or temporarily, is not offered to the other."""
    answers = ["550 5.1.1 gone", "450 4.7.1 grey"]
    async with peer({"RCPT": answers}) as strict, peer() as good:
        async with opened(smtp_settings(f"{strict.url}?weight=1000000", good.url)) as channel:
            with pytest.raises(PermanentError):
                await channel.send(make_mail())
            with pytest.raises(DeferredError):
                await channel.send(make_mail())
        assert not good.messages


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"CONNECT": ["554 no"] * 9}, "554"),
        ({"CONNECT": [CLOSE] * 9}, "connect"),
        ({"CONNECT": [SILENCE] * 9}, "timeout"),
        ({"EHLO": ["421 4.3.2 down"] * 9}, "421 4.3.2"),
    ],
)
async def test_broken_server_is_unavailable_and_then_left_alone(script: dict[str, list[str]], code: str) -> None:
    """Consecutive failures open the breaker: nothing is tried, and the channel is unavailable."""
    connect_s = 0.2 if code == "timeout" else 30.0
    timeouts = Timeouts(connect_s=connect_s, command_s=30.0, data_s=30.0, idle_s=30.0)
    async with peer(script) as server:
        async with opened(smtp_settings(server.url, breaker=NEVER_AGAIN, timeouts=timeouts)) as channel:
            for _ in range(3):
                assert channel.available()
                with pytest.raises(UnavailableError) as failed:
                    await channel.send(make_mail())
                assert failed.value.code == code
            assert not channel.available()
            with pytest.raises(UnavailableError, match="no server is tried"):
                await channel.send(make_mail())
        assert len(server.sessions) == 3


async def test_one_probe_at_a_time_and_its_success_closes_the_breaker() -> None:
    """During a probe no other message may use the server; after its success all may."""
    policy = BreakerPolicy(failures=2, open_s=60.0, probe_every_s=60.0)
    port, clock = free_port(), StandingClock()
    async with peer({"RCPT": ["250 ok"]}) as server:
        await server.stop()
        server.port = port
        async with opened(smtp_settings(f"smtp://127.0.0.1:{port}", breaker=policy)) as channel:
            channel._opened().servers[0].breaker._clock = clock
            assert await send_many(channel, 2) == {"unavailable": 2}
            assert not channel.available()
            await server.start()
            clock.now += 61.0
            assert channel.available()
            found = await send_many(channel, 5)
            assert found["accepted"] == 1
            assert found["unavailable"] == 4
            assert await send_many(channel, 20) == {"accepted": 20}


async def test_refusals_of_messages_do_not_open_the_breaker() -> None:
    """A server that refuses each message for the message's own reasons works."""
    async with (
        peer({"RCPT": lambda _line: "550 5.1.1 gone"}) as server,
        opened(smtp_settings(server.url, breaker=NEVER_AGAIN)) as channel,
    ):
        assert await send_many(channel, 20) == {"permanent": 20}
        assert channel.available()


async def test_refusals_say_what_they_have_in_common() -> None:
    """Without recipient, numbers and hosts, equal words are the same refusal; all refusals by policy are alike."""
    answers = {
        "r0": "550 relay not permitted for r0", "r1": "550 Relay not permitted for <r1@example.com>",
        "r2": "550 5.7.1 blocked", "r3": "550 5.7.26 unauthenticated", "r4": "550 5.1.1 no such user (id 4711)",
        "r5": "550 5.1.1 no such user (id 4712)",
    }  # fmt: skip
    script = {"RCPT": lambda line: answers[line.partition("<")[2].partition("@")[0]]}
    kinds = []
    async with peer(script) as server, opened(smtp_settings(server.url)) as channel:
        for name in answers:
            with pytest.raises(PermanentError) as caught:
                await channel.send(make_mail(f"{name}@example.com"))
            assert caught.value.refusal is not None
            kinds.append((caught.value.refusal.alike, caught.value.refusal.most))
    assert (
        kinds
        == [("550 relay not permitted for", RUN)] * 2
        + [("5.7", POLICY_RUN)] * 2
        + [("550 5.1.1 no such user id", RUN)] * 2
    )


async def test_concurrency_of_a_server_bounds_its_connections() -> None:
    """However many messages are sent, a server's connections stay within its concurrency."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?concurrency=3")) as channel:
        assert await send_many(channel, 60) == {"accepted": 60}
        assert len(server.sessions) <= 3


async def test_rate_of_a_server_spaces_its_messages() -> None:
    """At 20 a second, ten messages take at least nine twentieths of a second."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?rate=20/1s")) as channel:
        started = time.monotonic()
        assert await send_many(channel, 10) == {"accepted": 10}
        assert time.monotonic() - started >= 9 / 20


async def test_long_wait_for_a_rate_is_a_deferral() -> None:
    """A message that would wait for minutes is deferred by that time, and does not hold up others."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?rate=1/1h")) as channel:
        await channel.send(make_mail())
        with pytest.raises(DeferredError) as deferred:
            await channel.send(make_mail())
        assert 3590 < (deferred.value.wait_s or 0) <= 3600


async def test_name_that_does_not_exist_is_unavailable() -> None:
    """A DNS failure is a failure of the server, not of the message."""
    async with opened(smtp_settings("smtp://no-such-host.invalid")) as channel:
        with pytest.raises(UnavailableError) as failed:
            await channel.send(make_mail())
    assert failed.value.code == "dns"


@pytest.mark.parametrize(
    ("script", "extensions", "verbs"),
    [
        ({}, ["AUTH PLAIN LOGIN"], ["EHLO", "AUTH"]),
        ({"AUTH": ["334 VXNlcm5hbWU6"], "c29tZQ==": ["334 UGFzc3dvcmQ6"], "d29yZA==": ["235 ok"]}, ["AUTH LOGIN"],
         ["EHLO", "AUTH", "c29tZQ==", "d29yZA=="]),
        ({"AUTH": ["504 5.5.4 unknown", "334 VXNlcm5hbWU6"], "c29tZQ==": ["334 UGFzc3dvcmQ6"], "d29yZA==": ["235 ok"]},
         ["AUTH PLAIN LOGIN"], ["EHLO", "AUTH", "AUTH", "c29tZQ==", "d29yZA=="]),
    ],
    ids=["plain", "login", "a method that is offered but not known"],
)  # fmt: skip
async def test_log_in_by_what_the_server_offers(
    script: dict[str, list[str]], extensions: list[str], verbs: list[str]
) -> None:
    """It uses PLAIN or LOGIN, and the next method if the server does not support one after all."""
    script = {verb.upper(): answers for verb, answers in script.items()}
    async with peer(script, extensions) as server:
        url = server.url.replace("//", "//some:word@") + "?tls=off"
        async with opened(smtp_settings(url)) as channel:
            await channel.send(make_mail())
        assert server.sessions[0].verbs[: len(verbs)] == verbs


async def test_credentials_are_not_sent_without_encryption() -> None:
    """With credentials STARTTLS is required by default; a server without it gets no AUTH."""
    async with peer(extensions=["AUTH PLAIN"]) as server:
        async with opened(smtp_settings(server.url.replace("//", "//some:word@"))) as channel:
            with pytest.raises(UnavailableError, match="does not offer STARTTLS"):
                await channel.send(make_mail())
        assert server.heard["AUTH"] == 0


async def test_text_injected_before_tls_breaks_the_connection(tmp_path: Path) -> None:
    """Clear text after the reply to STARTTLS is never taken for a reply under TLS (RFC 3207, 4.2)."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    script = {"STARTTLS": ["220 ready\r\n250 injected", "220 ready"]}
    async with peer(script, ["STARTTLS"], tls) as server:
        url = server.url.replace("127.0.0.1", "localhost") + "?tls=required"
        async with opened(smtp_settings(url, ca_file=str(tmp_path / "ca.pem"))) as channel:
            with pytest.raises(UnavailableError) as injected:
                await channel.send(make_mail())
            assert injected.value.message.endswith(": data was injected before TLS began")
            assert injected.value.code == "malformed"
            assert server.heard["MAIL"] == 0
            await channel.send(make_mail())
        assert server.sessions[1].verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_a_message_that_breaks_one_server_is_not_sent_back_there_for_its_open_connection() -> None:
    """The other server, without an open connection, gets one; going to and fro would hold up the whole sender."""
    broken = asyncio.Event()
    async with peer() as first, peer() as second:

        async def answer(writer: asyncio.StreamWriter, verb: str, line: str = "") -> str:
            if "<breaks@" not in line:
                return await usual(writer, verb, line)
            await broken.wait()
            return ""

        usual = first._answer
        first._answer = answer  # type: ignore[method-assign]
        async with opened(smtp_settings(f"{first.url}?weight=1000000", second.url)) as channel:
            breaking = asyncio.create_task(channel.send(make_mail("breaks@example.com")))
            await wait_for(lambda: first.heard["RCPT"] == 1, what="the message to be under way")
            await channel.send(make_mail())  # over another connection of the first, idle from then on
            await second.restart()
            broken.set()
            await breaking
    assert (len(first.messages), len(second.messages)) == (1, 1)


async def test_international_address_is_taken_by_the_server_that_offers_smtputf8() -> None:
    """One that does not offer it passes the message on; if no other can be tried, it waits, and does not fail."""
    unable = ["PIPELINING", "8BITMIME"]
    async with peer(extensions=unable) as old, peer() as able:
        settings = smtp_settings(f"{old.url}?weight=100", able.url, breaker=NEVER_AGAIN)
        async with opened(settings) as channel:
            for _ in range(3):
                await channel.send(make_mail("jörg@example.com"))
            assert (len(old.messages), len(able.messages)) == (0, 3)
            await able.stop()
            for _ in range(10):
                with pytest.raises((UnavailableError, TransientError)):
                    await channel.send(make_mail("jörg@example.com"))
            await channel.send(make_mail("ana@example.com"))
        await able.start()
    async with (
        peer(extensions=unable) as one,
        peer(extensions=unable) as other,
        opened(smtp_settings(one.url, other.url)) as channel,
    ):
        with pytest.raises(PermanentError, match="SMTPUTF8"):
            await channel.send(make_mail("jörg@example.com"))


async def test_a_server_that_is_away_is_reported_in_its_own_words() -> None:
    """The log and the breaker's reason have the greeting's words, not only that it was a refusal."""
    words = "554 5.7.1 your address 192.0.2.1 is on our list"
    async with peer({"CONNECT": lambda _: f"{words}{CLOSE}"}) as server, opened(smtp_settings(server.url)) as channel:
        with structlog.testing.capture_logs() as logged:
            channel.capacity(1)
            await wait_for(lambda: bool(logged), what="the attempt to connect")
        (shown,) = msgspec.convert((await channel.status()).detail["servers"], list[dict[str, object]])
    assert shown["breakerReason"] == f"greeting refused: {words}"
    assert [line["reason"] for line in logged if line["event"] == "not_connected"] == [f"greeting refused: {words}"]


def test_time_outs_and_policies_are_settings() -> None:
    """By default five failures open a breaker for a minute; the only server is probed every five seconds."""
    assert BreakerPolicy() == BreakerPolicy(5, 60.0, 5.0)
    assert SmtpSettings((), Timeouts(), "", "h").breaker == BreakerPolicy()
