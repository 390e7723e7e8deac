"""The SMTP protocol: aiosmtplib's, with a queue of replies instead of a single slot, and a more lenient reader.

aiosmtplib drops replies to commands that were written ahead. Here each write states how many replies it expects, and
each reply is kept until it is read. An unexpected reply (the server's goodbye, or an injected line) is kept apart, so
that it is never taken for the reply to a later command.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from aiosmtplib import SMTPReadTimeoutError, SMTPResponse, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.protocol import SMTPProtocol

from services.email_sender.reply_reader import INVALID, ReplyReader
from shared.clock import SuspendAwareTimer


class ReplyQueueProtocol(SMTPProtocol):
    """A connection whose commands may be written ahead of their replies (RFC 2920)."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(loop=loop)
        self._reader = ReplyReader()
        self._owed = 0
        self._arrived: deque[SMTPResponse] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer = SuspendAwareTimer(self._loop, self._time_out)
        self._broken: Exception | None = None
        self.unsolicited: SMTPResponse | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def is_sound(self) -> bool:
        """Return whether the expected replies may still arrive: connected, and no unexpected reply so far."""
        transport = self.transport
        connected = transport is not None and not transport.is_closing()
        return connected and self._broken is None and self.unsolicited is None

    @property
    def usable(self) -> bool:
        """Whether a transaction may begin: sound, and no reply expected."""
        return not self._owed and not self._arrived and self.is_sound()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the greeting."""
        super().connection_made(transport)
        self._owed = 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the waiting reader; replies that arrived before can still be read."""
        super().connection_lost(exc)
        self._timer.cancel()
        error = SMTPServerDisconnected("the connection was lost")
        error.__cause__ = exc
        self._break(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def eof_received(self) -> bool:
        """Treat the server's end of file as the end of the connection."""
        self._break(SMTPServerDisconnected("the server closed the connection"))
        return False

    def data_received(self, data: bytes) -> None:
        """Keep every complete reply; anything else breaks the connection."""
        arrived = self._arrived
        owed = self._owed + len(arrived)
        try:
            self._reader.feed(data, arrived)
        except SMTPResponseException as error:
            self._broken = self._broken or error
        if len(arrived) > owed:
            self.unsolicited = self.unsolicited or arrived[owed]
            while len(arrived) > owed:
                arrived.pop()
        self._owed = owed - len(arrived)
        self._wake()

    def _break(self, error: Exception) -> None:
        if self._broken is None:
            self._broken = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def write(self, data: bytes) -> None:
        """Write a command that expects one reply; aiosmtplib's own methods call this."""
        self.write_ahead(data, 1)

    def write_ahead(self, data: bytes, replies: int) -> None:
        """Write commands, or a part of a message, that expect this number of replies."""
        transport = self.transport
        if self._broken is not None or transport is None or transport.is_closing():
            raise SMTPServerDisconnected("the connection was lost") from self._broken
        self._owed += replies
        transport.write(data)  # type: ignore[attr-defined]  # aiosmtplib's type is that of any transport

    async def drain(self) -> None:
        """Wait until the transport accepts more data."""
        await self._drain_helper()

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109 -- aiosmtplib's signature
        """Return the next reply, in the order of the commands; raises the error that broke the connection.

        The time-out is that of the whole reply, however slowly its bytes arrive.
        """
        if not self._arrived:
            if timeout is not None:
                self._timer.start(timeout)
            try:
                while not self._arrived:
                    if self._broken is not None:
                        raise self._broken
                    self._waiter = self._loop.create_future()
                    await self._waiter
            finally:
                self._waiter = None
                self._timer.stop()
        return self._arrived.popleft()

    def take_ready(self) -> bool:
        """Take the replies to MAIL, RCPT and DATA if all three have arrived and accept; take none otherwise."""
        arrived = self._arrived
        if len(arrived) < 3 or arrived[0].code != 250 or arrived[1].code != 250 or arrived[2].code != 354:
            return False
        arrived.popleft()
        arrived.popleft()
        arrived.popleft()
        return True

    def _time_out(self) -> None:
        # not an exception of the waiter: a piece of the reply may have ended that wait in the same step of the loop
        self._break(SMTPReadTimeoutError("no reply in time"))

    async def start_tls(
        self,
        tls_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- aiosmtplib's signature
    ) -> SMTPResponse:
        """Start TLS; unencrypted data after the reply breaks the connection (RFC 3207)."""
        response = await super().start_tls(tls_context, server_hostname, timeout)
        if self.unsolicited is not None or self._reader.midway:
            raise SMTPResponseException(INVALID, "data was injected before TLS began")
        return response
