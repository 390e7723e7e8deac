"""One mail: the header fields that the sandbox reads, and the check of a strict server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.sandbox.charsets import decode
from services.sandbox.header import LONGEST_VALUE, decode_words
from services.sandbox.mailbox import Message
from shared.smtp.session import Envelope

_FIELDS = re.compile(
    rb"^(x-kurir-job|message-id|subject):([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE
)
_LONGEST_LINE = 998


@dataclass(frozen=True, slots=True)
class Header:
    """The decoded header fields that the sandbox reads; "" for missing ones."""

    job_id: str = ""
    message_id: str = ""
    subject: str = ""


def read_header(raw: bytes) -> Header:
    """Read the fields; the first of repeated ones counts."""
    end = 0 if raw.startswith(b"\r\n") else raw.find(b"\r\n\r\n")
    found: dict[bytes, bytes] = {}
    for name, value in _FIELDS.findall(raw, 0, end if end >= 0 else len(raw)):
        found.setdefault(name.lower(), value)
    return Header(
        job_id=_text(found.get(b"x-kurir-job", b"")),
        message_id=_text(found.get(b"message-id", b"")),
        subject=decode_words(_text(found.get(b"subject", b""))),
    )


def problem_of(raw: bytes) -> str:
    """Return the refusal of a mail that strict servers refuse (RFC 5321, 2.3.8 and 4.5.3.1.6), "" for any other."""
    line_ends = raw.count(b"\r\n")
    if raw.count(b"\n") != line_ends or raw.count(b"\r") != line_ends:
        return "550 5.6.0 the message has a bare CR or LF"
    if max(map(len, raw.split(b"\r\n"))) > _LONGEST_LINE:
        return "550 5.6.0 the message has a line of more than 998 bytes"
    return ""


def messages_of(envelope: Envelope, header: Header, raw: bytes) -> list[Message]:
    """Return the messages to keep for an accepted mail, one per recipient."""
    return [
        Message("email", address, header.job_id, header.message_id, header.subject, envelope.sender, raw)
        for address in envelope.recipients
    ]


def _text(value: bytes) -> str:
    return decode(value[:LONGEST_VALUE].replace(b"\r\n", b"").strip(), "utf-8")
