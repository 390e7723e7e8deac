"""Attached files as MIME parts: attachments, inline images and a calendar invitation.

They are encoded when the first message needs them and then kept: all messages of a blast share its files.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.email_sender.mime import base64_lines, clean, encoded_words, is_plain, parameter
from shared.jobs import Attachment
from shared.media_types import MediaType, parse_media_type, written

_BYTES = MediaType("application/octet-stream")
_PART_END = b"MIME-Version: 1.0\r\n"
_LONGEST_TOKEN = 60


class AttachedFiles:
    """Files of a blast or of one recipient.

    In a message with HTML, files with a content id are placed beside it (multipart/related), so that it can show them.
    The first calendar file with a method becomes an alternative, where Outlook and Gmail expect an invitation. It is
    also attached, for programs without calendar support.
    """

    def __init__(self, files: Sequence[Attachment], boundary: str, *, html: bool) -> None:
        self._mark = boundary.encode("ascii")
        self._inline = [one for one in files if html and one.content_id]
        self._others = [one for one in files if not (html and one.content_id)]
        self._invitation = next((one for one in self._others if _method(one)), None)
        self._encoded: tuple[bytes, bytes, bytes] | None = None
        # whether the encoded parts are `mime.PlainLines`; their base64 is
        self.plain = not files
        self.size = sum(len(one.content) for one in files) * 4 // 3

    def encoded(self) -> tuple[bytes, bytes, bytes]:
        """Return the inline parts, the attachments (each after its boundary) and the invitation; b"" for none.

        Slow for large files: do not call it on the event loop's thread.
        """
        if self._encoded is None:
            inline = [_part(one, inline=True) for one in self._inline]
            others = [_part(one, as_file=one is self._invitation) for one in self._others]
            invitation = _invitation(self._invitation) if self._invitation else b""
            self.plain = all(is_plain(one[: one.find(b"\r\n\r\n")]) for one in (*inline, *others, invitation))
            self._encoded = (
                b"".join(b"\r\n--r%b\r\n%b" % (self._mark, one) for one in inline),
                b"".join(b"\r\n--m%b\r\n%b" % (self._mark, one) for one in others),
                invitation,
            )
        return self._encoded


def _type_of(attachment: Attachment) -> MediaType:
    try:
        kind = parse_media_type(attachment.content_type)
    except ValueError:
        return _BYTES
    # these must not be encoded in base64 (RFC 2046, 5.1 and 5.2.1)
    return _BYTES if kind.name.startswith(("message/", "multipart/")) else kind


def _method(attachment: Attachment) -> str:
    """Return the method of an invitation, "" for any other file."""
    kind = _type_of(attachment)
    return kind.get("method") if kind.name == "text/calendar" else ""


def _part(attachment: Attachment, *, inline: bool = False, as_file: bool = False) -> bytes:
    """Return a file as a base64 part with its headers; `as_file` hides an invitation, so that it counts only once."""
    kind = MediaType("application/ics") if as_file else _type_of(attachment)
    name = clean(attachment.filename) or "attachment"
    content_id = b"Content-ID: <%b>\r\n" % clean(attachment.content_id).encode("ascii", "replace") if inline else b""
    return b"%b\r\nContent-Transfer-Encoding: base64\r\n%bContent-Disposition: %b;%b\r\n%b\r\n%b" % (
        _content_type(kind, name),
        content_id,
        b"inline" if inline else b"attachment",
        parameter("filename", name),
        _PART_END,
        base64_lines(attachment.content),
    )


def _invitation(attachment: Attachment) -> bytes:
    """Return an invitation as an alternative; with a Content-Disposition, Outlook would show a plain file."""
    kind = _type_of(attachment).with_default("charset", "utf-8")
    name = clean(attachment.filename) or "invite.ics"
    head = _content_type(kind.with_default("name", name) if name.isascii() else kind, name)
    return b"%b\r\nContent-Transfer-Encoding: base64\r\n\r\n%b" % (head, base64_lines(attachment.content))


def _content_type(kind: MediaType, filename: str) -> bytes:
    """Return the Content-Type header; it repeats a name beyond ASCII for programs that do not support RFC 2231."""
    lines = [b"Content-Type: " + kind.name.encode("ascii")]
    for name, value in kind.parameters:
        token = written(value) == value and len(name) + len(value) <= _LONGEST_TOKEN
        lines.append(b"\r\n %b=%b" % (name.encode(), value.encode()) if token else parameter(name, value))
    if not filename.isascii() and not kind.get("name"):
        lines.append(b'\r\n name="%b"' % encoded_words(filename, len(' name="')))
    return b";".join(lines)
