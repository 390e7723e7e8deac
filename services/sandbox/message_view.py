"""What the mailbox's API says about a message, in a list and on its own; every size is bounded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from services.sandbox.bubble import Bubble, read_bubble
from services.sandbox.mailbox import Kept
from services.sandbox.mime import Mail, Part
from shared.clock import rfc3339

_LONGEST_TEXT = 1_000_000
_LONGEST_NAME = 120
# what has a meaning in a path or a header, and marks that turn the direction of text
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|%\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]')
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return "from" if name == "sender" else first + "".join(word.capitalize() for word in rest)


class ListedMessage(msgspec.Struct, frozen=True, rename=_camel):
    """A message in a list; `size` counts the bytes of its source as it was received."""

    number: int
    accepted_at: str
    channel: str
    sender: str
    to: str
    job_id: str
    message_id: str
    subject: str
    size: int


class Attachment(msgspec.Struct, frozen=True, rename="camel"):
    """An attachment, which `GET /messages/{number}/parts/{part}` returns."""

    part: int
    name: str
    content_type: str
    size: int


class DetailedMessage(ListedMessage, frozen=True, kw_only=True, rename=_camel):
    """A message with its content. `is_cut` means that only the beginning of its source is kept.

    `headers` are a mail's fields in their order, `text` its plain text, if any. `bubble` is a WhatsApp message's.
    """

    is_cut: bool
    has_html: bool = False
    text: str | None = None
    headers: list[tuple[str, str]] = []
    attachments: list[Attachment] = []
    bubble: Bubble | None = None


@dataclass(frozen=True, slots=True)
class FileName:
    """The name under which a browser stores an attachment."""

    text: str

    @property
    def disposition(self) -> str:
        """The value of Content-Disposition (RFC 6266)."""
        plain = _NOT_ASCII.sub("_", self.text)
        return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(self.text, safe='')}"


def file_name(part: Part) -> FileName:
    """Return a name that stays in the folder of downloads, and whose end is what it seems to be."""
    name = _UNSAFE.sub("_", part.filename).strip(" .")
    if len(name) > _LONGEST_NAME:
        stem, dot, kind = name.rpartition(".")
        name = f"{stem[: _LONGEST_NAME - 12]}{dot}{kind[:10]}" if dot else name[:_LONGEST_NAME]
    return FileName(name or f"part-{part.number}")


def listed(kept: Kept) -> ListedMessage:
    """Return a message as lists show it."""
    message = kept.message
    return ListedMessage(
        kept.number, rfc3339(kept.at_ms), message.channel, message.sender, message.to, message.job_id,
        message.message_id, message.subject, kept.size,
    )  # fmt: skip


def detailed(kept: Kept, mail: Mail | None) -> DetailedMessage:
    """Return a message with its content; `mail` is its source as read, None for WhatsApp."""
    common = msgspec.structs.asdict(listed(kept)) | {"is_cut": kept.size > len(kept.message.source)}
    if mail is None:
        return DetailedMessage(**common, bubble=read_bubble(kept.message.source))
    return DetailedMessage(
        **common,
        has_html=mail.html is not None,
        text=mail.text.text[:_LONGEST_TEXT] if mail.text else None,
        headers=mail.fields,
        attachments=[
            Attachment(one.number, file_name(one).text, one.content_type, len(one.content)) for one in mail.attachments
        ],
    )
