"""What a server is told of a message before its content: who sends to whom."""

from __future__ import annotations

import msgspec


class Envelope(msgspec.Struct, frozen=True):
    """Who sends to whom: addresses fit for the wire, and whether they need SMTPUTF8."""

    sender: str
    recipient: str
    utf8: bool = False


class Announced(msgspec.Struct, frozen=True):
    """A message whose MAIL, RCPT and DATA were written with the end of the one before; `job_id` is its own."""

    job_id: str
    envelope: Envelope
    content: bytes
