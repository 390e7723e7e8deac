"""The connection that the calls of scripts share: whose reply is whose, and what its loss means."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared.errors import QueueUnavailableError
from shared.queue.client import QueueRedis
from shared.queue.connection import connect, translated
from shared.queue.scripts import Script
from tests.raw_servers import Serve, serving_raw
from tests.servers import PATIENCE_S, wait_for

ECHO = Script("echo", "return ARGV[1]")
_ANSWER = b"$2\r\nok\r\n"
_PING = b"*2\r\n$4\r\nPING\r\n"


async def answer_ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after: bytes = b"") -> None:
    """Answer the question of a new connection as Redis does, and send more bytes in the same packet."""
    assert await reader.readexactly(len(_PING)) == _PING
    length = await reader.readuntil(b"\r\n")
    writer.write(length + await reader.readexactly(int(length[1:]) + 2) + after)


def answering(serve: Serve) -> Serve:
    """Return a server that knows a new connection's question, and then is this function."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer_ping(reader, writer)
        await serve(reader, writer)

    return answer


async def echo(redis: QueueRedis, text: str) -> Any:
    """Call a script that returns its argument."""
    return await ECHO.call(redis, ["k"], [text])


@asynccontextmanager
async def client_of(serve: Serve, timeout_s: float = 10.0, *, password: str = "") -> AsyncIterator[QueueRedis]:
    """Return a client of a server that is this function for each connection, log-in included if there is one."""
    async with serving_raw(serve if password else answering(serve)) as url:
        client = connect(url.replace("http://", f"redis://:{password}@"), socket_timeout_s=timeout_s)
        try:
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def encrypted_client_of(serve: Serve, folder: Path) -> AsyncIterator[QueueRedis]:
    """The same, over TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    async with serving_raw(answering(serve), context) as url:
        client = connect(f"{url.replace('https:', 'rediss:')}?ssl_ca_certs={folder / 'ca.pem'}")
        try:
            yield client
        finally:
            await client.aclose()


async def test_calls_at_once_share_a_connection_and_get_their_own_replies(redis_url: str) -> None:
    """Also while some are cancelled, fail, or have to send their source first."""
    client = connect(redis_url)
    try:
        assert await echo(client, "before") == b"before"
        tasks = [asyncio.create_task(echo(client, str(number))) for number in range(200)]
        failing = asyncio.create_task(Script("bad", "return redis.call('NOSUCH')").call(client, ["k"], []))
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        wanted = [str(number).encode() for number in range(200)]
        assert [one for number, one in enumerate(answers) if number % 7] == [
            one for number, one in enumerate(wanted) if number % 7
        ]
        with pytest.raises(Exception, match="Unknown"):
            await failing
        assert await echo(client, "after") == b"after"
        assert len([one for one in await client.client_list() if one["cmd"].startswith("eval")]) == 1
    finally:
        await client.aclose()


async def test_commands_about_keys_share_a_connection_of_their_own(redis_url: str) -> None:
    """Their replies are what the driver makes of them; no script waits behind a large value that one of them reads."""
    client: Any = connect(redis_url)
    try:
        numbers = range(100)
        assert await asyncio.gather(*(client.hsetnx("h", f"f{one}", one) for one in numbers)) == [1] * 100
        assert await asyncio.gather(*(client.hget("h", f"f{one}") for one in numbers)) == [
            b"%d" % one for one in numbers
        ]
        assert await client.hmget("h", ["f1", "none"]) == [b"1", None]
        assert (await client.exists("h", "none"), await client.pexpire("h", 60_000), await client.persist("none")) == (
            1,
            True,
            False,
        )
        assert (await client.zadd("z", {"a": 1}), await client.zrem("z", "a")) == (1, 1)
        assert await client.xlen("x") == 0
        await client.xadd("x", {"d": b"1"})
        await echo(client, "a")
        names = sorted(one["cmd"].split("|")[0] for one in await client.client_list())
        assert (names.count("xadd"), names.count("evalsha") + names.count("eval")) == (1, 1)
        assert not {"hget", "hmget", "hsetnx", "zadd", "zrem", "exists", "pexpire", "persist"} & set(names)
    finally:
        await client.aclose()


async def test_a_lost_connection_fails_all_calls_under_way_once() -> None:
    """They may have been run, so none is sent again by itself; the next call opens a connection."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(b"")
        mine = len(received) - 1
        while data := await reader.read(65536):
            received[mine] += data
            if mine == 0 and received[0].count(b"EVALSHA") == 3:
                return
            if mine == 1:
                writer.write(_ANSWER)

    async with client_of(serve) as client:
        answers = await asyncio.gather(*(echo(client, one) for one in "abc"), return_exceptions=True)
        assert [type(one) for one in answers] == [QueueUnavailableError] * 3
        assert received[0].count(b"EVALSHA") == 3
        assert await echo(client, "d") == b"ok"
    assert len(received) == 2


