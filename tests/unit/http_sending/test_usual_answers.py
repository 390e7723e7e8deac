"""Which answers are read by one expression, and that these mean what aiohttp's parser says they mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp import ClientPayloadError
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

from shared.http_sending.answers import Posted, read_usual

_HEAD = b"HTTP/1.1 200 OK\r\n"
_METAS = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nVary: Origin\r\nx-fb-rlafr: 0\r\n'
    b"Date: Sun, 29 Nov 2026 12:00:00 GMT\r\nAlt-Svc: h3=\":443\"; ma=86400\r\nConnection: keep-alive\r\n"
    b"Content-Length: 17\r\n\r\n"
    b'{"messages": [] }'
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "posted"),
    [
        (_METAS, Posted(200, b'{"messages": [] }')),
        (b"HTTP/1.1 201 \r\ncontent-length: 2\r\n\r\n{}", Posted(201, b"{}")),
        (_HEAD + b"Content-Length: 0\r\nETag:\r\n\r\n", Posted(200, b"")),
        (_HEAD + b"Content-Length: 4\r\n\r\n\r\n\r\n", Posted(200, b"\r\n\r\n")),
    ],
)
def test_a_whole_answer_with_a_length_is_usual(data: bytes, posted: Posted) -> None:
    """Its body is what follows the head."""
    assert read_usual(data) == posted


@pytest.mark.parametrize(
    "data",
    [
        *(_METAS[:length] for length in range(len(_METAS))),
        _METAS + b" ",
        _METAS + _METAS,
        b"HTTP/1.1 100 Continue\r\n\r\n" + _METAS,
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        _HEAD + b"\r\n",
        _HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Content-Length: 1\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Content-Length: +0\r\n\r\n",
        _HEAD + b"Content-Length : 0\r\n\r\n",
        _HEAD + b"X: y\r\n Content-Length: 9\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"X: y\x00\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"X: y\rz\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Connection: keep-alive, close\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Retry-After: 9\r\nContent-Length: 0\r\n\r\n",
        _HEAD + b"Location: /\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_all_else_is_left_to_the_parser(data: bytes) -> None:
    """A part of an answer, more than one, and every head that changes how its body or the connection ends."""
    assert read_usual(data) is None


_NAMES = [
    b"Content-Length", b"content-length", b"Content-Type", b"Connection", b"Transfer-Encoding", b"Content-Encoding",
    b"Retry-After", b"X-A", b"Keep-Alive", b"Trailer", b"Upgrade", b"", b"X ",
]  # fmt: skip
_VALUES = [
    b"0", b"2", b"3", b"4", b"02", b" 2", b"2 ", b"2, 2", b"keep-alive", b"close", b"chunked", b"gzip", b"", b"\xff",
    b"a\r\n b", b"a\nb", b"\x00", b"timeout=5, max=1",
]  # fmt: skip
_LINES = st.tuples(st.sampled_from(_NAMES), st.sampled_from([b": ", b":", b" : "]), st.sampled_from(_VALUES))
_STARTS = [_HEAD, b"HTTP/1.1 201 Created\r\n", b"HTTP/1.1 200\r\n", b"http/1.1 200 OK\r\n", b"HTTP/1.1 204 No\r\n"]
_BODIES = [b"{}", b"", b"{}\r\n", b"\r\n", b"{}" + _HEAD, b"2\r\n{}\r\n0\r\n\r\n"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@given(st.sampled_from(_STARTS), st.lists(_LINES, max_size=4), st.sampled_from(_BODIES))
def test_what_is_usual_means_the_same_to_the_parser(
    loop: asyncio.AbstractEventLoop, start: bytes, lines: list[tuple[bytes, bytes, bytes]], body: bytes
) -> None:
    """The same status and body, nothing after it, no wait that is asked for, and a connection that stays open."""
    fields = [b"".join(line) for line in lines]
    for length in (b"Content-Length: 2", b""):
        data = start + b"".join(field + b"\r\n" for field in [*fields, length] if field) + b"\r\n" + body
        posted = read_usual(data)
        if posted is None:
            continue
        parser = HttpResponseParser(
            BaseProtocol(loop), loop, 2**16, payload_exception=ClientPayloadError, read_until_eof=True
        )
        [(message, content)], upgraded, tail = parser.feed_data(data)
        assert (message.code, content.read_nowait(), content.is_eof()) == (posted.status, posted.raw, True)
        assert (upgraded, tail, message.should_close, message.chunked) == (False, b"", False, False)
        assert not {"Retry-After", "Location", "Content-Encoding"} & set(message.headers)
