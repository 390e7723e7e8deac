"""A message's envelope: the sender and the recipient, which a server gets before the content."""

from __future__ import annotations

import msgspec


class Envelope(msgspec.Struct, frozen=True):
    """The sender and the recipient in the form of SMTP commands, and whether they need SMTPUTF8."""

    sender: str
    recipient: str
    utf8: bool = False


class Announced(msgspec.Struct, frozen=True):
    """A message whose MAIL, RCPT and DATA were written with the end of the previous one; `job_id` is its own."""

    job_id: str
    envelope: Envelope
    content: bytes
