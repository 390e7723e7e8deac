"""The proxy to Redis breaks exactly the armed call on a connection that carries several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import hiredis

from shared.queue.scripts import load_script
from tests.faults.proxies import RedisProxy
from tests.raw_servers import Serve, serving_raw

_OK = b"+OK\r\n"


def call(script: str, argument: str) -> bytes:
    """Return the bytes of a call of a script."""
    words: Any = ("EVALSHA", load_script(script).digest, 0, argument)  # its type has tuples of one
    packed: bytes = hiredis.pack_command(words)
    return packed


@asynccontextmanager
async def through_proxy(serve: Serve) -> AsyncIterator[tuple[RedisProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server that is this function, through a proxy."""
    async with serving_raw(serve) as url:
        proxy = RedisProxy(int(url.rpartition(":")[2]))
        await proxy.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, reader, writer
        finally:
            await proxy.stop()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_calls_before_a_withheld_one_pass() -> None:
    """Also if all arrive at once; what follows it on its connection is withheld too."""
    received = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(65536):
            received += data
            writer.write(_OK * data.count(b"EVALSHA"))

    async with through_proxy(serve) as (proxy, reader, writer):
        proxy.hold("settle", after=1)
        calls = [call("settle", "1"), call("begin", "2"), call("settle", "3"), call("begin", "4")]
        writer.write(b"".join(calls))
        assert await reader.readexactly(2 * len(_OK)) == 2 * _OK
        assert received == calls[0] + calls[1]
        assert proxy.broken["held settle"] == 1


async def test_answers_before_a_lost_one_pass() -> None:
    """The script of the lost answer has run then: the server has answered it."""
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"2\r\n")
        writer.write(_OK)
        await go_on.wait()
        writer.write(_OK)
        await reader.read()

    async with through_proxy(serve) as (proxy, reader, writer):
        proxy.lose_reply("settle")
        writer.write(call("begin", "1") + call("settle", "2"))
        assert await reader.readexactly(len(_OK)) == _OK
        go_on.set()
        lost = b""
        with suppress(ConnectionError):
            lost = await reader.read()
        assert not lost
        assert proxy.broken["lost reply of settle"] == 1
