"""Messages posted one after the other by one call, to providers that answer in every way HTTP knows, or break off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from services.whatsapp_sender.channel import WhatsAppChannel
from services.whatsapp_sender.payload import WhatsAppMessage
from shared.errors import PermanentError, SendError, TransientError, UncertainError
from shared.sending.provider import NotStartedError, Receipt, Start, at_once
from tests.clocks import StandingClock
from tests.integration.whatsapp_sender.providers import END_OF_MESSAGE, Api
from tests.raw_servers import serving_raw
from tests.servers import wait_for

Answering = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]
"""Answers a message with the given body, that of an acceptance."""


async def usually(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def in_pieces(writer: asyncio.StreamWriter, body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    for start in range(0, len(answer), 7):
        writer.write(answer[start : start + 7])
        for _ in range(3):  # the channel, which is in this loop too, reads it
            await asyncio.sleep(0)


async def with_its_head_first(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    for _ in range(3):
        await asyncio.sleep(0)
    writer.write(body)


async def in_chunks(writer: asyncio.StreamWriter, body: bytes) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")


async def after_a_100(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await usually(writer, body)


async def after_a_100_of_its_own(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    await usually(writer, body)


async def unusually(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length:%d\r\nTrailer: X\r\n\r\n%b" % (len(body), body))


async def twice_at_once(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) * 2)


async def saying_goodbye(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    writer.close()


async def until_the_end(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    writer.close()


async def never(writer: asyncio.StreamWriter, _body: bytes) -> None:
    del writer


async def by_closing(writer: asyncio.StreamWriter, _body: bytes) -> None:
    writer.close()


async def by_half(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:9]))
    writer.close()


async def with_half_a_head(writer: asyncio.StreamWriter, _body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    writer.close()


def refusing(status: bytes, more: bytes = b"") -> Answering:
    async def refuse(writer: asyncio.StreamWriter, _body: bytes) -> None:
        body = b'{"error": {"code": 131026} }' if status.startswith(b"4") else b"<html></html>"
        writer.write(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, more, len(body), body))

    return refuse


@dataclass
class Wire:
    """A provider that accepts its n-th message with the id `wamid.n`; `answering` has how, usually if not named.

    `requests` has the number of the connection of each message.
    """

    answering: dict[int, Answering] = field(default_factory=dict)
    requests: list[int] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        connection = len(self.writers)
        while not writer.is_closing():
            await reader.readuntil(END_OF_MESSAGE)
            number = len(self.requests)
            self.requests.append(connection)
            await self.answering.get(number, usually)(writer, b'{"messages":[{"id":"wamid.%d"}]}' % number)
            await writer.drain()


@dataclass
class Sending:
    """Sends messages one after the other as a worker does; `ended` has the outcome of each, `calls` the calls.

    `starts` are the starts of messages other than the first, by their number.
    """

    channel: WhatsAppChannel
    message: WhatsAppMessage
    starts: dict[int, Start] = field(default_factory=dict)
    ended: list[str | SendError | NotStartedError] = field(default_factory=list)
    calls: int = 0
    _left: int = 0

    async def run(self, count: int) -> None:
        self._left = count
        while self._left:
            self._left -= 1
            self.calls += 1
            try:
                receipt = await self.channel.send_chained(self.message, self._following, at_once, self._proceed)
                self.ended.append(receipt.message_id)
            except (SendError, NotStartedError) as error:
                self.ended.append(error)

    def _following(self) -> WhatsAppMessage | None:
        return self.message if self._left else None

    def _proceed(self, receipt: Receipt) -> Start | None:
        self.ended.append(receipt.message_id)
        self._left -= 1
        return self.starts.get(len(self.ended), at_once)


def accepted(*numbers: int) -> list[str]:
    return [f"wamid.{number}" for number in numbers]


async def test_one_call_posts_all_messages_over_one_connection(api: Api) -> None:
    """Each acceptance is the one of its message, and the call ends when nothing follows."""
    wire = Wire()
    async with serving_raw(wire.serve) as url, api.opened(url) as channel:
        sending = Sending(channel, api.message)
        await sending.run(20)
        assert channel.capacity().starts == 1
    assert sending.ended == accepted(*range(20))
    assert (sending.calls, wire.requests) == (1, [1] * 20)


@pytest.mark.parametrize(
    "answering",
    [in_pieces, with_its_head_first, in_chunks, after_a_100, after_a_100_of_its_own, unusually],
    ids=lambda one: one.__name__,
)
async def test_an_unusual_answer_costs_neither_the_connection_nor_the_call(api: Api, answering: Answering) -> None:
    """It is read by aiohttp's parser, and the next one by the expression again."""
    wire = Wire({1: answering, 2: answering, 4: answering})
    async with serving_raw(wire.serve) as url, api.opened(url) as channel:
        sending = Sending(channel, api.message)
        await sending.run(6)
    assert sending.ended == accepted(*range(6))
    assert (sending.calls, wire.requests) == (1, [1] * 6)


