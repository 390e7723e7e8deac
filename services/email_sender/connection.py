"""One connection to one SMTP server: connects, starts TLS, logs in, then runs one transaction after the other.

Refusals and lost connections are raised as the errors of `failures`. A loss after the final dot was written is an
`UncertainError`. RSET clears an unfinished transaction before the next one; after any other failure the connection is
closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from aiosmtplib import SMTPException, SMTPResponse, SMTPResponseException

from services.email_sender.envelope import Announced, Envelope
from services.email_sender.failures import (
    LOST,
    ConnectionLostError,
    OutOfStepError,
    RefusedError,
    code_of,
    not_accepted,
    reason_of,
)
from services.email_sender.login import Credentials, log_in
from services.email_sender.mime import PlainLines
from services.email_sender.protocol import ReplyQueueProtocol
from services.email_sender.replies import Stage
from services.email_sender.reply_reader import INVALID, read_extensions
from services.email_sender.settings import SmtpSettings
from shared.channels import SANDBOX_HOST
from shared.errors import SendError, UnavailableError, UncertainError
from shared.smtp.replies import Reply

# the most that is written to the transport's buffer in one go; longer messages are written piece by piece
PIECE_BYTES = 256 * 1024
QUIT_S = 0.5
_END = b".\r\n"


Following = Callable[[], Announced | None]
Accepted = Callable[[SMTPResponse], None]


class Connection:
    """A connection of the pool; `sent` counts accepted messages, `used_at` is on the loop's clock."""

    def __init__(self, credentials: Credentials, smtp: SmtpSettings, tls_context: ssl.SSLContext) -> None:
        self.server = credentials.server
        self._credentials = credentials
        self._smtp = smtp
        self._tls_context = tls_context
        self._protocol = ReplyQueueProtocol()
        self._unclean = False
        self.announced: Announced | None = None
        self.extensions: dict[str, str] = {}
        self.auth_methods: list[str] = []
        self.greeting = ""
        self.encryption = ""
        self.sent = 0
        self.begun = 0
        self.used_at = 0.0
        # kept: up to Python 3.11, `get_running_loop` makes a system call
        self._clock = asyncio.get_running_loop().time
        self._pipelines = False
        self._takes_sizes = False
        # whether the server takes 8-bit text (8BITMIME)
        self.eight_bit = False

    def offers(self, extension: str) -> bool:
        """Return whether the server offers an extension (lower case)."""
        return extension in self.extensions

    @property
    def usable(self) -> bool:
        """Whether another message may be sent over it."""
        most = self.server.max_messages
        return self._protocol.usable and not (most and self.begun >= most)

    def is_sound(self) -> bool:
        """Return whether it is still open and in step, even during a transaction."""
        return self._protocol.is_sound()

    @property
    def awaited(self) -> bool:
        """Whether the message announced on it can still be sent over it."""
        return self.announced is not None and self._protocol.is_sound()

    async def open(self) -> None:
        """Connect, greet, encrypt and log in; raises UnavailableError or StopChannelError."""
        try:
            await self._connect()
            await self._hello()
            if self.server.tls in {"required", "if-offered"}:
                await self._start_tls()
            if self.server.username:
                await self._log_in()
        except RefusedError as error:
            self.abort()
            raise error.classified() from error
        except SendError:
            self.abort()
            raise
        except (SMTPException, OSError) as error:
            self.abort()
            raise UnavailableError(f"{self.server.name}: {reason_of(error)}", code=code_of(error)) from error
        except BaseException:
            self.abort()
            raise
        self._pipelines = self._smtp.pipelining and self.offers("pipelining")
        self._takes_sizes, self.eight_bit = self.offers("size"), self.offers("8bitmime")
        self.used_at = self._clock()

    async def _connect(self) -> None:
        implicit = self.server.tls == "implicit"
        timeout_s = self._smtp.timeouts.connect_s
        protocol = self._protocol
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(
                lambda: protocol,
                self.server.host,
                self.server.port,
                ssl=self._tls_context if implicit else None,
                server_hostname=self.server.host if implicit else None,
            )
        if implicit:
            self._note_encryption()
        response = await protocol.read_response(timeout_s)
        if not _is_yes(response.code):
            raise RefusedError(Stage.GREETING, _reply(response))
        self.greeting = response.message.lstrip("\n").partition("\n")[0]
        if self._smtp.sandboxed and not self.greeting.startswith(SANDBOX_HOST):
            what = f"{self.server.name} is not Kurir's sandbox: remove email from KURIR_SANDBOXED"
            raise UnavailableError(what, code="sandbox")

    async def _hello(self) -> None:
        response = await self._command(b"EHLO " + self._smtp.helo.encode("ascii"))
        if _is_yes(response.code):
            self.extensions, self.auth_methods = read_extensions(response.message)
            return
        self.extensions, self.auth_methods = {}, []
        refusal = RefusedError(Stage.EHLO, _reply(response))
        if not 500 <= response.code <= 599 or self.server.username:
            raise refusal  # HELO offers no log-in, and this reply has the server's reason
        # an old server may not know EHLO; the code of its refusal varies
        try:
            response = await self._command(b"HELO " + self._smtp.helo.encode("ascii"))
        except LOST as error:
            raise refusal from error
        if not _is_yes(response.code):
            raise refusal

    async def _start_tls(self) -> None:
        if not self.offers("starttls"):
            if self.server.tls == "required":
                raise UnavailableError(f"{self.server.name} does not offer STARTTLS", code="tls")
            return
        try:
            await self._protocol.start_tls(self._tls_context, self.server.host, self._smtp.timeouts.connect_s)
        except SMTPResponseException as error:
            if error.code == INVALID:
                raise
            raise RefusedError(Stage.STARTTLS, Reply(error.code, error.message)) from error
        self._note_encryption()
        # RFC 3207 4.2: extensions offered before TLS no longer count
        await self._hello()

    def _note_encryption(self) -> None:
        transport = self._protocol.transport
        cipher = transport.get_extra_info("cipher") if transport else None
        self.encryption = f"{cipher[1]} {cipher[0]}" if cipher else ""

    async def _log_in(self) -> None:
        refusal = await log_in(self._command, self._credentials, self.auth_methods, encrypted=bool(self.encryption))
        if refusal is not None:
            raise RefusedError(Stage.AUTH, _reply(refusal))

    async def _command(self, line: bytes) -> SMTPResponse:
        return await self._protocol.execute_command(line, timeout=self._smtp.timeouts.command_s)

    async def clear(self) -> None:
        """Reset the session (RSET) if the last message was refused; raises ConnectionLostError."""
        if not self._unclean:
            return
        try:
            response = await self._command(b"RSET")
        except LOST as error:
            self.abort()
            raise ConnectionLostError("before the message was handed over", error) from error
        except BaseException:
            self.abort()
            raise
        if not _is_yes(response.code):
            self.abort()
            cause = SMTPResponseException(response.code, response.message)
            raise ConnectionLostError("before the message was handed over", cause)
        self._unclean = False

    async def send(
        self,
        envelope: Envelope,
        content: bytes,
        accepted: Accepted,
        following: Following | None,
    ) -> None:
        """Hand over one message (CRLF lines, dots not stuffed).

        `accepted` is called with the reply to its final dot as soon as the server accepts the message. If the server
        supports pipelining, `following` gives the message to announce with the end of this one. That message is then
        `announced`, and must be sent next. Raises RefusedError, ConnectionLostError or UncertainError.
        """
        self.begun += 1
        try:
            if self.announced is not None and self._protocol.take_ready():
                self.announced = None
            else:
                await self._announce(envelope, content)
            last = _stuffed(content)
            if len(last) > PIECE_BYTES:
                last = await self._write_all_but_end(last)
            self._write_end(last, following if len(content) <= PIECE_BYTES else None)
            try:
                response = await self._protocol.read_response(self._smtp.timeouts.data_s)
            except LOST as error:
                raise UncertainError(f"no reply after the message was sent: {reason_of(error)}", code="lost") from error
            if not _is_yes(response.code):
                raise not_accepted(_reply(response))  # noqa: TRY301 -- handled like those of the other stages
            accepted(response)
            self.sent += 1
        except RefusedError as error:
            error.recipient = envelope.recipient
            self._unclean = error.stage is not Stage.DOT
            if error.reply.code == 421:
                self.abort()
            raise
        except BaseException:
            self.abort()
            raise
        finally:
            self.used_at = self._clock()

    async def _announce(self, envelope: Envelope, content: bytes) -> None:
        """Announce the message, unless that was done ahead, and read the replies to it."""
        announced, self.announced = self.announced, None
        try:
            if announced is not None:
                await self._read_welcome()
            elif self._pipelines:
                self._protocol.write_ahead(self._commands(envelope, content), 3)
                await self._read_welcome()
            else:
                await self._announce_in_steps(self._commands(envelope, content))
        except LOST as error:
            raise ConnectionLostError("before the message was handed over", error) from error

    def _commands(self, envelope: Envelope, content: bytes) -> bytes:
        """Return MAIL, RCPT and DATA."""
        parameters = f" SIZE={len(content)}" if self._takes_sizes else ""
        if not content.isascii():
            parameters += " BODY=8BITMIME"
        if envelope.utf8:
            parameters += " SMTPUTF8"
        return f"MAIL FROM:<{envelope.sender}>{parameters}\r\nRCPT TO:<{envelope.recipient}>\r\nDATA\r\n".encode()

    async def _announce_in_steps(self, commands: bytes) -> None:
        """Send MAIL, RCPT and DATA, each after the reply to the one before."""
        lines = commands.splitlines(keepends=True)
        for stage, line in zip((Stage.MAIL, Stage.RCPT, Stage.DATA), lines, strict=True):
            self._protocol.write(line)
            response = await self._protocol.read_response(self._smtp.timeouts.command_s)
            if not _welcomes(stage, response):
                raise RefusedError(stage, _reply(response))

    async def _read_welcome(self) -> None:
        """Read the replies to MAIL, RCPT and DATA, which were written together, one for each command."""
        protocol, timeout_s = self._protocol, self._smtp.timeouts.command_s
        refusal: RefusedError | None = None
        response: SMTPResponse | None = None
        for stage in (Stage.MAIL, Stage.RCPT, Stage.DATA):
            try:
                response = await protocol.read_response(timeout_s)
            except LOST as error:
                if refusal is None:
                    raise
                # a server that refuses and hangs up has still refused
                self.abort()
                raise refusal from error
            if refusal is None and not _welcomes(stage, response):
                refusal = RefusedError(stage, _reply(response))
        if refusal is None:
            return
        if response is not None and response.code == 354:
            await self._end_empty(refusal)
        raise refusal

    async def _end_empty(self, refusal: RefusedError) -> None:
        """End an empty message with a dot after a refused RCPT and a 354: it has no recipient."""
        if refusal.stage is not Stage.RCPT:
            # the server refused the sender but accepted the recipient, who must not get an empty message
            self.abort()
            return
        try:
            self._protocol.write(b".\r\n")
            await self._protocol.read_response(self._smtp.timeouts.command_s)
        except LOST:
            self.abort()

    async def _write_all_but_end(self, stuffed: bytes) -> bytes:
        """Write all but the last piece; return that piece. A server may refuse the message before it has all of it."""
        start = 0
        try:
            async with asyncio.timeout(self._smtp.timeouts.data_s):
                while len(stuffed) - start > PIECE_BYTES:
                    self._protocol.write_ahead(stuffed[start : start + PIECE_BYTES], 0)
                    await self._protocol.drain()
                    self._heed_early_refusal()
                    start += PIECE_BYTES
        except LOST as error:
            self._heed_early_refusal()
            raise ConnectionLostError("before the message was handed over", error) from error
        return stuffed[start:]

    def _heed_early_refusal(self) -> None:
        """Raise the server's refusal of a message whose end was not written; it may wait for that, or hang up."""
        early = self._protocol.unsolicited
        if early is not None and early.code >= 400:
            self.abort()
            raise RefusedError(Stage.DOT, _reply(early))

    def _write_end(self, last: bytes, following: Following | None) -> None:
        """Write the end of the message together with the commands of the next, as RFC 2920, 3.1 allows.

        If the connection is lost after that, the outcome is uncertain.
        """
        most = self.server.max_messages
        takes_more = self._pipelines and not (most and self.begun >= most)
        ahead = following() if following is not None and takes_more else None
        try:
            if ahead is None:
                self._protocol.write_ahead(last + _END, 1)
                return
            commands = self._commands(ahead.envelope, ahead.content)
            self._protocol.write_ahead(b"".join((last, _END, commands)), 4)
        except LOST as error:
            raise ConnectionLostError("before the message was handed over", error) from error
        self.announced = ahead

    def quit(self) -> None:
        """Send QUIT and close, without waiting for the reply."""
        try:
            if self._protocol.usable:
                self._protocol.write_ahead(b"QUIT\r\n", 1)
        except LOST:
            pass  # it was closed already
        if self._protocol.transport is not None:
            self._protocol.transport.close()

    async def close(self) -> None:
        """Send QUIT and wait briefly until the connection is closed."""
        self.quit()
        if self._protocol.transport is None:
            return
        await asyncio.wait({self._protocol.closed}, timeout=QUIT_S)
        self.abort()
        await asyncio.sleep(0)

    def abort(self) -> None:
        """Close immediately, even during a transaction."""
        if self._protocol.transport is not None:
            cast("asyncio.WriteTransport", self._protocol.transport).abort()


def _stuffed(content: bytes) -> bytes:
    """Return a message as it follows DATA, without the dot that ends it: dots stuffed (RFC 5321, 4.5.2)."""
    return content if isinstance(content, PlainLines) else content.replace(b"\r\n.", b"\r\n..")


def _reply(response: SMTPResponse) -> Reply:
    return Reply(response.code, response.message)


def _is_yes(code: int) -> bool:
    """Accept any 2xx: RFC 5321, 4.3.2 names one code for most commands, but servers use others of the class."""
    return 200 <= code < 300


def _welcomes(stage: Stage, response: SMTPResponse) -> bool:
    """Return whether a command was accepted; raises ConnectionLostError if replies no longer match the commands."""
    if stage is not Stage.DATA:
        return _is_yes(response.code)
    if _is_yes(response.code):
        # the server has sent an extra reply, so this one answers an earlier command
        raise ConnectionLostError("before the message was handed over", OutOfStepError(_reply(response)))
    return response.code == 354
