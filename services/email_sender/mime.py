"""Writes MIME as bytes: header values, parameters and bodies, each in the simplest encoding that its content allows.

Lines end with CRLF and have at most 998 bytes (RFC 5322, 2.1.1). Line breaks and control characters are removed from
values, so that none can break out of its header. Plain ASCII takes a fast path.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import quote

LONGEST_LINE = 998
_FOLD_AT = 76
# leaves room for the header's name
_LONGEST_WORD = LONGEST_LINE - 98
_WORD_OVERHEAD = len("=?utf-8?b??=")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++)*+")
_QUOTABLE = re.compile(r'(["\\])')
_HIGH = bytes(range(128, 256))
_LINES_OF_BASE64 = re.compile(rb".{1,76}")
_PARAMETER_PIECE = 60


class PlainLines(bytes):
    """Lines that need neither dots stuffed (RFC 5321, 4.5.2) nor, as a body, white space relaxed (RFC 6376, 3.4.4).

    What is the same in all messages of a blast is known to be so ahead; a scan of each message takes longer than its
    hash. Any operation on them returns common bytes.
    """

    __slots__ = ()


def is_plain(lines: bytes) -> bool:
    """Return whether these may be `PlainLines`: no line begins with a dot, all spaces are single and inside lines."""
    return not (lines.startswith(b".") or b"\t" in lines or b"\r\n." in lines or b" \r\n" in lines or b"  " in lines)


def clean(text: str) -> str:
    """Return a text for a header: line breaks and control characters become a space, and the ends are stripped."""
    return (text if text.isprintable() else _UNFIT.sub(" ", text)).strip()


def unstructured(text: str, used: int) -> bytes:
    """Return a clean text as a header's value; the header's name takes `used` bytes of the first line."""
    if text.isascii() and "=?" not in text:
        if used + len(text) <= _FOLD_AT:
            return text.encode("ascii")
        folded = _folded(text, used)
        if folded is not None:
            return folded
    return encoded_words(text, used)


def _folded(text: str, used: int) -> bytes | None:
    """Return an ASCII text folded before single spaces; None if a word is too long for a line."""
    lines: list[str] = []
    line = ""
    for word in re.split(r"(?<=\S)(?= \S)", text):
        if line and used + len(line) + len(word) > _FOLD_AT:
            lines.append(line)
            line, used = "", 0
        line += word
    lines.append(line)
    if any(len(one) > _LONGEST_WORD for one in lines):
        return None
    return "\r\n".join(lines).encode("ascii")


def encoded_words(text: str, used: int) -> bytes:
    """Return a text as folded encoded words (RFC 2047) that split no character."""
    words: list[bytes] = []
    room = _bytes_of_word(used)
    piece = bytearray()
    for character in text:
        raw = character.encode("utf-8", "replace")
        if piece and len(piece) + len(raw) > room:
            words.append(_encoded_word(piece))
            piece, room = bytearray(), _bytes_of_word(1)
        piece += raw
    words.append(_encoded_word(piece))
    return b"\r\n ".join(words)


def _bytes_of_word(used: int) -> int:
    return max((_FOLD_AT - used - _WORD_OVERHEAD) // 4 * 3, 4)


def _encoded_word(raw: bytes | bytearray) -> bytes:
    return b"=?utf-8?b?%b?=" % binascii.b2a_base64(raw, newline=False)


def mailbox(name: str, address: str, used: int) -> bytes:
    """Return a mailbox for an address header: the display name, cleaned, in its simplest form, then the address."""
    if used + len(name) + len(address) < _FOLD_AT and "=?" not in name and _ATOMS.fullmatch(name):
        return f"{name} <{address}>".encode()
    if (cleaned := clean(name)) != name:
        return mailbox(cleaned, address, used)
    if not name:
        return address.encode()
    if name.isascii() and "=?" not in name and used + len(name) < _FOLD_AT:
        phrase = b'"%b"' % _QUOTABLE.sub(r"\\\1", name).encode("ascii")
    else:
        phrase = encoded_words(name, used)
    separator = b" " if used + len(phrase) + len(address) < _FOLD_AT else b"\r\n "
    return b"%b%b<%b>" % (phrase, separator, address.encode())


def parameter(name: str, value: str) -> bytes:
    """Return a parameter of a MIME header on its own line; a value beyond plain ASCII in RFC 2231's form."""
    # some readers decode encoded words in a quoted value
    if value.isascii() and "=?" not in value and len(value) <= _FOLD_AT - len(name) - 4:
        return b'\r\n %b="%b"' % (name.encode("ascii"), _QUOTABLE.sub(r"\\\1", value).encode("ascii"))
    encoded = quote(value.encode("utf-8", "replace"), safe="")
    pieces = _pieces(encoded)
    if len(pieces) == 1:
        return f"\r\n {name}*=utf-8''{pieces[0]}".encode("ascii")
    numbered = [
        f" {name}*{number}*={'' if number else 'utf-8' + chr(39) * 2}{one}" for number, one in enumerate(pieces)
    ]
    return "".join(f"\r\n{one};" for one in numbered).rstrip(";").encode("ascii")


def _pieces(encoded: str) -> list[str]:
    """Cut a percent-encoded text into pieces without splitting an escape."""
    pieces: list[str] = []
    start = 0
    while start < len(encoded):
        end = min(start + _PARAMETER_PIECE, len(encoded))
        cut = encoded.rfind("%", end - 2, end)
        if cut != -1 and end < len(encoded):
            end = cut
        pieces.append(encoded[start:end])
        start = end
    return pieces


def text_part(content_type: bytes, text: str, *, eight_bit: bool) -> bytes:
    """Return a text part with its headers: unencoded if possible, else in quoted-printable or base64.

    `eight_bit` allows unencoded UTF-8 (8BITMIME). The body ends with CRLF.
    """
    raw = _with_line_feeds(text.encode("utf-8", "replace"))
    plain = raw.isascii()
    fits = _lines_fit(raw)
    raw = raw.replace(b"\n", b"\r\n")
    if fits and (plain or eight_bit) and b"\0" not in raw:
        return b"%b\r\nContent-Transfer-Encoding: %b\r\n\r\n%b" % (content_type, b"7bit" if plain else b"8bit", raw)
    if (len(raw) - len(raw.translate(None, _HIGH))) * 6 > len(raw):
        return b"%b\r\nContent-Transfer-Encoding: base64\r\n\r\n%b" % (content_type, base64_lines(raw))
    quoted = binascii.b2a_qp(raw, istext=True)
    return b"%b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%b" % (content_type, quoted)


def _with_line_feeds(raw: bytes) -> bytes:
    """Return a text whose lines, the last one too, end with a line feed and nothing else."""
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return raw if raw.endswith(b"\n") else raw + b"\n"


def _lines_fit(raw: bytes) -> bool:
    """Return whether no line is too long; looks only at the last line feed that each stretch of that length has."""
    start = 0
    while len(raw) - start > LONGEST_LINE:
        end = raw.rfind(b"\n", start, start + LONGEST_LINE + 1)
        if end < 0:
            return False
        start = end + 1
    return True


def base64_lines(raw: bytes) -> bytes:
    """Return base64 in lines of 76 characters, each ended by CRLF; one empty line for no bytes."""
    lines = _LINES_OF_BASE64.findall(binascii.b2a_base64(raw, newline=False))
    return b"\r\n".join(lines) + b"\r\n"
