"""What endpoints answer, however strange, and what becomes of a delivery."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from shared.errors import (
    DeferredError,
    SendError,
    ServerFailedError,
    StopChannelError,
    TransientError,
    UnavailableError,
)
from shared.sending.provider import Receipt
from tests.awake import awake
from tests.clocks import StandingClock
from tests.integration.webhook_sender.endpoints import (
    DELIVERY,
    NO_CONTENT,
    answer,
    endpoint,
    failure_at,
    opened,
    read_request,
    receiving,
)
from tests.raw_servers import serving_raw
from tests.servers import wait_for


async def receipt_of(*answers: bytes) -> Receipt:
    """Return the receipt of a delivery that is answered so."""
    async with receiving(*answers) as receiver, opened(receiver.url) as channel:
        return await channel.send(DELIVERY)


async def error_of(*answers: bytes) -> SendError:
    """Return the error of a delivery that is answered so."""
    async with receiving(*answers) as receiver:
        return await failure_at(receiver.url)


@pytest.mark.parametrize(
    ("raw", "response"),
    [
        (NO_CONTENT, "204 No Content"),
        (answer("200 OK"), "200 OK"),
        (answer("200 OK", b"thanks"), "200 OK: thanks"),
        (answer("202 Accepted", b'{"queued":true}'), '202 Accepted: {"queued":true}'),
        (answer("299 Weird", b"x"), "299 Weird: x"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", "200 OK: old"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nold", "200 OK: old"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200 OK: abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer("200 OK", b"x"), "200 OK: x"),
        (
            b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + NO_CONTENT,
            "204",
        ),
        (answer("200 OK", "grüße".encode("latin-1")), "200 OK: grüße"),
        (answer("200 OK", "日本語".encode("cp932")), "200 OK: 日本語"),
        (answer("200 OK", b"\x00\x01\x1b[31mred"), "200 OK: \ufffd\ufffd\ufffd[31mred"),
        (b"HTTP/1.1 200 D\xe9j\xe0 vu\r\nContent-Length: 0\r\n\r\n", "200 Déjà vu"),
        (answer("200 OK", gzip.compress(b"x", mtime=0), "Content-Encoding: gzip"), "200 OK: (21 bytes of gzip)"),
        (answer("200 OK", b"broken", "Content-Encoding: gzip"), "200 OK: (6 bytes of gzip)"),
        (answer("200 OK", b"x", "Set-Cookie: a=b; Path=/"), "200 OK: x"),
    ],
)
async def test_any_2xx_is_sent(raw: bytes, response: str) -> None:
    """Its status comes first in the response, which is legible whatever bytes it has."""
    closing = serving_once(raw)
    async with serving_raw(closing) as url, opened(url) as channel:
        receipt = await channel.send(DELIVERY)
    assert receipt.message_id == "evt_abc"
    assert receipt.response.startswith(response)
    if response != "204":
        assert receipt.response == response


def serving_once(raw: bytes):  # type: ignore[no-untyped-def]
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    return serve


@pytest.mark.parametrize(
    ("raw", "kind", "code"),
    [
        (answer("410 Gone"), StopChannelError, "410"),
        (answer("400 Bad Request"), TransientError, "400"),
        (answer("401 Unauthorized"), TransientError, "401"),
        (answer("403 Forbidden"), TransientError, "403"),
        (answer("404 Not Found"), TransientError, "404"),
        (answer("408 Request Timeout"), TransientError, "408"),
        (answer("413 Too Large"), TransientError, "413"),
        (answer("429 Too Many Requests"), TransientError, "429"),
        (answer("429 Too Many Requests", b"", "Retry-After: 0"), TransientError, "429"),
        (answer("429 Too Many Requests", b"", "Retry-After: soon"), TransientError, "429"),
        (answer("429 Too Many Requests", b"", "Retry-After: 30"), DeferredError, "429"),
        (answer("503 Unavailable", b"", "Retry-After: 30"), DeferredError, "503"),
        (answer("503 Unavailable"), ServerFailedError, "503"),
        (answer("500 Oops", b"", "Retry-After: 30"), ServerFailedError, "500"),
        (answer("502 Bad Gateway"), ServerFailedError, "502"),
        (answer("504 Gateway Timeout"), ServerFailedError, "504"),
        (answer("304 Not Modified"), TransientError, "304"),
        (answer("301 Moved"), TransientError, "301"),
        (answer("699 Who Knows"), TransientError, "699"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", TransientError, "101"),
    ],
)
async def test_other_status_has_its_outcome(raw: bytes, kind: type[SendError], code: str) -> None:
    """Only 410 stops; only a wait that was asked for defers; a server's failure may open the breaker."""
    error = await error_of(raw)
    assert (type(error), error.code) == (kind, code)
    assert error.message.startswith(f"the endpoint answered {code}")


