"""Charsets: text of any bytes, whatever charset a mail claims. Never raises; takes time in proportion to the bytes."""

from __future__ import annotations

import codecs
import re

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,40}")
# Python knows more codecs: of bytes (zip bombs), and of names (punycode, which takes quadratic time)
_FAMILIES = ("utf", "ascii", "iso8859", "iso2022", "cp", "koi8", "gb", "big5", "euc", "shift", "mac-", "tis")


def decode(content: bytes, charset: str) -> str:
    """Return the text of bytes; what is not of this charset becomes U+FFFD, an unknown charset is read as UTF-8."""
    text = content.decode(_codec(charset), "replace")
    return text.encode("utf-8", "surrogatepass").decode(
        "utf-8", "replace"
    )  # UTF-7 and UTF-16 can hold half of a pair, which JSON cannot


def _codec(charset: str) -> str:
    if _NAME.fullmatch(charset) is None:
        return "utf-8"
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return "utf-8"
    # Windows' own is a superset of ASCII and of Latin-1, as in browsers; UTF-8 is one of ASCII
    name = {"iso8859-1": "cp1252", "ascii": "utf-8"}.get(name, name)
    return name if name.startswith(_FAMILIES) else "utf-8"
