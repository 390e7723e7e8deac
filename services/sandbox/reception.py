"""Reception: decides about mail by simulated outcomes and faults, stores it, and owns the listening socket."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.sandbox.faults import Faults, Stage
from services.sandbox.mail import messages_of, problem_of, read_header
from services.sandbox.mailbox import Mailbox
from services.sandbox.metrics import SandboxMetrics
from services.sandbox.outcomes import MailOutcomes, refusal_of_recipient
from services.sandbox.reporter import Reporter
from shared.channels import SANDBOX_HOST
from shared.errors import SettingsError
from shared.logs import get_logger
from shared.smtp.session import Envelope, SessionLimits, SmtpSession, Verdict

GREETING = f"220 {SANDBOX_HOST} ESMTP: nothing is delivered from here"
MAX_SESSIONS = 2000
LIMITS = SessionLimits(SANDBOX_HOST, message_bytes=35 * 1024 * 1024, recipients=1000)
_STAGES: dict[str, Stage] = {"mail": "mail", "rcpt": "rcpt"}
_REOPEN_S = 0.1


class MailReception:
    """Decides whether mail is accepted, stores it and counts it."""

    def __init__(
        self, mailbox: Mailbox, outcomes: MailOutcomes, faults: Faults, metrics: SandboxMetrics, reporter: Reporter
    ) -> None:
        self._mailbox = mailbox
        self._outcomes = outcomes
        self._faults = faults
        self._metrics = metrics
        self._reporter = reporter
        self._numbers = 0
        self.sessions: set[SmtpSession] = set()

    def joined(self, session: SmtpSession) -> str:
        """Register a new session and return the greeting."""
        self.sessions.add(session)
        if len(self.sessions) > MAX_SESSIONS:
            return "421 4.3.2 too many connections"
        fault = self._faults.take("email", "greeting")
        return GREETING if fault is None else fault.reply

    def left(self, session: SmtpSession) -> None:
        """Unregister a session that has ended."""
        self.sessions.discard(session)

    def refusal(self, command: str, address: str) -> str:
        """Return the refusal of MAIL FROM or RCPT TO, "" if the address is not refused."""
        fault = self._faults.take("email", _STAGES[command])
        refusal = fault.reply if fault else refusal_of_recipient(address) if command == "rcpt" else ""
        if refusal:
            self._metrics.message("email", "refused")
        return refusal

    def overloaded(self) -> bool:
        """Return False: the sandbox takes whatever its sender sends."""
        return False

    def receive(self, _session: SmtpSession, envelope: Envelope, raw: bytes) -> Verdict:
        """Decide about a whole mail; an accepted one is in the file when this returns."""
        header = read_header(raw)
        verdict = self._decide(envelope, header.job_id, raw)
        if verdict.accepted:
            try:
                self._mailbox.accept(messages_of(envelope, header, raw))
            except OSError as error:
                get_logger().error("delivery_not_written", reason=str(error))
                verdict = Verdict("452 4.3.1 the message cannot be stored", accepted=False)
        self._metrics.message("email", "accepted" if verdict.accepted else "refused")
        if not verdict.accepted:
            return verdict
        self._numbers += 1
        self._reporter.accepted_mail(envelope.sender, envelope.recipients, raw)
        delay_s = max(verdict.delay_s, self._outcomes.latency_s)
        reply = verdict.reply or f"250 2.0.0 accepted as {self._numbers}"
        return replace(verdict, reply=reply, delay_s=delay_s)

    def _decide(self, envelope: Envelope, job_id: str, raw: bytes) -> Verdict:
        fault = self._faults.take("email")
        if fault is not None:
            return fault.verdict()
        problem = problem_of(raw)
        if problem:
            return Verdict(problem, accepted=False)
        return self._outcomes.verdict(envelope.recipients, job_id)


class SmtpListener:
    """The listening socket, which a fault can close for a time as if the server were down."""

    def __init__(self, reception: MailReception, host: str, port: int) -> None:
        self._reception = reception
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port to listen on; the actual one once it has been open."""
        return self._port

    async def open(self) -> None:
        """Listen; raises SettingsError if the address cannot be bound."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: SmtpSession(self._reception, LIMITS), self._host, self._port, backlog=1024
            )
        except OSError as error:
            raise SettingsError([f"SMTP: cannot listen on {self._host}:{self._port}: {error.strerror}"]) from error
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and abort all sessions."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for session in list(self._reception.sessions):
            session.abort()
        await server.wait_closed()

    async def reopen(self) -> None:
        """Listen again as soon as the address is free."""
        while True:
            try:
                await self.open()
            except SettingsError as error:
                get_logger().warning("listen_failed", reason=str(error))
                await asyncio.sleep(_REOPEN_S)
                continue
            return
