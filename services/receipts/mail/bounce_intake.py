"""The ways in for bounce mail that the settings turn on, for the process to open, run and close."""

from __future__ import annotations

from collections.abc import Callable

from services.receipts.mail.intake import Counted, Inbox
from services.receipts.mail.listener import BounceListener
from services.receipts.mail.mailbox import Lease, MailboxReader
from services.receipts.mail.settings import BounceSettings
from shared.lifecycle import Stop
from shared.logs import get_logger


class BounceIntake:
    """The SMTP listener and the mailbox reader, either of which may be off.

    `host` is the address to listen on; `lease` makes the lease of a mailbox from its name.
    """

    def __init__(
        self, settings: BounceSettings, inbox: Inbox, host: str, lease: Callable[[str], Lease], counted: Counted
    ) -> None:
        self._listener: BounceListener | None = None
        self._reader: MailboxReader | None = None
        if settings.smtp_port:
            self._listener = BounceListener(settings.domain, inbox, host, settings.smtp_port, counted)
        if settings.mailbox is not None:
            self._reader = MailboxReader(
                settings.mailbox, inbox, lease(f"{settings.mailbox.username} {settings.mailbox.name}"), counted
            )
        self._mailbox = settings.mailbox.name if settings.mailbox is not None else ""

    def mailbox_failing_s(self) -> float:
        """Return for how many seconds the mailbox could not be read, 0 if it can be, or without one."""
        return self._reader.failing_s if self._reader is not None else 0.0

    async def open(self) -> None:
        """Listen; raises SettingsError if the address cannot be bound."""
        if self._listener is not None:
            await self._listener.open()
            get_logger().info("bounces come in by SMTP", port=self._listener.port)

    async def run(self, stop: Stop) -> None:
        """Read the mailbox until `stop` is set."""
        if self._reader is not None:
            get_logger().info("bounces come in by IMAP", mailbox=self._mailbox)
            await self._reader.run(stop)

    async def close(self) -> None:
        """Stop listening, and answer the mails that are being added."""
        if self._listener is not None:
            await self._listener.close()
