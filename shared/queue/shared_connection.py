"""One connection for the calls of scripts: packed and read in C, with any number of them under way at once.

The driver spends more time on a call than Redis does: it takes a connection from the pool and gives it back, and passes
the command and the reply through several coroutines. Here a call is one write, and the protocol hands its reply to the
waiting caller. Redis answers the calls of a connection in their order.

The driver still opens the connection: addresses, Sentinel, TLS and the log-in are its own. Errors are the driver's,
with the same meaning: a call whose reply did not arrive may have been run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.clock import SuspendAwareTimer
from shared.lifecycle import end_tasks

# beyond this a call would wait for the large ones before it
_MOST_UNANSWERED_BYTES = 256 * 1024
_MORE = object()
_CLOSED = "the server closed the connection"
_CLIENT_CLOSED = "the client was closed"


class SharedConnection:
    """The calls of scripts on one server; it opens a connection with the first one, and another if that is lost."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        self._pool = pool
        self._timeout_s = float(pool.connection_kwargs["socket_timeout"])
        self._opening: asyncio.Task[_Wire] | None = None
        self._wire: _Wire | None = None
        self._closed = False

    @property
    def is_jammed(self) -> bool:
        """Whether so much is under way that a call should use another connection."""
        return self._wire is not None and self._wire.unanswered_bytes > _MOST_UNANSWERED_BYTES

    async def call(self, command: Sequence[Any]) -> Any:
        """Send a command and return the reply; raises the driver's errors."""
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._opened()
        return await wire.send(hiredis.pack_command(tuple(command)))

    async def _opened(self) -> _Wire:
        """Return an open connection; all who wait for one share the attempt and its error."""
        if self._closed:
            raise RedisConnectionError(_CLIENT_CLOSED)
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._has_opened)
        # shielded: others wait for it
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Wire:
        pool: Any = self._pool
        connection = pool.make_connection()
        try:
            await connection.connect()
            await _check_unread(connection)
            self._wire = _Wire(connection, self._timeout_s)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if self._closed:  # it was cancelled, those who wait for it were not
                raise RedisConnectionError(_CLIENT_CLOSED) from error
            raise
        return self._wire

    def _has_opened(self, task: asyncio.Task[_Wire]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # raised to those who wait, if any

    async def aclose(self) -> None:
        """Close the connection for good; calls under way fail."""
        self._closed = True
        if self._opening is not None:
            await end_tasks([self._opening])
        if self._wire is not None:
            self._wire.lose(RedisConnectionError(_CLIENT_CLOSED))


class _Wire(asyncio.Protocol):
    """An open connection that was taken over from the driver; a call that times out, as in the driver, ends it."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self.lost = False
        self.unanswered_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._timer = SuspendAwareTimer(self._loop, self._overdue)
        self._timing = False
        # each call's reply to come, when it is due, and the call's bytes
        self._waiting: deque[tuple[asyncio.Future[Any], float, int]] = deque()
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_MORE
        )
        # kept, because a stream that nothing refers to closes its transport
        self._stream = _stream_of(connection)
        self._transport = cast("asyncio.Transport", self._stream.transport)
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.lost = True
            raise RedisConnectionError(_CLOSED)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a packed command; return its reply, or the driver's error, to come."""
        if self.lost:
            raise RedisConnectionError(_CLOSED)
        future = self._loop.create_future()
        try:
            self._waiting.append((future, self._loop.time() + self._timeout_s, len(packed)))
            self.unanswered_bytes += len(packed)
            self._transport.write(packed)
            if not self._timing:
                self._timing = True
                self._timer.start(self._timeout_s)
        except BaseException as error:
            # nothing, or a part of it, may have been written: replies could no longer be assigned to their calls
            self.lose(RedisConnectionError(f"{type(error).__name__}: {error}"))
            if future.done():
                future.exception()  # retrieved: the caller gets the error itself
            raise
        return future

    def data_received(self, data: bytes) -> None:
        """Hand each reply to its caller."""
        self._reader.feed(data)
        try:
            while not self.lost and (reply := self._reader.gets()) is not _MORE:
                if not isinstance(reply, hiredis.PushNotification):  # RESP3: it answers no call
                    self._take(reply)
        except Exception as error:
            self.lose(RedisConnectionError(f"{type(error).__name__}: {error}"))

    def _take(self, reply: Any) -> None:
        if not self._waiting:
            raise InvalidResponse("a reply without a call")
        future, _, size = self._waiting.popleft()
        self.unanswered_bytes -= size
        if not isinstance(reply, Exception):
            if not future.done():  # its caller may have been cancelled
                future.set_result(reply)
            return
        if not future.done():
            future.set_exception(reply)
        if isinstance(reply, RedisConnectionError | ReadOnlyError):
            # loading, or a master that has become a replica: the next one looks for the master
            self.lose(RedisConnectionError(f"the connection was given up after: {reply}"))

    def eof_received(self) -> None:
        """Fail the calls under way: a transport with bytes to send would first wait for the server to take them."""
        self.lose(RedisConnectionError(_CLOSED))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the calls under way: they may have been run."""
        words = f"{type(error).__name__}: {error}" if error else _CLOSED
        self.lose(RedisConnectionError(words))

    def _overdue(self) -> None:
        self._timing = False
        if not self._waiting:
            return
        left_s = self._waiting[0][1] - self._loop.time()
        if left_s > 0:
            self._timing = True
            self._timer.start(left_s)
        else:
            self.lose(RedisTimeoutError(f"no reply within {self._timeout_s:g} s"))

    def lose(self, error: Exception) -> None:
        """Give up the connection."""
        self.lost = True
        self._timer.cancel()
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        self.unanswered_bytes = 0
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(error)


async def _check_unread(connection: Any) -> None:
    """Raise the driver's ConnectionError if it has read more than its own replies: here that would be missed."""
    if await connection.can_read():
        raise RedisConnectionError("the connection is closed or has an unasked reply")


def _stream_of(connection: Any) -> asyncio.StreamWriter:
    """Take an open connection's stream from the driver, which would close it together with the connection."""
    stream: asyncio.StreamWriter = connection._writer  # noqa: SLF001 -- the driver has no public way
    connection._reader = connection._writer = None  # noqa: SLF001
    return stream