@pytest.mark.parametrize("answering", [saying_goodbye, until_the_end, twice_at_once], ids=lambda one: one.__name__)
async def test_a_connection_that_ends_with_an_answer_costs_no_message(api: Api, answering: Answering) -> None:
    """The acceptance counts, and what follows is posted over another connection, by the same call."""
    wire = Wire({1: answering, 3: answering})
    async with serving_raw(wire.serve) as url, api.opened(url) as channel:
        sending = Sending(channel, api.message)
        await sending.run(6)
        assert channel.capacity().connections == 1
    assert sending.ended == accepted(*range(6))
    assert (sending.calls, wire.requests) == (1, [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("unasked", [b"", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"])
async def test_what_comes_between_two_messages_answers_neither(api: Api, unasked: bytes) -> None:
    """The server closes the connection, or sends something, while the start is awaited: another one is opened."""
    wire = Wire({0: in_chunks, 2: usually})

    async with serving_raw(wire.serve) as url, api.opened(url) as channel:

        async def start() -> None:
            assert channel._connector is not None
            if len(sending.ended) < len(wire.writers):
                return  # asked for again, with the other connection
            (protocol,) = channel._connector._acquired
            writer = wire.writers[-1]
            writer.write(unasked)
            if not unasked:
                writer.close()
            await wait_for(lambda: not protocol.is_connected(), what="the connection to be given up")

        sending = Sending(channel, api.message, {1: start, 2: start})
        await sending.run(4)
    assert sending.ended == accepted(*range(4))
    assert (sending.calls, wire.requests) == (1, [1, 2, 3, 3])


async def test_what_comes_before_the_first_message_answers_none(api: Api) -> None:
    """Nothing is posted to a server that answers before it was asked, and nothing counts as handed over."""
    wire = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await usually(writer, b'{"messages":[{"id":"wamid.0"}]}')
        await wire.serve(reader, writer)

    async with serving_raw(serve) as url, api.opened(url) as channel:

        async def start() -> None:
            assert channel._connector is not None
            (protocol,) = channel._connector._acquired
            await wait_for(lambda: protocol.should_close, what="the answer")

        with pytest.raises(TransientError, match="before the request"):
            await channel.send(api.message, start)
    assert wire.requests == []


@pytest.mark.parametrize("answering", [by_closing, by_half, with_half_a_head, never], ids=lambda one: one.__name__)
async def test_a_message_without_an_answer_is_uncertain_and_harms_no_other(api: Api, answering: Answering) -> None:
    """It alone: those before it were accepted, it is not posted again, and what follows has another connection."""
    wire = Wire({2: answering})
    async with serving_raw(wire.serve) as url, api.opened(url, answer_s=0.5) as channel:
        sending = Sending(channel, api.message)
        await sending.run(5)
    assert [*sending.ended[:2], *sending.ended[3:]] == accepted(0, 1, 3, 4)
    assert isinstance(sending.ended[2], UncertainError)
    assert (sending.calls, wire.requests) == (2, [1, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("answering", "kind"),
    [
        (refusing(b"400 Bad Request"), PermanentError),
        (refusing(b"503 Service Unavailable"), TransientError),
        (refusing(b"200 OK"), UncertainError),
    ],
    ids=["refused", "failed", "unreadable"],
)
async def test_a_refusal_ends_the_call_and_keeps_the_connection(
    api: Api, answering: Answering, kind: type[SendError]
) -> None:
    """It is about the message whose turn it was."""
    wire = Wire({2: answering})
    async with serving_raw(wire.serve) as url, api.opened(url) as channel:
        sending = Sending(channel, api.message)
        await sending.run(5)
    assert [*sending.ended[:2], *sending.ended[3:]] == accepted(0, 1, 3, 4)
    assert isinstance(sending.ended[2], kind)
    assert (sending.calls, wire.requests) == (2, [1] * 5)


async def test_a_start_that_is_refused_between_two_messages_keeps_the_connection(api: Api) -> None:
    """Nothing of that message was sent."""

    async def refuse() -> None:
        raise NotStartedError("too late")

    wire = Wire()
    async with serving_raw(wire.serve) as url, api.opened(url) as channel:
        sending = Sending(channel, api.message, {2: refuse})
        await sending.run(5)
    assert [*sending.ended[:2], *sending.ended[3:]] == accepted(0, 1, 2, 3)
    assert isinstance(sending.ended[2], NotStartedError)
    assert (sending.calls, wire.requests) == (2, [1] * 4)


async def test_a_probe_is_one_message(api: Api) -> None:
    """While the breaker is open, the call ends with the probe's answer; the next one continues as usual."""
    wire, clock = Wire(dict.fromkeys(range(5), refusing(b"503 Service Unavailable"))), StandingClock()
    async with serving_raw(wire.serve) as url, api.opened(url, clock) as channel:
        sending = Sending(channel, api.message)
        await sending.run(5)
        assert not channel.available()
        clock.now += 1.0
        assert channel.available()
        sending.calls = 0
        await sending.run(4)
    assert sending.ended[5:] == accepted(5, 6, 7, 8)
    assert sending.calls == 2


async def test_cut_off_in_mid_send_ends_the_connection(api: Api) -> None:
    """A later answer to a message that was cancelled answers no other."""
    wire = Wire({1: never})
    async with serving_raw(wire.serve) as url, api.opened(url) as channel:
        sending = Sending(channel, api.message)
        task = asyncio.create_task(sending.run(3))
        await wait_for(lambda: len(wire.requests) == 2, what="the message that is not answered")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert channel.capacity().connections == 0
        await usually(wire.writers[0], b'{"messages":[{"id":"wamid.1"}]}')
        assert (await channel.send(api.message)).message_id == "wamid.2"
    assert (sending.ended, wire.requests) == (accepted(0), [1, 1, 2])
