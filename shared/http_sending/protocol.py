"""Bounds on what a server may send: one answer to each request, after a few interim ones at most, and 1 MB in all.

aiohttp reads interim responses (1xx) in a loop that never yields while there are more, and parses whatever arrives at
once. A server that sends nothing else held up the whole process for half a minute. It also keeps responses that no
request asked for, and takes them for the answer to the next one: a message that is refused would count as accepted.
The extensions of chunks are part of no body: a server that sends nothing else is read at the speed of the network until
a time-out. And it loses an answer that arrives in one piece with bytes that belong to none, as the body of a 204.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from aiohttp import ClientPayloadError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage

from shared.clock import SuspendAwareTimer
from shared.http_sending.answers import MAX_ANSWER_BYTES, Posted, read_arrived, read_usual

MOST_INTERIM = 32
# many times what is read of a body; what follows in the socket's buffer counts too
MOST_BYTES = 1024 * 1024
_PIECE_BYTES = 8 * 1024
_HEAD_END = re.compile(rb"\r?\n\r?\n")
# Linux has it
_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)


class BoundedHandler(ResponseHandler):
    """A connection's protocol; it cuts the connection off when the server exceeds the bounds.

    What comes first after the request of `ask` is read here if it is a whole and usual answer; then `_rests`, and
    nothing may come before the next request. All else is given to aiohttp's parser.
    """

    _interim = 0
    _received = 0
    _answered = True
    _rests = False
    _awaited: asyncio.Future[Posted | None] | None = None
    _overdue: SuspendAwareTimer | None = None
    _hang_up: select.poll | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        super().connection_made(transport)
        if _POLLRDHUP:
            self._hang_up = select.poll()
            self._hang_up.register(transport.get_extra_info("socket").fileno(), _POLLRDHUP)

    def is_still_open(self) -> bool:
        """Return whether another request may be sent on it.

        A server that closes it after an answer has often done so by now, and the loop has not read that yet.
        """
        return self.is_connected() and not (self._hang_up is not None and self._hang_up.poll(0))

    def set_response_params(self, **params: Any) -> None:
        """Expect the answer to a request."""
        self._interim, self._received, self._answered, self._rests = 0, 0, False, False
        super().set_response_params(**params)

    async def ask(self, request: bytes, answer_s: float) -> Posted:
        """Write a whole request and return the answer, its body cut off after 64 KB or as far as it arrived.

        Raises aiohttp's errors unless the head of an answer has arrived, also TimeoutError: time in which this process
        is suspended is no part of `answer_s`.
        """
        self._interim, self._received, self._answered, self._rests = 0, 0, False, False
        self._awaited = self._loop.create_future()
        if self._overdue is None:
            self._overdue = SuspendAwareTimer(self._loop, self._on_read_timeout)
        self._overdue.start(answer_s)
        assert self.transport is not None  # noqa: S101 -- the caller has just checked
        try:
            self.transport.write(request)
            posted = await self._awaited
            return posted if posted is not None else await self._parsed_answer()
        finally:
            self._awaited = None
            self._overdue.stop()

    async def _parsed_answer(self) -> Posted:
        try:
            while True:
                message, content = await self.read()
                if message.code >= 200 or message.code == 101:
                    break
        except HttpProcessingError as error:
            raise ClientPayloadError(f"the answer cannot be read: {error.message}") from error
        raw, broken = (content.read_nowait(MAX_ANSWER_BYTES), "") if content.is_eof() else await read_arrived(content)
        if broken:
            self.force_close()
        retry_after, location = (message.headers.get(name, "") for name in ("Retry-After", "Location"))
        return Posted(message.code, raw, retry_after, location, broken)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; before the answer in small pieces, so that a flood is noticed early."""
        if not data:  # aiohttp asks for what its parser has left
            super().data_received(data)
            return
        if self._rests:
            self._cut_off()  # no request asked for this
            return
        if self._awaited is not None and not self._awaited.done():
            posted = read_usual(data) if len(data) <= _PIECE_BYTES else None
            if posted is not None:
                self._answered = self._rests = True
                self._awaited.set_result(posted)
                return
            # as aiohttp's client does: a body without a length ends with the connection
            super().set_response_params(read_until_eof=True)
            self._awaited.set_result(None)
        self._received += len(data)
        if self._received > MOST_BYTES:
            self._refuse("the answer is too long")
            return
        if self._answered:
            super().data_received(data)
            return
        for piece in _pieces(data):
            if self.transport is None or self.transport.is_closing():
                return
            super().data_received(piece)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Let `answer` raise an error, of the connection or of what it sent."""
        super().set_exception(exc, *cause)
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not (body.is_eof() or body.exception()):
            # aiohttp would let the reader of the body wait for its time-out
            body.set_exception(ClientPayloadError(f"the answer cannot be read: {exc.message}"))
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection is gone."""
        if self._overdue is not None:
            self._overdue.cancel()
        super().connection_lost(exc)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take one response."""
        if self._answered:
            self._cut_off()  # no request asked for this one
            return
        if data[0].code >= 200 or data[0].code == 101:
            self._answered = True
        else:
            self._interim += 1
            if self._interim > MOST_INTERIM:
                self._refuse("too many interim responses")
                return
        super().feed_data(data, size)

    def _refuse(self, words: str) -> None:
        self.set_exception(HttpProcessingError(message=words))
        self._cut_off()

    def _cut_off(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.abort()


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield data in small pieces, and what follows the first heads of answers apart from them."""
    heads = (found.end() for found in islice(_HEAD_END.finditer(data), MOST_INTERIM + 1))
    ends = sorted({*range(0, len(data), _PIECE_BYTES), *heads, len(data)})
    return (data[start:end] for start, end in pairwise(ends))