async def test_wait_is_at_most_a_day() -> None:
    """Seconds or a date, in any sane form."""
    for text, wait_s in (("30", 30), ("999999", 86_400), ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400)):
        error = await error_of(answer("429 Slow Down", b"", f"Retry-After: {text}"))
        assert isinstance(error, DeferredError)
        assert error.wait_s == wait_s


async def test_endpoint_that_asks_to_wait_is_left_alone() -> None:
    """No other delivery is tried meanwhile, for at most a minute of what it asked: then one asks again."""
    clock = StandingClock()
    async with (
        receiving(answer("429 Slow Down", b"", "Retry-After: 3600"), NO_CONTENT) as receiver,
        opened(receiver.url, clock) as channel,
    ):
        assert channel.available()
        with pytest.raises(DeferredError):
            await channel.send(DELIVERY)
        assert not channel.available()
        with pytest.raises(UnavailableError, match="asked to wait") as caught:
            await channel.send(DELIVERY)
        assert caught.value.code == "wait"
        assert len(receiver.heard) == 1
        clock.now += 59.9
        assert not channel.available()
        clock.now += 0.2
        assert channel.available()
        await channel.send(DELIVERY)


async def test_five_failures_open_the_breaker() -> None:
    """The first cost an attempt each; from the fifth on no delivery loses one, and a probe finds the endpoint well."""
    clock = StandingClock()
    async with receiving(*[answer("500 Oops")] * 5, NO_CONTENT) as receiver, opened(receiver.url, clock) as channel:
        states = []
        for _ in range(5):
            with pytest.raises(ServerFailedError) as caught:
                await channel.send(DELIVERY)
            states.append((caught.value.in_a_row, caught.value.in_trouble))
        assert states == [(1, False), (2, False), (3, False), (4, False), (5, True)]
        with pytest.raises(UnavailableError, match="500 Oops"):
            await channel.send(DELIVERY)
        assert not channel.available()
        clock.now += 1.0
        assert channel.available()
        await channel.send(DELIVERY)
        await channel.send(DELIVERY)


async def test_refusals_leave_the_breaker_closed() -> None:
    """An endpoint that answers works, whatever it answers."""
    async with receiving(answer("404 Not Found"), answer("302 Found")) as receiver, opened(receiver.url) as channel:
        for _ in range(8):
            with pytest.raises(TransientError):
                await channel.send(DELIVERY)
        assert channel.available()


