"""When a message starts: with an open connection, and before any of it is sent."""

from __future__ import annotations

import asyncio
import json

import pytest

from shared.errors import PermanentError
from shared.sending.breaker import BreakerPolicy
from shared.sending.provider import Capacity, NotStartedError
from tests.integration.whatsapp_sender.providers import ACCEPTED, END_OF_MESSAGE, Api
from tests.raw_servers import serving_raw
from tests.servers import free_port, wait_for

_ACCEPTED = json.dumps(ACCEPTED).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_ACCEPTED), _ACCEPTED)


async def _refuse() -> None:
    raise NotStartedError("not now")


async def test_refused_start_leaves_the_connection_to_the_next_message(api: Api) -> None:
    """Nothing of the message was sent, and the next message opens no connection."""
    connections: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(b"")
        while data := await reader.read(65536):
            connections[-1] += data
            if connections[-1].endswith(END_OF_MESSAGE):
                writer.write(_ANSWER)

    async with serving_raw(serve) as url, api.opened(url) as channel:
        with pytest.raises(NotStartedError):
            await channel.send(api.message, _refuse)
        await wait_for(lambda: len(connections) == 1, what="the connection")
        assert connections == [b""]
        await channel.send(api.message)
        assert [data.count(END_OF_MESSAGE) for data in connections] == [1]


async def test_start_is_asked_for_with_a_connection_open(api: Api) -> None:
    """The handshake is complete when the start is awaited, and no request has been sent."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        begun: list[tuple[int, int]] = []

        async def note() -> None:
            assert channel._connector is not None
            begun.append((channel._connector.in_use, len(provider.requests)))

        await channel.send(api.message, note)
        assert begun == [(1, 0)]
        assert len(provider.requests) == 1


async def test_connection_that_closes_while_the_start_is_awaited_costs_nothing(api: Api) -> None:
    """A server may close an idle connection at any time: another is opened, and the start is requested again."""
    writers: list[asyncio.StreamWriter] = []
    starts = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(_ANSWER)
        await reader.read()

    async with serving_raw(serve) as url, api.opened(url) as channel:

        async def wait_for_the_end() -> None:
            nonlocal starts
            starts += 1
            await wait_for(lambda: len(writers) == starts, what="the connection")
            if starts == 1:
                assert channel._connector is not None
                (protocol,) = channel._connector._acquired
                writers[0].close()
                await wait_for(lambda: not protocol.is_connected(), what="the connection to be closed")

        await channel.send(api.message, wait_for_the_end)
    assert (starts, len(writers)) == (2, 2)


async def test_connections_are_opened_ahead_and_used(api: Api) -> None:
    """The wanted number is opened without a request; two concurrent messages need no other connection."""
    connections: list[bytes] = []
    changed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(b"")
        mine = len(connections) - 1
        while data := await reader.read(65536):
            connections[mine] += data
            if connections[mine].endswith(END_OF_MESSAGE):
                writer.write(_ANSWER)

    async with serving_raw(serve) as url, api.opened(url) as channel:
        channel._changed = changed.set
        assert channel.capacity().starts == 0
        assert channel.capacity(2).connections == 0
        await wait_for(lambda: channel.capacity().starts == 2, what="two connections")
        assert changed.is_set()
        assert channel.capacity(2) == Capacity(2, connections=2, lasting=2)
        await wait_for(lambda: connections == [b"", b""], what="both to be seen")
        await asyncio.gather(channel.send(api.message), channel.send(api.message))
        assert channel.capacity() == Capacity(2, connections=2, lasting=2)
        assert [data.count(END_OF_MESSAGE) for data in connections] == [1, 1]
        assert channel.capacity(3).lasting == 0  # a third message would open a connection


async def test_server_that_cannot_be_reached_is_left_alone_without_a_job(api: Api) -> None:
    """Failures of connections opened ahead count for its breaker."""
    policy = BreakerPolicy(failures=1, open_s=60.0, probe_every_s=60.0)
    async with api.opened(f"http://127.0.0.1:{free_port()}", breaker=policy) as channel:
        assert channel.capacity(1) == Capacity(0, 0.25, 0)
        await wait_for(lambda: not channel.available(), what="the breaker to open")
        assert channel.capacity(1).connections == 0


async def test_second_answer_to_one_message_answers_no_other(api: Api) -> None:
    """A provider answers twice, then refuses: the refused message does not count as accepted."""
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 28\r\n\r\n" + b'{"error": {"code": 131026} }'
    again = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(END_OF_MESSAGE)
        writer.write(_ANSWER if connections == 1 else refusal)
        if connections == 1:
            await again.wait()
            writer.write(_ANSWER)
        await reader.read()

    async with serving_raw(serve) as url, api.opened(url) as channel:
        await channel.send(api.message)
        assert channel.capacity().starts == 1
        again.set()
        await wait_for(lambda: channel.capacity().starts == 0, what="the connection to be given up")
        with pytest.raises(PermanentError, match="131026"):
            await channel.send(api.message)
    assert connections == 2
