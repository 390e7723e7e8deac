"""Text from outside: any bytes become valid, readable Unicode.

Providers, files and environments are not always UTF-8, and a single lone surrogate makes JSON, msgpack, Redis and
SQLite refuse the whole row. So text is decoded here, once, where it enters the system; inner code can rely on it.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

LONGEST_WORDS = 64 * 1024
_CUT = " …"
_REPLACEMENT = "\ufffd"
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The common characters of each charset; two must be adjacent somewhere, since single accented letters of western
# languages sometimes look like one such character, but hardly ever like two.
_DOUBLE_BYTE = tuple(
    (codec, re.compile(rb"(?:[\x00-\x7f]|%b)+" % pair), re.compile(rb"(?:%b){2}" % pair))
    for codec, pair in (
        ("gb18030", rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]"),
        ("euc_jp", rb"[\xa1-\xa5\xb0-\xcf][\xa1-\xfe]"),
        ("cp932", rb"(?:[\x81-\x83\x88-\x97][\x40-\x7e\x80-\xfc])"),
    )
)
# windows-1252 does not define five bytes; they become Latin-1's control characters
_WESTERN = "".join(bytes([one]).decode("cp1252", "ignore") or chr(one) for one in range(256))
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_END = re.compile("\r\n?")


def decoded(raw: bytes) -> str:
    """Return bytes as text: by their byte order mark, else as UTF-8, else by a guessed charset.

    Guesses are GBK, EUC-JP, Shift-JIS and, for everything else, windows-1252, which includes Latin-1. Never raises and
    loses no byte, except that after a mark of UTF-16 or UTF-32 undecodable bytes become U+FFFD.
    """
    if raw.isascii():
        return raw.decode("ascii")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    for mark, codec in _BOMS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(codec, "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _guessed(raw)


def _guessed(raw: bytes) -> str:
    for codec, whole, side_by_side in _DOUBLE_BYTE:
        if side_by_side.search(raw) and whole.fullmatch(raw):
            return raw.decode(codec, "replace")
    return codecs.charmap_decode(raw, "strict", _WESTERN)[0]


def valid(text: str) -> str:
    """Return text without lone surrogates: escaped bytes are decoded, and a pair becomes its character.

    In the environment, arguments and HTTP headers Python represents bytes that are not UTF-8 by surrogates (PEP 383).
    A lone surrogate from JSON, `\\ud800`, becomes U+FFFD. Valid text is returned unchanged.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return text
    try:
        return decoded(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def legible(text: str | bytes, most: int = LONGEST_WORDS) -> str:
    """Return outside text in a form to show and store: valid, with at most `most` characters.

    Control characters become U+FFFD, so that they are visible and cannot control a terminal; line feeds and tabs stay.
    """
    words = decoded(text) if isinstance(text, bytes) else text if text.isascii() else valid(text)
    if len(words) > most:
        words = words[: most - len(_CUT)] + _CUT
    if words.isprintable():
        return words
    return _CONTROL.sub(_REPLACEMENT, _LINE_END.sub("\n", words))


def valid_value(value: Any) -> Any:
    """Return a value from a JSON or YAML reader with every text in it made valid, keys included."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [valid_value(one) for one in value]
    if isinstance(value, dict):
        return {valid_value(key): valid_value(one) for key, one in value.items()}
    return value