async def test_a_reply_that_does_not_come_in_time_is_unknown() -> None:
    """The connection is given up with all that waits on it: a reply that came later would be taken for another's."""
    connections = asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, asked
        connections += 1
        while await reader.read(65536):
            asked += 1
            if asked != 2:
                writer.write(_ANSWER)

    async with client_of(serve) as client:
        assert await echo(client, "a") == b"ok"
        wire = client._shared._wire if client._shared else None
        assert wire is not None
        # of this connection alone: on a busy machine another may take longer to open
        wire._timeout_s, wire._timing = 0.3, False
        wire._timer.cancel()
        with pytest.raises(QueueUnavailableError, match="no reply within"):
            await echo(client, "b")
        assert await echo(client, "c") == b"ok"
    assert connections == 2


@pytest.mark.parametrize("refusal", [b"-READONLY You can't write against a read only replica.", b"-LOADING Redis is"])
async def test_a_demoted_master_is_given_up(refusal: bytes) -> None:
    """After a failover the address leads to another server, and only a new connection looks it up."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        while await reader.read(65536):
            writer.write(refusal + b"\r\n" if first else _ANSWER)

    async with client_of(serve) as client:
        with pytest.raises(QueueUnavailableError):
            await echo(client, "a")
        assert await echo(client, "b") == b"ok"
    assert connections == 2


async def test_a_broken_reply_ends_the_connection() -> None:
    """What follows it cannot be assigned to a call."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with client_of(serve) as client:
        with pytest.raises(QueueUnavailableError):
            await echo(client, "a")


async def test_a_connection_closed_while_idle_is_replaced() -> None:
    """A server may close idle connections: no call is lost for that."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(65536):
            writer.write(_ANSWER)

    async with client_of(serve) as client:
        assert await echo(client, "a") == b"ok"
        writers[0].close()
        wire = client._shared._wire if client._shared else None
        assert wire is not None
        await wait_for(lambda: wire.lost, what="the end of the connection")
        assert await echo(client, "b") == b"ok"


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
async def test_calls_do_not_wait_behind_a_large_one(encrypted: bool, tmp_path: Path) -> None:
    """While a server does not read a large command, others use the pool."""
    connections = 0
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await go_on.wait()
        while await reader.read(65536):
            writer.write(_ANSWER)

    async with encrypted_client_of(serve, tmp_path) if encrypted else client_of(serve) as client:
        large = asyncio.create_task(echo(client, "x" * 30_000_000))
        await wait_for(lambda: connections == 1, what="the connection of the large call")
        await wait_for(lambda: client._shared is not None and client._shared.is_jammed, what="a full buffer")
        assert await asyncio.wait_for(echo(client, "small"), PATIENCE_S) == b"ok"
        assert connections == 2
        go_on.set()
        assert await large == b"ok"
        assert not client._shared.is_jammed if client._shared else True


async def test_closing_the_client_fails_the_calls_under_way() -> None:
    """Nothing waits for a reply that nobody reads."""
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            asked.set()

    async with client_of(serve) as client:
        call = asyncio.create_task(echo(client, "a"))
        await asked.wait()
        await client.aclose()
        with pytest.raises(QueueUnavailableError), translated("echo"):
            await call


@pytest.mark.timing
async def test_a_server_that_answers_no_login_costs_all_callers_one_time_out() -> None:
    """They share the attempt: opened one after the other, ten would have taken ten time-outs."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()

    async with client_of(serve, timeout_s=0.3, password="x") as client:
        started = time.monotonic()
        answers = await asyncio.gather(*(echo(client, "a") for _ in range(10)), return_exceptions=True)
        took_s = time.monotonic() - started
    assert [type(one) for one in answers] == [QueueUnavailableError] * 10
    assert connections == 1
    assert took_s < 1.5  # not 3 s


async def test_closing_the_client_ends_its_attempt_to_connect() -> None:
    """All who wait for it fail at once, and no connection is opened after that."""
    connections = 0
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        asked.set()
        await reader.read()

    async with client_of(serve, timeout_s=60, password="x") as client:
        calls = [asyncio.create_task(echo(client, "a")) for _ in range(10)]
        await asked.wait()
        await asyncio.wait_for(client.aclose(), PATIENCE_S)
        answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE_S)
        assert [type(one) for one in answers] == [QueueUnavailableError] * 10
        with pytest.raises(QueueUnavailableError, match="the client was closed"):
            await echo(client, "b")
    assert connections == 1


