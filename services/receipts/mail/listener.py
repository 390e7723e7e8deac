"""The SMTP server for bounce mail: takes mail for the bounce domain, and answers 250 only once Redis has it.

While Redis is away or full it answers 4xx, and the other mail server keeps the mail and tries again (RFC 5321, 4.5.4).
One recipient at a time: a bounce has one, and its return path names the job.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate

from services.receipts.mail.intake import MOST_MAIL_BYTES, SOURCE, Counted, Inbox, with_envelope
from shared.errors import QueueFullError, QueueUnavailableError, SettingsError
from shared.logs import get_logger
from shared.smtp.session import Envelope, SessionLimits, SmtpSession, Verdict

MAX_SESSIONS = 200
# some servers return the whole message, whose files of 10 MB take 14 MB in base64; a refusal would lose the bounce
MOST_TAKEN_BYTES = 25 * 1024 * 1024
# in all sessions together, unfinished or on the way to Redis
_MOST_HELD_BYTES = 64 * 1024 * 1024
_MOST_ERRORS = 20
_IDLE_S = 120.0
_LONGEST_S = 1800.0
_ADD_S = 30.0
_END_S = 5.0


class BounceListener:
    """Listens for bounce mail; `host` and `port` are the address to bind (port 0: any free one)."""

    def __init__(self, domain: str, inbox: Inbox, host: str, port: int, counted: Counted) -> None:
        self._domain = domain.lower()
        self._inbox = inbox
        self._address = (host, port)
        self._counted = counted
        self._limits = SessionLimits(
            domain, MOST_TAKEN_BYTES, recipients=1, errors=_MOST_ERRORS, idle_s=_IDLE_S, longest_s=_LONGEST_S
        )
        self._sessions: set[SmtpSession] = set()
        # the size of the mail that each task adds
        self._adding: dict[asyncio.Task[None], int] = {}
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, 0 while it does not."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def open(self) -> None:
        """Listen; raises SettingsError if the address cannot be bound."""
        loop = asyncio.get_running_loop()
        host, port = self._address
        try:
            self._server = await loop.create_server(lambda: SmtpSession(self, self._limits), host, port)
        except OSError as error:
            raise SettingsError(
                [f"KURIR_BOUNCE_SMTP_PORT: cannot listen on {host}:{port}: {error.strerror}"]
            ) from error

    async def close(self) -> None:
        """Stop listening, answer the mails that are being added, and end all sessions."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._adding:
            await asyncio.wait(set(self._adding), timeout=_END_S)
        for session in list(self._sessions):
            session.abort()
        for task in list(self._adding):
            task.cancel()
        await asyncio.gather(*self._adding, return_exceptions=True)
        await server.wait_closed()

    def joined(self, session: SmtpSession) -> str:
        """Register a new session and return the greeting."""
        self._sessions.add(session)
        if len(self._sessions) > MAX_SESSIONS:
            return "421 4.3.2 too many connections, try again later"
        return f"220 {self._domain} ESMTP"

    def left(self, session: SmtpSession) -> None:
        """Unregister a session that has ended."""
        self._sessions.discard(session)

    def refusal(self, command: str, address: str) -> str:
        """Return the refusal of a recipient outside the bounce domain; any sender may bring bounces."""
        if command == "mail" or address.rpartition("@")[2].lower().rstrip(".") == self._domain:
            return ""
        self._counted("smtp", "refused")
        return "550 5.7.1 this server takes mail for its own domain alone"

    def overloaded(self) -> bool:
        """Return whether all sessions together hold too much mail that Redis does not have."""
        unfinished = sum(session.buffered for session in self._sessions)
        return unfinished + sum(self._adding.values()) > _MOST_HELD_BYTES

    def receive(self, session: SmtpSession, envelope: Envelope, raw: bytes) -> Verdict:
        """Add a mail to the stream; the session waits for the answer."""
        received = f"from {session.client} by {self._domain} with SMTP; {formatdate()}"
        mail = with_envelope(raw[:MOST_MAIL_BYTES], envelope.sender, envelope.recipients[0], received)
        task = asyncio.create_task(self._add(session, mail))
        self._adding[task] = len(mail)
        task.add_done_callback(self._adding.pop)
        return Verdict(answered=False)

    async def _add(self, session: SmtpSession, mail: bytes) -> None:
        reply = "451 4.3.0 not taken, try again later"
        try:
            async with asyncio.timeout(_ADD_S):
                entry_id = await self._inbox.add(SOURCE, mail)
            reply = f"250 2.0.0 taken as {entry_id}"
        except QueueFullError as error:
            reply = "452 4.3.1 no room at the moment, try again later"
            get_logger().warning("bounce_not_taken", reason=error.reason)
        except (QueueUnavailableError, TimeoutError) as error:
            get_logger().warning("bounce_not_taken", reason=str(error) or "Redis does not answer")
        finally:
            self._counted("smtp", "taken" if reply.startswith("250") else "refused")
            session.answer(reply)
