"""What the SMTP listener and the mailbox reader share: where they put mail, and how it is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from shared.foreign_text import legible

SOURCE = "mail"
MOST_MAIL_BYTES = 10 * 1024 * 1024
"""How much of a mail is kept, from its beginning: what is read of a bounce comes before the message that it returns."""

Way = Literal["smtp", "imap"]
Counted = Callable[[Way, Literal["taken", "refused"]], None]
"""Counts one mail by the way that it came, and whether it was taken."""


class Inbox(Protocol):
    """The stream of receipts, as those who add to it see it (`shared.queue.receipts.ReceiptInbox`)."""

    async def add(self, source: str, body: bytes) -> str:
        """Add a mail, whole, and return its id; raises QueueFullError or QueueUnavailableError."""
        ...


def with_envelope(raw: bytes, sender: str, recipient: str, received: str) -> bytes:
    """Return a mail with what only its envelope says, in the fields that mail servers use when they deliver."""
    lines = (f"Return-Path: <{_line(sender)}>", f"Delivered-To: {_line(recipient)}", f"Received: {_line(received)}")
    return "".join(f"{line}\r\n" for line in lines).encode() + raw


def _line(text: str) -> str:
    """Return a text without line ends, so that it cannot add fields."""
    return legible(" ".join(text.split()), 1000)
