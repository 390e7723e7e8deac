"""Takes mail from strangers apart: header fields and MIME parts (RFC 5322, RFC 2045), in time proportional to its size.

The standard library's parser recurses over nested parts and raises on some malformed headers. This one reads what it
can of any bytes and never raises. Its limits are far beyond honest mail: what lies beyond them is not read.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header

from shared.foreign_text import decoded, legible

MOST_HEADER_BYTES = 128 * 1024
MOST_FIELDS = 2000
MOST_VALUE = 16 * 1024
MOST_PARTS = 100
MOST_DEPTH = 10
MOST_TEXT_BYTES = 64 * 1024
# reports and the headers of returned mails come before their bodies
MOST_BYTES = 4 * 1024 * 1024
_MOST_STRANGE_LINES = 1000
_LONGEST_PARAMETERS = 2000
_LONGEST_ENCODED = 1000
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_FOLD = re.compile(r"\n[ \t]+")
_PARAMETER = re.compile(r';\s*([A-Za-z0-9*_-]+)\s*=\s*(?:"([^"\n]*)"|([^\s;"]+))')
# codecs that decode text in linear time; the names of others (punycode, idna, zip, …) come from no honest mail
_CHARSET = re.compile(
    r"us-ascii|ascii|utf-?(?:7|8|16|32)(?:[bl]e)?|iso-?(?:8859|2022)-[a-z0-9-]{1,10}|latin-?1|windows-125[0-8]|cp125[0-8]|"
    r"windows-874|koi8-[rtu]|gb(?:2312|k|18030)|hz-gb-2312|big5(?:-?hkscs)?|euc-?(?:jp|kr|cn)|shift[_-]?jis|sjis|cp932|"
    r"ks_c_5601-1987|tis-620"
)
_OTHER_NAMES = {"unicode-1-1-utf-7": "utf-7", "iso-8859-8-i": "iso-8859-8", "euc-cn": "gb2312", "hz-gb-2312": "hz"}


class Headers:
    """The header fields of a mail or a part: names in any case, values unfolded, the first of repeated ones first."""

    def __init__(self, block: bytes) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in fields_of(block):
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> str:
        """Return the first value of a field (name in lower case), "" if it is missing."""
        return self._values.get(name, [""])[0]

    def all(self, *names: str) -> list[str]:
        """Return all values of these fields (names in lower case)."""
        return [value for name in names for value in self._values.get(name, ())]

    def readable(self, name: str) -> str:
        """Return the first value of a field with its encoded words (RFC 2047) decoded."""
        value = self.get(name)[:_LONGEST_ENCODED]
        if "=?" not in value:
            return value
        try:
            pieces = decode_header(value)
        except HeaderParseError:
            return value
        return legible("".join(_decoded_piece(piece, charset) for piece, charset in pieces))


def fields_of(block: bytes) -> Iterator[tuple[str, str]]:
    """Yield the names, in lower case, and the unfolded values of the fields in a block of header lines."""
    text = _FOLD.sub(" ", decoded(block[:MOST_HEADER_BYTES]))
    for number, line in enumerate(text.split("\n")):
        if number >= MOST_FIELDS:
            return
        name, colon, value = line.partition(":")
        # not a field: a line of an mbox ("From …"), or garbage
        if colon and name and " " not in name.rstrip():
            yield name.rstrip().lower(), value.strip()[:MOST_VALUE]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a mail that has no parts itself; an attached mail counts as one.

    `body` is as it came, without its transfer encoding removed.
    """

    headers: Headers
    body: bytes
    content_type: str
    parameters: dict[str, str] = field(default_factory=dict)

    def content(self, most: int = MOST_TEXT_BYTES) -> bytes:
        """Return the beginning of the content, decoded from its transfer encoding."""
        encoding = self.headers.get("content-transfer-encoding").strip().lower()
        if encoding == "base64":
            return _from_base64(self.body[: most * 4 // 3])
        if encoding == "quoted-printable":
            return binascii.a2b_qp(self.body[:most])
        return self.body[:most]

    def text(self) -> str:
        """Return the beginning of the content as text, in its charset or in a guessed one."""
        return _in_charset(self.content(), self.parameters.get("charset", ""))


def _in_charset(raw: bytes, charset: str) -> str:
    """Return text in its charset, or in a guessed one if that is unknown or wrong."""
    charset = charset.strip().lower()
    charset = _OTHER_NAMES.get(charset, charset)
    if _CHARSET.fullmatch(charset) or charset == "hz":
        try:
            return raw.decode(charset)
        except (LookupError, ValueError):
            pass
    return decoded(raw)


def _decoded_piece(piece: bytes | str, charset: str | None) -> str:
    """Return a piece of a header as `decode_header` gives it: with its charset, or as it was outside encoded words."""
    if isinstance(piece, str):
        return piece
    if charset is None:
        return piece.decode("raw-unicode-escape", "replace")
    return _in_charset(piece, charset.partition("*")[0])


def with_line_feeds(raw: bytes) -> bytes:
    """Return the beginning of a mail with each line end as one line feed, without empty lines before its header."""
    return raw[:MOST_BYTES].replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip(b"\n")


def split_header(mail: bytes) -> tuple[bytes, bytes]:
    """Return a mail's header block and its body."""
    if mail.startswith(b"\n"):
        return b"", mail[1:]
    block, _, body = mail.partition(b"\n\n")
    return block, body


def parts_of(mail: bytes) -> tuple[Headers, list[Part]]:
    """Return the header of a mail, which has line feeds alone, and its parts without parts, in their order."""
    block, body = split_header(mail)
    headers = Headers(block)
    found: list[Part] = []
    # a stack instead of recursion: the parts that are still to be opened, the first on top
    waiting = [(headers, body, 0)]
    while waiting and len(found) < MOST_PARTS:
        head, content, depth = waiting.pop()
        content_type, parameters = read_content_type(head.get("content-type"))
        boundary = parameters.get("boundary", "")
        if not content_type.startswith("multipart/") or depth >= MOST_DEPTH:
            found.append(Part(head, content, content_type, parameters))
            continue
        if not boundary:
            # lost where a server broke a long field into lines: better read as text than not at all
            found.append(Part(head, content, "text/plain"))
            continue
        opened = []
        for piece in _pieces(content, boundary.encode("utf-8", "replace")):
            inner, text = split_header(piece)
            opened.append((Headers(inner), text, depth + 1))
        if not opened and content.strip():
            # the delimiters are missing or misspelt: better read it as text than not at all
            found.append(Part(head, content, "text/plain"))
        waiting += reversed(opened)
    return headers, found


def read_content_type(value: str) -> tuple[str, dict[str, str]]:
    """Return the type in lower case, `text/plain` if it is missing, and the parameters."""
    value = value[:_LONGEST_PARAMETERS]
    kind = value.partition(";")[0].strip().lower()
    parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(value)}
    return kind or "text/plain", parameters


def _pieces(content: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield the bodies between the delimiters of a multipart; the end of the content ends the last one."""
    mark = b"\n--" + boundary
    content = b"\n" + content
    begin = -1
    at, end, is_last = _delimiter(content, mark, 0)
    for _ in range(MOST_PARTS + 1):
        if begin >= 0:
            yield content[begin : at if at >= 0 else None]
        if at < 0 or is_last:
            return
        begin = end
        at, end, is_last = _delimiter(content, mark, begin - 1)


def _delimiter(content: bytes, mark: bytes, start: int) -> tuple[int, int, bool]:
    """Return where the next delimiter is, where its line ends, and whether it is the last one; -1 without one."""
    at = content.find(mark, start)
    for _ in range(_MOST_STRANGE_LINES):
        if at < 0:
            break
        end = content.find(b"\n", at + len(mark))
        end = len(content) if end < 0 else end + 1
        # a longer boundary that begins with this one is not this one
        rest = content[at + len(mark) : min(end, at + len(mark) + 100)].strip()
        if rest in {b"", b"--"}:
            return at, end, rest == b"--"
        at = content.find(mark, at + 1)
    return -1, -1, True


def _from_base64(raw: bytes) -> bytes:
    """Return the bytes of a base64 text, up to its padding; what does not belong to it is left out."""
    kept = raw.partition(b"=")[0].translate(None, _NOT_BASE64)
    kept = kept[:-1] if len(kept) % 4 == 1 else kept
    return binascii.a2b_base64(kept + b"=" * (-len(kept) % 4))
