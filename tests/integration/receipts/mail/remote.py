"""A remote mail server that refuses recipients in chosen words, now or after they had to wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shared.smtp.session import Envelope, SessionLimits, SmtpSession, Verdict

LIMITS = SessionLimits("mx.remote.example", 1024 * 1024, recipients=10)


@dataclass
class RemoteServer:
    """Answers RCPT with the next reply of a local part, then always with its last; accepts everybody else."""

    replies: dict[str, list[str]]
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def open(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SmtpSession(self, LIMITS), "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def joined(self, _session: SmtpSession) -> str:
        """Greet everybody."""
        return "220 mx.remote.example ESMTP"

    def left(self, _session: SmtpSession) -> None:
        """Do nothing."""

    def overloaded(self) -> bool:
        """Never be overloaded."""
        return False

    def refusal(self, command: str, address: str) -> str:
        """Refuse a recipient in its own words."""
        local = address.partition("@")[0]
        replies = self.replies.get(local, [])
        if command == "mail" or not replies:
            return ""
        self.asked.append(local)
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def receive(self, _session: SmtpSession, _envelope: Envelope, _raw: bytes) -> Verdict:
        """Accept the mail."""
        return Verdict("250 2.0.0 ok")
