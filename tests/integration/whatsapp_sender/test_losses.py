"""Connections that fail or are lost, before the message was handed over and after, for both drivers."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import nullcontext

import pytest
import trustme

from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    ServerFailedError,
    StopChannelError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from tests.awake import awake
from tests.clocks import StandingClock
from tests.integration.whatsapp_sender.providers import ACCEPTED, END_OF_MESSAGE, Api, error_body
from tests.raw_servers import serving_raw
from tests.servers import free_port, wait_for


async def failure_at(api: Api, url: str, answer_s: float = 10.0) -> SendError:
    """Send one message there and return the error."""
    async with api.opened(url, answer_s=answer_s) as channel:
        with pytest.raises(SendError) as caught:
            await channel.send(api.message)
    return caught.value


async def test_connection_refused_is_unavailable(api: Api) -> None:
    """It is a failure of the server, not of the message."""
    error = await failure_at(api, f"http://127.0.0.1:{free_port()}")
    assert (type(error), error.code) == (UnavailableError, "connect")


async def test_an_unknown_host_is_unavailable(api: Api) -> None:
    """DNS reports that it does not exist (RFC 2606)."""
    assert type(await failure_at(api, "http://provider.invalid")) is UnavailableError


async def close_at_once(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Close the connection before reading anything."""


async def read_for_ever(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read everything and never answer."""
    while await reader.read(65536):
        pass


async def read_message(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read the message to its end, then close the connection."""
    await reader.readuntil(END_OF_MESSAGE)


async def test_an_untrusted_certificate_is_unavailable(api: Api) -> None:
    """Our secret is not sent to a server that cannot prove its name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serving_raw(close_at_once, context) as url:
        error = await failure_at(api, url)
    assert type(error) is UnavailableError
    assert "certificate" in error.message.lower()


async def test_a_broken_handshake_is_unavailable(api: Api) -> None:
    """A connection closed before TLS is established cannot have delivered anything."""
    async with serving_raw(close_at_once) as url:
        assert type(await failure_at(api, url.replace("http:", "https:"))) is UnavailableError


async def test_a_server_that_closes_each_connection_at_once_is_tried_once_a_message(api: Api) -> None:
    """The loss is an answer to the message: no connection after the other is opened for it."""
    connections = 0

    async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1

    async with serving_raw(close) as url:
        await failure_at(api, url)
    assert connections == 1


async def test_a_connection_lost_after_the_body_is_uncertain(api: Api) -> None:
    """The message may have been delivered."""
    async with serving_raw(read_message) as url:
        error = await failure_at(api, url)
    assert (type(error), error.code) == (UncertainError, "lost")


async def test_no_answer_in_time_is_uncertain(api: Api) -> None:
    """A time-out after the body says nothing about delivery."""
    async with serving_raw(read_for_ever) as url:
        assert type(await failure_at(api, url, answer_s=0.2)) is UncertainError


async def test_an_answer_cut_off_is_uncertain(api: Api) -> None:
    """An acceptance in which no whole id has arrived does not count."""

    async def answer_by_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"messages":[{"id":"wamid')
        writer.close()
        await writer.wait_closed()

    async with serving_raw(answer_by_half) as url:
        assert type(await failure_at(api, url)) is UncertainError


_ID = "wamid.HBgNNjI4MTIzNDU2Nzg5MBUCABEYEjdGRkE"
_WHOLE = json.dumps(ACCEPTED).encode()
_REFUSED = json.dumps(error_body(131026)).encode()


@pytest.mark.parametrize(
    ("head", "body", "kind"),
    [
        (b"200 OK\r\nContent-Length: 500", _WHOLE, None),
        (b"200 OK\r\nContent-Length: 500", _WHOLE[:-3], None),
        (b"200 OK\r\nTransfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(_WHOLE), _WHOLE), None),
        (b"200 OK\r\nContent-Length: 500", _REFUSED[:-1] + b'"in": "wamid.HBgNNjI4MTIzNDU2', UncertainError),
        (b"400 Bad Request\r\nContent-Length: 500", _REFUSED, PermanentError),
        (b"400 Bad Request\r\nContent-Length: 500", _REFUSED[:40], TransientError),
        (b"401 Unauthorized\r\nContent-Length: 500", b'{"error', StopChannelError),
        (b"429 Too Many\r\nRetry-After: 7\r\nContent-Length: 500", b"slow", DeferredError),
        (b"429 Too Many\r\nRetry-After: 7\r\nContent-Encoding: gzip\r\nContent-Length: 4", b"slow", DeferredError),
        (b"503 Away\r\nContent-Length: 500", b"", ServerFailedError),
    ],
)
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "stalls"])
async def test_what_arrived_of_an_answer_counts(
    api: Api, head: bytes, body: bytes, kind: type[SendError] | None, closes: bool
) -> None:
    """A yes with its id is one, though its end is lost: the message is not sent twice. A refusal is no lost answer."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(b"HTTP/1.1 %b\r\n\r\n%b" % (head, body))
        await writer.drain()
        if not closes:
            await reader.read()

    async with serving_raw(serve) as url, api.opened(url, answer_s=0.5) as channel:
        for _ in range(2):
            with nullcontext() if kind is None else pytest.raises(kind):
                assert (await channel.send(api.message)).message_id == _ID
        assert channel.capacity().connections == 0
    assert connections == 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40, "interim"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + b"X: y\r\n" * 200, "headers"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk", "chunk"),
        (b"220 smtp.example ESMTP\r\n", "HTTP"),
    ],
    ids=["interim", "headers", "chunks", "another protocol"],
)
async def test_a_broken_answer_is_uncertain(api: Api, raw: bytes, words: str) -> None:
    """It is refused at once, not after the time-out, and the connection carries no other message."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(raw)
        await reader.read()

    async with serving_raw(serve) as url, api.opened(url, answer_s=30.0) as channel:
        for _ in range(2):
            async with asyncio.timeout(20):
                with pytest.raises(UncertainError, match=f"(?i){words}"):
                    await channel.send(api.message)
        assert channel.capacity().connections == 0
    assert len(writers) == 2


async def test_bytes_behind_a_whole_answer_change_nothing(api: Api) -> None:
    """The server says how long its answer is: that is one, and the connection carries no other message."""
    connections = 0
    body = json.dumps(ACCEPTED).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b and more" % (len(body), body))
        await reader.read()

    async with serving_raw(serve) as url, api.opened(url) as channel:
        for _ in range(2):
            assert (await channel.send(api.message)).message_id.startswith("wamid.")
        assert channel.capacity().connections == 0
    assert connections == 2


async def test_only_the_beginning_of_a_long_answer_is_read(api: Api) -> None:
    """It is an acceptance if it begins as one; what follows is not read, and the connection is closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + json.dumps(ACCEPTED).encode())
        writer.write(b" " * 200_000)
        await reader.read()

    async with serving_raw(serve) as url, api.opened(url) as channel:
        assert (await channel.send(api.message)).message_id.startswith("wamid.")
        assert channel.capacity().connections == 0