async def test_a_cancelled_caller_leaves_the_attempt_to_the_others() -> None:
    """Also if it was the first one, which began the attempt."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        asked.set()
        await go_on.wait()
        writer.write(b"+OK\r\n")
        await answer_ping(reader, writer)
        while await reader.read(65536):
            writer.write(_ANSWER)

    async with client_of(serve, password="x") as client:
        first, second = (asyncio.create_task(echo(client, "a")) for _ in range(2))
        await asked.wait()
        first.cancel()
        go_on.set()
        assert await second == b"ok"
        assert first.cancelled()


async def test_the_reply_of_a_cancelled_call_goes_to_nobody() -> None:
    """The caller after it gets its own, in the same connection."""
    commands = asyncio.Queue[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            for _ in range(data.count(b"EVALSHA")):
                commands.put_nowait(writer)

    async with client_of(serve) as client:
        first = asyncio.create_task(echo(client, "a"))
        await commands.get()
        first.cancel()
        second = asyncio.create_task(echo(client, "b"))
        writer = await commands.get()
        writer.write(b"$5\r\nfirst\r\n$6\r\nsecond\r\n")
        assert await second == b"second"


@pytest.mark.parametrize("unasked", [b"+OK\r\n", b""], ids=["a reply", "the end"])
async def test_what_follows_the_login_at_once_makes_a_connection_unusable(unasked: bytes) -> None:
    """The driver has read it, so it would be missed: a reply that is not ours, or the end of the connection."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(65536)
        writer.write(b"+OK\r\n")
        first = connections == 1
        await answer_ping(reader, writer, unasked if first else b"")
        if first:
            if not unasked:
                writer.write_eof()
            await reader.read()
        while await reader.read(65536):
            writer.write(_ANSWER)

    async with client_of(serve, timeout_s=5, password="x") as client:
        driver: Any = client.connection_pool.connection_class

        class Slow(driver):  # type: ignore[misc]
            """A connection whose first log-in returns after the driver has read what follows it."""

            async def connect(self) -> None:
                await super().connect()
                if connections == 1:
                    await wait_for(self.can_read, what="what follows the login")

        client.connection_pool.connection_class = Slow
        with pytest.raises(QueueUnavailableError, match="connection is closed or"):
            await echo(client, "a")
        assert await asyncio.wait_for(echo(client, "b"), 4) == b"ok"
    assert connections == 2


async def test_a_reply_without_a_call_ends_the_connection() -> None:
    """The replies after it would go to the wrong callers."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        answer = _ANSWER * 2 if connections == 1 else _ANSWER
        while await reader.read(65536):
            writer.write(answer)

    async with client_of(serve) as client:
        assert await echo(client, "a") == b"ok"
        wire = client._shared._wire if client._shared else None
        assert wire is not None
        await wait_for(lambda: wire.lost, what="the end of the connection")
        assert await echo(client, "b") == b"ok"
    assert connections == 2


async def test_what_the_server_pushes_answers_no_call() -> None:
    """With RESP3 a server may send messages between replies."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b">2\r\n$10\r\ninvalidate\r\n_\r\n" + _ANSWER)

    async with client_of(serve) as client:
        assert [await echo(client, one) for one in "ab"] == [b"ok", b"ok"]


async def test_a_failed_write_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Part of the command may be on its way, so replies can no longer be assigned."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(_ANSWER)

    async with client_of(serve) as client:
        assert await echo(client, "a") == b"ok"
        wire = client._shared._wire if client._shared else None
        assert wire is not None

        def fail(_: bytes) -> None:
            raise MemoryError

        monkeypatch.setattr(wire._transport, "write", fail)
        with pytest.raises(MemoryError):
            await echo(client, "b")
        assert wire.lost
        assert await asyncio.wait_for(echo(client, "c"), PATIENCE_S) == b"ok"


async def test_a_server_that_ends_its_side_fails_the_calls_at_once() -> None:
    """Also while it does not read the rest of a command, for which a closing transport would wait."""
    ended = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await ended.wait()

    async with client_of(serve, timeout_s=60) as client:
        call = asyncio.create_task(echo(client, "x" * 30_000_000))
        with pytest.raises(QueueUnavailableError):
            await asyncio.wait_for(call, PATIENCE_S)
        ended.set()
