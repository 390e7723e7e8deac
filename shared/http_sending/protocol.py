"""Bounds on what a server may send: one answer to each request, after a few interim ones at most, and 1 MB in all.

aiohttp reads interim responses (1xx) in a loop that never yields while there are more, and parses whatever arrives at
once. A server that sends nothing else held up the whole process for half a minute. It also keeps responses that no
request asked for, and takes them for the answer to the next one: a message that is refused would count as accepted.
The extensions of chunks are part of no body: a server that sends nothing else is read at the speed of the network until
a time-out.
"""

from __future__ import annotations

from typing import Any

from aiohttp import ClientPayloadError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage

from shared.clock import SuspendAwareTimer
from shared.http_sending.answers import MAX_ANSWER_BYTES, read_beginning

MOST_INTERIM = 32
# many times what is read of a body; what follows in the socket's buffer counts too
MOST_BYTES = 1024 * 1024
_PIECE_BYTES = 8 * 1024


class BoundedHandler(ResponseHandler):
    """A connection's protocol; it cuts the connection off when the server exceeds the bounds."""

    _interim = 0
    _received = 0
    _answered = True
    _overdue: SuspendAwareTimer | None = None

    def set_response_params(self, **params: Any) -> None:
        """Expect the answer to a request."""
        self._interim, self._received, self._answered = 0, 0, False
        super().set_response_params(**params)

    def post(self, request: bytes, answer_s: float) -> None:
        """Write a whole request; `answer` returns what comes within that time, during which nothing is suspended."""
        # as aiohttp's client does: a body without a length ends with the connection
        self.set_response_params(read_until_eof=True)
        if self._overdue is None:
            self._overdue = SuspendAwareTimer(self._loop, self._on_read_timeout)
        self._overdue.start(answer_s)
        assert self.transport is not None  # noqa: S101 -- the caller has just checked
        self.transport.write(request)

    async def answer(self) -> tuple[RawResponseMessage, bytes]:
        """Return the answer to `post`, its body cut off after 64 KB; raises aiohttp's errors, TimeoutError too."""
        try:
            while True:
                message, content = await self.read()
                if message.code >= 200 or message.code == 101:
                    break
            if content.is_eof():
                return message, content.read_nowait(MAX_ANSWER_BYTES)
            return message, await read_beginning(content)
        except HttpProcessingError as error:
            raise ClientPayloadError(f"the answer cannot be read: {error.message}") from error
        finally:
            if self._overdue is not None:
                self._overdue.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; before the answer in small pieces, so that a flood is noticed early."""
        self._received += len(data)
        if self._received > MOST_BYTES:
            self._refuse("the answer is too long")
            return
        if self._answered:
            super().data_received(data)
            return
        for start in range(0, len(data), _PIECE_BYTES):
            if self.transport is None or self.transport.is_closing():
                return
            super().data_received(data[start : start + _PIECE_BYTES])

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
