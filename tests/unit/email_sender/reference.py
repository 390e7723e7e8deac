"""The same message built by Python's `email` package, and the functions that compare it with a frame's message.

The reference is the `EmailMessage` as built, since writing it and reading it back loses spaces (bpo-35547, gh-92081).
"""

from __future__ import annotations

import email
import email.policy
import email.utils
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

from shared.jobs import Attachment


def parse(raw: bytes) -> EmailMessage:
    """Parse with the strict policy: any defect is an error."""
    parsed = email.message_from_bytes(raw, policy=email.policy.strict)
    assert isinstance(parsed, EmailMessage)
    return parsed


def display_name(raw: bytes) -> str:
    """Return the display name of To, decoded according to RFC 2047.

    The strict policy cannot do this: up to Python 3.13 it keeps the space between two encoded words of a phrase.
    """
    value = email.message_from_bytes(raw)["To"]
    name, _, _ = value.rpartition(" <")
    if name.startswith('"'):
        return email.utils.unquote(name)
    return str(make_header(decode_header(name.rstrip())))


def structure(message: EmailMessage) -> list[tuple[str, str, Any]]:
    """Flatten a message: content type, disposition and content of every part, in order."""
    found = []
    for part in message.walk():
        assert isinstance(part, EmailMessage)
        content = None if part.is_multipart() else part.get_content()
        if isinstance(content, str):
            content = content.replace("\r\n", "\n")
        disposition = part.get_content_disposition() or ""
        found.append((part.get_content_type(), disposition, content))
    return found


def reference(
    headers: dict[str, str | Address], text: str, html: str | None, attachments: list[Attachment]
) -> EmailMessage:
    """Build the same message."""
    message = EmailMessage(policy=email.policy.SMTP)
    for name, value in headers.items():
        message[name] = value
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for one in attachments:
        main, _, sub = one.content_type.partition("/")
        message.add_attachment(one.content, main, sub, filename=one.filename)
    return message