async def test_endless_answer_is_cut_and_counts() -> None:
    """After 64 KB the connection is closed; the status was all that mattered."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 1

    async with serving_raw(serve) as url, opened(url) as channel:
        receipt = await channel.send(DELIVERY)
        stopped_at = sent
        assert channel._link is not None
        assert channel._link.in_use == 0
    assert receipt.response.startswith("200 OK: xxxx")
    assert len(receipt.response) < 1100
    assert stopped_at * 65_536 < 32 * 1024 * 1024


async def test_compressed_bomb_is_not_inflated() -> None:
    """64 KB of gzip would be 64 MB; they are counted, not opened."""
    bomb = gzip.compress(b"\0" * 60_000_000, mtime=0)
    receipt = await receipt_of(answer("200 OK", bomb, "Content-Encoding: gzip"))
    assert receipt.response == f"200 OK: ({len(bomb):,} bytes of gzip)"


async def test_compressed_answer_is_not_asked_for() -> None:
    """Most servers then send none."""
    async with receiving() as receiver, opened(receiver.url) as channel:
        await channel.send(DELIVERY)
    headers = receiver.heard[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("Kurir")


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
    ],
)
async def test_answer_that_is_not_http_is_a_servers_failure(raw: bytes) -> None:
    """Also one with huge headers: none of it is quoted but what is wrong."""
    async with serving_raw(serving_once(raw)) as url:
        error = await failure_at(f"{url}/secret-path?token=hidden")
    assert type(error) is ServerFailedError
    assert error.code == "unreadable"
    assert "secret-path" not in error.message
    assert len(error.message) < 300


async def test_body_that_breaks_off_changes_nothing() -> None:
    """The status had come: an acceptance stays one, and a refusal has its words as far as they came."""
    cut = b"Content-Length: 500\r\n\r\nhalf"
    async with serving_raw(serving_once(b"HTTP/1.1 200 OK\r\n" + cut)) as url, opened(url) as channel:
        assert (await channel.send(DELIVERY)).response.startswith("200 OK")
    async with serving_raw(serving_once(b"HTTP/1.1 404 Not Found\r\n" + cut)) as url:
        assert (await failure_at(url)).code == "404"


@pytest.mark.parametrize("apart", [False, True])
async def test_second_answer_to_one_delivery_answers_no_other(apart: bool) -> None:
    """An endpoint answers twice, at once or a moment later, then refuses: the refusal is not taken for accepted."""
    again, connections = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(answer("500 Oops") if connections > 1 else NO_CONTENT if apart else NO_CONTENT * 2)
        if connections == 1:
            await again.wait()
            writer.write(NO_CONTENT)
        await reader.read()

    async with serving_raw(serve) as url, opened(url) as channel:
        await channel.send(DELIVERY)
        assert channel._link is not None
        connector = channel._link._connector
        again.set()
        await wait_for(lambda: connector.free == 0, what="the connection to be given up")
        with pytest.raises(ServerFailedError, match="500 Oops"):
            await channel.send(DELIVERY)
    assert connections == 2


@pytest.mark.timing
async def test_flood_of_interim_responses_is_cut_off() -> None:
    """aiohttp would read them without a pause: nothing else in the process ran for half a minute."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 4000)
            await writer.drain()

    async with serving_raw(serve) as url, awake() as spent:
        error = await failure_at(url)
    assert (type(error), error.code) == (ServerFailedError, "unreadable")
    assert "too many interim responses" in error.message
    assert spent.seconds < 2


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LINES = (b"X-Filler: " + b"a" * 4000 + b"\r\n") * 16
CHUNKS = (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 16


@pytest.mark.timing
@pytest.mark.parametrize(
    ("begins", "flood", "accepted"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n", LINES, False, id="headers"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n", LINES, True, id="trailers"),
        pytest.param(CHUNKED, CHUNKS, True, id="extensions of chunks"),
    ],
)
async def test_flood_outside_the_body_is_cut_off(begins: bytes, flood: bytes, accepted: bool) -> None:
    """It would be read at the speed of the network until the time-out, while every other endpoint waits."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(begins)
        while True:
            writer.write(flood)
            sent += len(flood)
            await writer.drain()

    async with serving_raw(serve) as url, opened(url) as channel, awake() as spent:
        if accepted:
            assert (await channel.send(DELIVERY)).response.startswith("200 OK")
        else:
            with pytest.raises(ServerFailedError):
                await channel.send(DELIVERY)
    assert spent.seconds < 5
    assert sent < 32 * 1024 * 1024


async def test_flood_on_an_idle_connection_is_cut_off() -> None:
    """Responses that nobody asked for are not kept until memory is full."""
    flooding = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(NO_CONTENT)
        await flooding.wait()
        while True:
            writer.write(NO_CONTENT * 4000)
            await writer.drain()

    async with serving_raw(serve) as url, opened(url) as channel:
        await channel.send(DELIVERY)
        assert channel._link is not None
        connector = channel._link._connector
        assert connector.free == 1
        flooding.set()
        await wait_for(lambda: connector.free == 0, what="the connection to be given up")


async def test_connection_is_reused() -> None:
    """Fifty deliveries in a row need one connection, refusals included."""
    answers = [answer("500 Oops", b"x" * 1000) if number % 10 == 5 else NO_CONTENT for number in range(50)]
    async with receiving(*answers) as receiver, opened(receiver.url) as channel:
        for raw in answers:
            if raw is NO_CONTENT:
                await channel.send(DELIVERY)
            else:
                with pytest.raises(ServerFailedError):
                    await channel.send(DELIVERY)
    assert (len(receiver.heard), receiver.connections) == (50, 1)


async def test_cookies_are_not_kept() -> None:
    """An endpoint cannot leave anything with us."""
    async with receiving(answer("200 OK", b"", "Set-Cookie: a=b")) as receiver, opened(receiver.url) as channel:
        await channel.send(DELIVERY)
        await channel.send(DELIVERY)
    assert "cookie" not in receiver.heard[1].headers


async def test_answer_that_quotes_the_url_or_the_secret_does_not_show_them() -> None:
    """A 404 page has the path, and a debugging one everything: none of it reaches the log."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    page = json.dumps(
        {
            "error": "Cannot POST /hooks/T0123456789/tokens%20and?key=very-secret&b=%C3%A9t%C3%A9",
            "decoded": "/hooks/T0123456789/tokens and",
            "query": {"key": "very-secret", "b": "été1"},
            "yours": secret,
            "key": secret.removeprefix("whsec_"),
        }
    )
    for status in ("404 Not Found", "500 very-secret", "200 OK"):
        async with receiving(answer(status, page.encode())) as receiver:
            url = receiver.url.removesuffix("/webhook")
            to = endpoint(f"{url}/hooks/T0123456789/tokens%20and?key=very-secret&b=%C3%A9t%C3%A91", secret)
            async with opened(to) as channel:
                try:
                    words = (await channel.send(DELIVERY)).response
                except SendError as error:
                    words = f"{error.message} {error.reply} {error.code}"
        assert "***" in words
        for hidden in ("T0123456789", "tokens", "very-secret", "MfKQ9r8G"):
            assert hidden not in words, (hidden, words)


async def test_redirects_words_name_its_host_alone() -> None:
    """Where it leads is what the operator needs; its path may have a token, and its text any bytes."""
    for location, words in (
        ("https://new.example.com/hooks/token", "https://new.example.com"),
        ("/other/token", "another path"),
        ("http://[::1", "no URL"),
        ("", "no other place"),
    ):
        message = (await error_of(answer("308 Permanent Redirect", b"", f"Location: {location}"))).message
        assert words in message
        assert "token" not in message
