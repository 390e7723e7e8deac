"""A mail as a reader shows it: fields, the HTML and the text to show, attachments. Never raises on hostile MIME.

Python's own parser raises on some broken mail, and takes quadratic time on some. This one reads what a reader needs:
at most MOST_PARTS parts, DEEPEST levels deep, in time in proportion to the mail.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from services.sandbox.charsets import decode
from services.sandbox.header import decode_base64, decode_words, read_fields, read_parameters, split_mail

MOST_PARTS = 200
DEEPEST = 10
_MOST_INLINE_BYTES = 8 * 1024 * 1024
_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,80}")
_CID = re.compile(r"\bcid:([^\s\"'<>()]{1,200})")
_LINK = re.compile(r"<(?=link)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A part without parts of its own; `number` counts from 1, `raw` is its body before decoding."""

    number: int
    content_type: str
    charset: str
    encoding: str
    filename: str
    content_id: str
    is_attached: bool
    raw: bytes = field(repr=False)

    @cached_property
    def content(self) -> bytes:
        """The decoded body."""
        if self.encoding == "base64":
            return decode_base64(self.raw)
        if self.encoding == "quoted-printable":
            return binascii.a2b_qp(self.raw)
        return self.raw

    @property
    def text(self) -> str:
        """The decoded body as text."""
        return decode(self.content, self.charset)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail: its fields in their order, what to show as HTML and as text, and everything else."""

    fields: list[tuple[str, str]]
    html: Part | None
    text: Part | None
    attachments: list[Part]

    def part(self, number: int) -> Part | None:
        """Return an attachment by its number."""
        return next((one for one in self.attachments if one.number == number), None)


def read_mail(raw: bytes) -> Mail:
    """Read a mail."""
    head, _ = split_mail(raw)
    parts = [_part(number, *found) for number, found in enumerate(islice(_leaves(raw, 0), MOST_PARTS), 1)]
    shown = [one for one in parts if not one.is_attached]
    html = next((one for one in shown if one.content_type == "text/html"), None)
    text = next((one for one in shown if one.content_type == "text/plain"), None)
    return Mail(
        fields=[(name, decode_words(value)) for name, value in read_fields(head)],
        html=html,
        text=text,
        attachments=[one for one in parts if one is not html and one is not text],
    )


def safe_html(mail: Mail) -> str:
    """Return the HTML to show below a policy that loads nothing: pictures of the mail itself are put into it.

    A policy does not stop `<link rel=preconnect>`, so links to other files become unknown elements.
    """
    assert mail.html is not None  # noqa: S101 -- callers ask only for mail that has HTML
    pictures = {one.content_id: one for one in mail.attachments if one.content_id and _is_picture(one)}
    left = _MOST_INLINE_BYTES

    def put_in(match: re.Match[str]) -> str:
        nonlocal left
        found = pictures.get(match[1])
        if found is None or len(found.content) > left:
            return match[0]
        left -= len(found.content)
        return f"data:{found.content_type};base64,{base64.b64encode(found.content).decode()}"

    return _CID.sub(put_in, _LINK.sub("<no-", mail.html.text))


def _is_picture(part: Part) -> bool:
    return part.content_type in {"image/png", "image/jpeg", "image/gif", "image/webp"}


def _leaves(raw: bytes, depth: int) -> Iterator[tuple[dict[str, str], bytes]]:
    """Return the header and the body of each part that has no parts."""
    head, body = split_mail(raw)
    fields: dict[str, str] = {}
    for name, value in read_fields(head):
        fields.setdefault(name.lower(), value)
    kind, parameters = read_parameters(fields.get("content-type", ""))
    boundary = parameters.get("boundary", "")
    if not kind.startswith("multipart/") or not boundary or depth == DEEPEST:
        yield fields, body
        return
    inner = list(islice(_split(body, boundary.encode("utf-8", "replace")), MOST_PARTS))
    if not inner:
        yield fields, body
    for one in inner:
        yield from _leaves(one, depth + 1)


def _split(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Return the parts between the lines of a boundary (RFC 2046, 5.1.1); a missing last line ends with the body."""
    line = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    begin = -1
    for match in line.finditer(body):
        if begin >= 0:
            yield body[begin : match.start()]
        begin = match.end() + 2
        if match[1]:
            return
    if 0 <= begin < len(body):
        yield body[begin:]


def _part(number: int, fields: dict[str, str], body: bytes) -> Part:
    kind, parameters = read_parameters(fields.get("content-type", ""))
    disposition, more = read_parameters(fields.get("content-disposition", ""))
    filename = more.get("filename") or parameters.get("name") or ""
    content_type = kind if _TYPE.fullmatch(kind) else "text/plain" if not kind else "application/octet-stream"
    return Part(
        number=number,
        content_type=content_type,
        charset=parameters.get("charset", "utf-8"),
        encoding=fields.get("content-transfer-encoding", "").strip().lower(),
        filename=filename,
        content_id=fields.get("content-id", "").strip().strip("<>"),
        is_attached=disposition == "attachment" or (bool(filename) and disposition != "inline"),
        raw=body,
    )
