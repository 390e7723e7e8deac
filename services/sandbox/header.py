"""A mail's header as text: fields unfolded and decoded (RFC 5322, 2047, 2231). Never raises; every size is bounded."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from services.sandbox.charsets import decode

MOST_FIELDS = 500
LONGEST_VALUE = 16 * 1024
_LONGEST_PARAMETERS = 4096
_FIELD = re.compile(rb"^([!-9;-~]{1,100})[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.MULTILINE)
_WORD = re.compile(r"=\?([\w.:-]{1,40})(?:\*[\w-]{0,20})?\?([bBqQ])\?([^?\s]*)\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)\s+(?==\?)")
_PARAMETER = re.compile(r';\s*([\w!#$&^.+-]{1,60}(?:\*[0-9]{1,3})?\*?)\s*=\s*("(?:[^"\\]|\\.)*"?|[^;\s]*)')
_ESCAPED = re.compile(r"\\(.)")


def split_mail(raw: bytes) -> tuple[bytes, bytes]:
    """Return the header and the body of a mail or of a part."""
    if raw.startswith(b"\r\n"):
        return b"", raw[2:]
    head, _, body = raw.partition(b"\r\n\r\n")
    return head, body


def read_fields(head: bytes) -> Iterator[tuple[str, str]]:
    """Return the fields as name and raw value, unfolded; at most MOST_FIELDS, each up to LONGEST_VALUE."""
    for count, match in enumerate(_FIELD.finditer(head)):
        if count == MOST_FIELDS:
            return
        value = match[2][:LONGEST_VALUE].replace(b"\r\n", b"").strip()
        yield match[1].decode("ascii"), decode(value, "utf-8")


def decode_words(value: str) -> str:
    """Return a value with its encoded words decoded (RFC 2047); anything else stays as it is."""
    if "=?" not in value:
        return value
    found, end = [], 0
    pending: tuple[str, bytes] = ("", b"")
    joined = _BETWEEN_WORDS.sub("", value)
    for match in _WORD.finditer(joined):
        between, content = joined[end : match.start()], _word_bytes(match[2], match[3])
        charset = match[1].lower()
        if between or charset != pending[0]:
            found += [decode(pending[1], pending[0]), between]
            pending = (charset, b"")
        # a character may be cut between two words of one charset
        pending = (charset, pending[1] + content)
        end = match.end()
    return "".join([*found, decode(pending[1], pending[0]), joined[end:]])


def read_parameters(value: str) -> tuple[str, dict[str, str]]:
    """Return a field's main value in lower case, and its parameters by name in lower case (RFC 2231)."""
    value = value[:_LONGEST_PARAMETERS]
    main = value.partition(";")[0].strip().lower()
    plain: dict[str, str] = {}
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for name, given in _PARAMETER.findall(value):
        text = _ESCAPED.sub(r"\1", given.strip('"')) if given.startswith('"') else given
        base, star, rest = name.lower().partition("*")
        if not star:
            plain.setdefault(base, decode_words(text))
            continue
        number = int(rest.rstrip("*") or 0)
        pieces.setdefault(base, []).append((number, name.endswith("*"), text))
    return main, plain | {name: _joined(sorted(found)) for name, found in pieces.items()}


def _joined(pieces: list[tuple[int, bool, str]]) -> str:
    """Return a parameter given in pieces, of which the first may name the charset."""
    charset, content = "utf-8", b""
    if pieces[0][1] and pieces[0][2].count("'") >= 2:
        number, _, text = pieces[0]
        charset, _, text = text.split("'", 2)
        pieces = [(number, True, text), *pieces[1:]]
    for _, is_encoded, text in pieces:
        content += unquote_to_bytes(text) if is_encoded else text.encode("utf-8", "replace")
    return decode(content, charset)


def _word_bytes(encoding: str, text: str) -> bytes:
    if encoding in "qQ":
        return unquote_to_bytes(text.replace("_", " ").replace("%", "%25").replace("=", "%"))
    return decode_base64(text.encode("ascii", "ignore"))


def decode_base64(content: bytes) -> bytes:
    """Return decoded base64, of which foreign characters are ignored and an incomplete end is left out."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", content)
    return base64.b64decode(clean + b"=" * (-len(clean) % 4) if len(clean) % 4 != 1 else clean[:-1])
