"""Text parts encoded before the first message of a blast: each message encodes only the values of their variables.

This is for the usual letter, whose text is ASCII in short lines and whose values are words. Anything else is rendered
and encoded as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from markupsafe import escape

from services.email_sender.mime import LONGEST_LINE, is_plain
from shared.rendering.budget import MAX_OUTPUT_CHARS
from shared.rendering.interpolation import Interpolation

_VALUE_MARK = "\0"
# shorter limits would refuse many names
_LEAST_CHARS = 60


class ReadyPart:
    """A part with its headers; `most_chars` is the longest value, escaped, with which no line becomes too long."""

    def __init__(self, content_type: bytes, interpolation: Interpolation, most_chars: int) -> None:
        self._interpolation = interpolation
        self._most_chars = most_chars
        texts = [text.encode("ascii").replace(b"\n", b"\r\n") for text in interpolation.texts]
        texts[0] = b"%b\r\nContent-Transfer-Encoding: 7bit\r\n\r\n%b" % (content_type, texts[0])
        if not interpolation.texts[-1].endswith("\n"):
            texts[-1] += b"\r\n"
        self._plain = is_plain(_VALUE_MARK.encode().join(texts))
        self._pieces = [b""] * (2 * len(texts) - 1)
        self._pieces[::2] = texts

    def fill(self, values: Mapping[str, Any]) -> tuple[bytes, bool] | None:
        """Return what `mime.text_part` returns for the part's text, and whether its lines are plain (`PlainLines`).

        None if the part must be rendered for that.
        """
        pieces = self._pieces.copy()
        plain = self._plain
        for name, places in self._interpolation.places:
            value = values.get(name)
            if value.__class__ is not str or not _is_word(value, neat=self._interpolation.neat):
                return None
            plain = plain and value[0] not in " ." and value[-1] != " " and "  " not in value
            written = escape(value) if self._interpolation.escapes else value
            if len(written) > self._most_chars:
                return None
            encoded = written.encode("ascii")
            for place in places:
                pieces[place] = encoded
        return b"".join(pieces), plain


def _is_word(value: str, *, neat: bool) -> bool:
    """Return whether a value is plain ASCII on one line, and not empty; a neat one also without extra spaces."""
    if not value or not value.isascii() or not value.isprintable():
        return False
    return not neat or (value[0] != " " != value[-1] and "  " not in value)


@lru_cache(32)
def ready_part(content_type: bytes, interpolation: Interpolation | None) -> ReadyPart | None:
    """Return a part ready to be filled; None if it is no interpolation, or if its text needs an encoding.

    Blasts with the same content share the part: each single message is a blast of its own.
    """
    if interpolation is None:
        return None
    texts = interpolation.texts
    if not all(text.isascii() and _VALUE_MARK not in text and "\r" not in text for text in texts):
        return None
    if sum(map(len, texts)) + LONGEST_LINE * len(interpolation.names) > MAX_OUTPUT_CHARS // 2:
        return None  # rendering counts what it writes, also what it then trims
    most_chars = LONGEST_LINE
    for line in _VALUE_MARK.join(texts).split("\n"):
        values = line.count(_VALUE_MARK)
        room = LONGEST_LINE - (len(line) - values)
        if room < _LEAST_CHARS * values:
            return None
        if values:
            most_chars = min(most_chars, room // values)
    return ReadyPart(content_type, interpolation, most_chars)
