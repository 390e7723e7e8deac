"""Endpoints that hang, at each stage, and a sender that stood still: none of it lasts, none delays another."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from services.webhook_sender import addresses
from services.webhook_sender.addresses import LookUps
from services.webhook_sender.channel import Delivery
from shared.errors import SendError, ServerFailedError, UnavailableError
from shared.sending.provider import NOTED
from shared.special_addresses import Allowed
from tests.awake import awake
from tests.integration.webhook_sender.endpoints import (
    DELIVERY,
    NO_CONTENT,
    answer,
    failure_at,
    opened,
    read_request,
    receiving,
)
from tests.raw_servers import Serve, serving_raw
from tests.servers import wait_for

LARGE = Delivery("w:0:webhook", "", "bat_3_1", b"x" * 1_000_000)


async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read nothing, send nothing."""
    await asyncio.Event().wait()


async def read_for_ever(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read everything and never answer."""
    while await reader.read(65536):
        pass


def then_hang(raw: bytes) -> Serve:
    """Read a request, send this, and then nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await asyncio.Event().wait()

    return serve


def trickling(first: bytes, each: bytes) -> Serve:
    """Read a request, send this, and then a little again and again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(first)
        while True:
            writer.write(each)
            await writer.drain()
            await asyncio.sleep(0.02)

    return serve


async def test_hanging_resolver_is_bounded() -> None:
    """A name server that does not answer is no connection in time."""

    async def look_up(_host: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    error = await failure_at("https://app.example.com/", connect_s=0.2, look_up=look_up)
    assert (type(error), error.code) == (UnavailableError, "connect")
    assert "app.example.com:443" in error.message


async def test_hanging_resolution_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be ended, so later attempts wait for it: one thread for each name, and no name waits for another."""
    answered, asked = threading.Event(), list[str]()

    def hang(host: str) -> list[str]:
        asked.append(host)
        if host == "slow.example.com":
            answered.wait(60)
        return ["127.0.0.1"]

    monkeypatch.setattr(addresses, "_addresses_of", hang)
    look_up = LookUps()
    try:
        for _ in range(5):
            error = await failure_at("https://slow.example.com/", connect_s=0.1, look_up=look_up)
            assert (type(error), error.code) == (UnavailableError, "connect")
        assert await look_up("quick.example.com") == ["127.0.0.1"]
        joining = asyncio.create_task(look_up("slow.example.com"))
        await asyncio.sleep(0)
    finally:
        answered.set()
    assert await joining == ["127.0.0.1"]
    assert asked == ["slow.example.com", "quick.example.com"]
    assert await look_up("slow.example.com") == ["127.0.0.1"]
    assert asked.count("slow.example.com") == 2


async def test_missing_thread_uses_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container bounds its threads: that is no fault of the endpoint, and uses no attempt."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    error = await failure_at("https://app.example.com/")
    assert (type(error), error.code) == (UnavailableError, "dns")
    assert "no thread is left" in error.message


async def test_hanging_connection_is_bounded() -> None:
    """A listener whose backlog is full takes no connection."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        error = await failure_at(f"http://127.0.0.1:{full.getsockname()[1]}/", connect_s=0.3)
        for one in fillers:
            one.close()
    assert (type(error), error.code) == (UnavailableError, "connect")


async def test_hanging_handshake_is_bounded() -> None:
    """A server that accepts and says nothing is no TLS server."""
    async with serving_raw(hang) as url:
        error = await failure_at(url.replace("http:", "https:"), connect_s=0.3)
    assert (type(error), error.code) == (UnavailableError, "connect")


@pytest.mark.timing
@pytest.mark.parametrize(
    "serve",
    [
        read_for_ever,
        then_hang(b"HTTP/1.1 20"),
        then_hang(b"HTTP/1.1 200 OK\r\nX: "),
        then_hang(b"HTTP/1.1 100 Continue\r\n\r\n"),
        trickling(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n"),
        trickling(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    ],
)
async def test_answer_that_does_not_come_is_a_servers_failure(serve: Serve) -> None:
    """However far it had come: without a status there is no answer. One attempt, not an uncertain outcome."""
    async with serving_raw(serve) as url:
        started = time.monotonic()
        async with awake() as spent:
            error = await failure_at(url, answer_s=0.3)
    assert (type(error), error.code) == (ServerFailedError, "timeout")
    assert time.monotonic() - started > 0.25
    assert spent.seconds < 3


async def test_receiver_that_does_not_read_is_bounded() -> None:
    """The time-out begins with the body, not with its end."""
    async with serving_raw(hang) as url, opened(url, answer_s=0.3) as channel:
        with pytest.raises(ServerFailedError) as caught:
            await channel.send(LARGE)
        assert caught.value.code == "timeout"
        assert channel._link is not None
        assert channel._link.in_use == 0


@pytest.mark.parametrize(
    "serve",
    [
        then_hang(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"),
        then_hang(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        trickling(b"HTTP/1.1 200 OK\r\n\r\nab", b" "),
    ],
)
async def test_hanging_body_counts_by_its_status(serve: Serve) -> None:
    """It was accepted once 200 had come; the connection is given up."""
    async with serving_raw(serve) as url, opened(url, answer_s=0.3) as channel:
        receipt = await channel.send(DELIVERY)
        assert channel._link is not None
        assert channel._link.in_use == 0
    assert receipt.response.startswith("200 OK")


async def test_acceptance_is_noted_before_the_body_is_read() -> None:
    """A sender that ends in the meantime does not send the delivery again."""
    noted: list[tuple[str, str]] = []
    async with (
        serving_raw(then_hang(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nab")) as url,
        opened(url) as channel,
    ):
        token = NOTED.set(lambda *acceptance: noted.append(acceptance))
        sending = asyncio.create_task(channel.send(DELIVERY))
        NOTED.reset(token)
        await wait_for(lambda: bool(noted), what="the acceptance")
        assert not sending.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert noted == [("evt_abc", "202")]


@pytest.mark.timing
async def test_early_answer_counts_although_the_body_is_not_read() -> None:
    """Some receivers answer from the headers alone."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer("413 Too Large", b"no"))
        await asyncio.Event().wait()

    async with serving_raw(serve) as url, opened(url, answer_s=5.0) as channel, awake() as spent:
        with pytest.raises(SendError, match="413 Too Large"):
            await channel.send(LARGE)
    assert spent.seconds < 4


async def test_answer_that_came_while_the_sender_stood_still_is_read() -> None:
    """A process frozen past its time-out reads the response when it resumes."""
    waiting = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        waiting.set()
        await asyncio.sleep(0.1)
        writer.write(NO_CONTENT)
        await writer.drain()

    async with serving_raw(serve) as url, opened(url, answer_s=0.2) as channel:
        sending = asyncio.ensure_future(channel.send(DELIVERY))
        await waiting.wait()
        time.sleep(0.6)  # block the event loop, like a stopped process or a paused machine
        assert (await sending).response == "204 No Content"


async def test_connection_that_opened_while_the_sender_stood_still_is_used() -> None:
    """Time in which the process was suspended is not time in which the endpoint took to connect."""
    answered = asyncio.Event()

    async def look_up(_host: str) -> list[str]:
        asyncio.get_running_loop().call_later(0.1, answered.set)
        time.sleep(0.6)
        await answered.wait()
        return ["127.0.0.1"]

    async with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        allowed = Allowed(hosts=frozenset({"app.lan"}))
        async with opened(f"http://app.lan:{port}", allowed=allowed, look_up=look_up, connect_s=0.3) as channel:
            assert (await channel.send(DELIVERY)).response == "204 No Content"


@pytest.mark.timing
async def test_hanging_endpoint_delays_no_other() -> None:
    """Each has its own connections and look-ups."""
    async with (
        serving_raw(hang) as url,
        receiving() as receiver,
        opened(url, answer_s=3.0) as slow,
        opened(receiver.url) as quick,
    ):
        hanging = [asyncio.create_task(slow.send(DELIVERY)) for _ in range(20)]
        await wait_for(lambda: slow.capacity().starts == 0, what="all its connections to hang")
        async with awake() as spent:
            for _ in range(20):
                await quick.send(DELIVERY)
        assert spent.seconds < 2
        for one in hanging:
            one.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