async def test_connections_are_reused(api: Api) -> None:
    """Fifty messages in sequence use one connection, errors included."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        for number in range(50):
            refused = number % 10 == 5
            provider.answers(400 if refused else 200, {"error": {"code": 131026}} if refused else {"id": "x"})
            with pytest.raises(PermanentError) if refused else nullcontext():
                await channel.send(api.message)
    assert len(provider.bodies) == 50
    assert len(provider.connections) == 1


async def test_five_failures_open_the_breaker_and_a_probe_closes_it(api: Api) -> None:
    """Refused connections are counted; while it is open nothing is tried, then one probe at a time is sent."""
    port, clock = free_port(), StandingClock()
    async with api.opened(f"http://127.0.0.1:{port}", clock) as channel:
        for _ in range(5):
            assert channel.available()
            with pytest.raises(UnavailableError):
                await channel.send(api.message)
        assert not channel.available()
        with pytest.raises(UnavailableError, match="not tried") as caught:
            await channel.send(api.message)
        assert caught.value.code == "breaker"
        async with api.providing(port) as provider:
            held = asyncio.Event()
            provider.wait = held.wait
            clock.now += 1.0
            assert channel.available()
            probe = asyncio.create_task(channel.send(api.message))
            await wait_for(lambda: len(provider.bodies) == 1, what="the probe")
            assert not channel.available()
            held.set()
            await probe
            assert channel.available()
            await asyncio.gather(*(channel.send(api.message) for _ in range(10)))


async def test_a_gateway_in_trouble_opens_the_breaker(api: Api) -> None:
    """The first 503 pages cost an attempt each; from the fifth in a row on, no message loses an attempt."""
    async with api.providing() as provider, api.opened(provider.url, StandingClock()) as channel:
        provider.answers(503, "<html>Service Unavailable</html>")
        stands = []
        for _ in range(5):
            with pytest.raises(ServerFailedError) as caught:
                await channel.send(api.message)
            stands.append((caught.value.in_a_row, caught.value.in_trouble))
        assert stands == [(1, False), (2, False), (3, False), (4, False), (5, True)]
        assert not channel.available()


async def test_refusals_of_messages_leave_the_breaker_closed(api: Api) -> None:
    """However many numbers are not on WhatsApp, the server works."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(500, {"error": {"code": 131000}})
        for _ in range(8):
            with pytest.raises(TransientError):
                await channel.send(api.message)
        assert channel.available()


async def test_an_answer_that_came_while_the_sender_stood_still_is_read(api: Api) -> None:
    """A process frozen past its time-out reads the response when it resumes: it is not lost (attacks G2)."""
    async with api.providing() as provider, api.opened(provider.url, answer_s=0.2) as channel:
        provider.wait = lambda: asyncio.sleep(0.1)
        sending = asyncio.ensure_future(channel.send(api.message))
        await wait_for(lambda: bool(provider.bodies), what="the message")
        time.sleep(0.6)  # block the event loop, like a stopped process or a paused machine
        assert (await sending).message_id.startswith("wamid.")


@pytest.mark.timing
async def test_an_answer_is_not_waited_for_longer_than_its_time_out_asks(api: Api) -> None:
    """The time-out also bounds a response that arrives byte by byte."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    async with serving_raw(trickle) as url:
        started = time.monotonic()
        async with awake() as spent:
            assert type(await failure_at(api, url, answer_s=0.3)) is UncertainError
        assert time.monotonic() - started > 0.25
        assert spent.seconds < 2
