"""A received mail by the roles of its parts: what people read, what programs read, and the mail that it returns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.receipts.mail.mime import (
    MOST_HEADER_BYTES,
    MOST_TEXT_BYTES,
    Headers,
    Part,
    parts_of,
    read_content_type,
    split_header,
    with_line_feeds,
)

_REPORTS = {
    "message/delivery-status": "status",
    "message/global-delivery-status": "status",
    "message/feedback-report": "feedback",
    "message/disposition-notification": "disposition",
    "message/global-disposition-notification": "disposition",
}
_RETURNED = frozenset({
    "message/rfc822", "message/global", "text/rfc822-headers", "text/rfc822-header", "message/rfc822-headers",
    "message/global-headers",
})  # fmt: skip
_MOST_STATUS_BYTES = 512 * 1024
_LAST_DISCARDED = re.compile(r"<(?:style|script|head)\b", re.IGNORECASE)
_BLOCK_END = re.compile(r"<(?:br|/p|/div|/tr|/td|/li|/h[1-6])\b[^>]{0,200}>", re.IGNORECASE)
# the lines of a bounce in plain text that introduce the mail that it returns: between dashes, or on their own
_MARKED = (
    "below this line", "copy of", "original message", "message follows", "returned message", "unsent message",
    "undelivered message", "header of the", "message header", "headers follow", "forwarded message", "original mail",
)  # fmt: skip
_UNMARKED = (
    "below is a copy of the original", "message headers follow", "message header follows", "original message follows",
    "original message headers", "original message header", "the original message was:",
)  # fmt: skip
_LONGEST_MARK = 200
_MOST_LINES = 20_000


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail with the parts that matter.

    - `text`: what people read, up to the mail that it returns
    - `status`, `feedback`, `disposition`: the reports of RFC 3464, 5965 and 8098 as bytes, each None if it is missing
    - `returned`: the header of the mail that it returns, None if it returns none as a part
    - `quoted`: what follows `text` where a mail is returned within the text
    - `attached`: the first mail that is attached, as bytes, empty if no mail is attached
    """

    headers: Headers
    content_type: str
    report_type: str
    text: str
    status: bytes | None
    feedback: bytes | None
    disposition: bytes | None
    returned: Headers | None
    quoted: str
    attached: bytes

    @property
    def subject(self) -> str:
        """The subject in lower case, decoded."""
        return self.headers.readable("subject").lower()

    @property
    def has_report(self) -> bool:
        """Whether it has a report for programs, of whatever kind."""
        return any(report is not None for report in (self.status, self.feedback, self.disposition))


def take_apart(raw: bytes) -> ReceivedMail:
    """Take a mail apart; never raises."""
    headers, parts = parts_of(with_line_feeds(raw))
    content_type, parameters = read_content_type(headers.get("content-type"))
    reports: dict[str, bytes] = {}
    returned: Part | None = None
    for part in parts:
        role = _REPORTS.get(part.content_type)
        if role:
            reports.setdefault(role, part.content(_MOST_STATUS_BYTES))
        elif part.content_type in _RETURNED and returned is None:
            returned = part
    text, quoted = _divided(_text_of(parts))
    attached = returned.content(MOST_HEADER_BYTES) if returned is not None else b""
    return ReceivedMail(
        headers=headers,
        content_type=content_type,
        report_type=parameters.get("report-type", "").strip().lower(),
        text=text,
        status=reports.get("status"),
        feedback=reports.get("feedback"),
        disposition=reports.get("disposition"),
        returned=Headers(split_header(attached.lstrip(b"\n"))[0]) if returned is not None else None,
        quoted=quoted,
        attached=attached,
    )


def _text_of(parts: list[Part]) -> str:
    """Return the text that people read: all plain parts, or the first HTML part without its tags."""
    plain = [part.text() for part in parts if part.content_type == "text/plain"]
    if any(text.strip() for text in plain):
        return "\n".join(plain)[:MOST_TEXT_BYTES]
    html = next((part.text() for part in parts if part.content_type == "text/html"), "")
    return "".join(_without_tags(html))


def _without_tags(html: str) -> Iterator[str]:
    """Yield the pieces of text between tags, without styles and scripts; entities stay as they are."""
    hidden = False
    for piece in _BLOCK_END.sub("\n", html).split("<"):
        tag, closed, text = piece.partition(">")
        if _LAST_DISCARDED.match(f"<{tag}"):
            hidden = True
        elif tag[:1] == "/":
            hidden = hidden and tag[1:].strip().lower() not in {"style", "script", "head"}
        if closed and not hidden:
            yield text


def _divided(text: str) -> tuple[str, str]:
    """Divide a text where it begins to quote the mail that it returns."""
    lines = text.split("\n")
    for number, line in enumerate(lines[:_MOST_LINES]):
        if _introduces_returned(line[:_LONGEST_MARK].strip(" \t>").lower()):
            return "\n".join(lines[:number]), "\n".join(lines[number:])
    return text, ""


def _introduces_returned(line: str) -> bool:
    if line.startswith("--"):
        return any(words in line for words in _MARKED)
    return line.startswith(_UNMARKED) or line.rstrip(": ") == "original message"
