"""The text parts of a letter, encoded before the first message of a blast: each message encodes only its values.

This is for the usual letter, whose texts are ASCII in short lines and whose values are words. Anything else is rendered
and encoded as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from markupsafe import escape

from services.email_sender.mime import LONGEST_LINE, is_plain
from shared.rendering.budget import MAX_OUTPUT_CHARS
from shared.rendering.interpolation import Interpolation

_VALUE_MARK = "\0"
# shorter limits would refuse many names
_LEAST_CHARS = 60
_MARKUP = re.compile(rb"[&<>'\"]")


class ReadyPart:
    """A part with its headers; `most_chars` is the longest value, escaped, with which no line becomes too long."""

    def __init__(self, content_type: bytes, interpolation: Interpolation, most_chars: int) -> None:
        self.interpolation = interpolation
        self.most_chars = most_chars
        texts = [text.encode("ascii").replace(b"\n", b"\r\n") for text in interpolation.texts]
        texts[0] = b"%b\r\nContent-Transfer-Encoding: 7bit\r\n\r\n%b" % (content_type, texts[0])
        if not interpolation.texts[-1].endswith("\n"):
            texts[-1] += b"\r\n"
        self.plain = is_plain(_VALUE_MARK.encode().join(texts))
        self.pieces = [b""] * (2 * len(texts) - 1)
        self.pieces[::2] = texts


class Filled(msgspec.Struct, frozen=True):
    """A letter in pieces, and whether its lines are plain (`PlainLines`)."""

    pieces: list[bytes]
    plain: bool


class ReadyParts:
    """The parts of a letter between the lines of a boundary, of which there is one more."""

    def __init__(self, parts: Sequence[ReadyPart], boundary: Sequence[bytes]) -> None:
        self._pieces = [boundary[0]]
        # the place of each part among the pieces
        self._parts: list[slice] = []
        # of each name, for each part: the places of its value, whether it is escaped, and the longest one that fits
        self._values: dict[str, list[tuple[list[int], bool, int]]] = {}
        # the names in a part that is right only for neat values (`Interpolation`)
        self._neat: set[str] = set()
        for part, line in zip(parts, boundary[1:], strict=True):
            interpolation, start = part.interpolation, len(self._pieces)
            for name, places in interpolation.places:
                found = ([start + place for place in places], interpolation.escapes, part.most_chars)
                self._values.setdefault(name, []).append(found)
            self._neat.update(interpolation.names if interpolation.neat else ())
            self._pieces += part.pieces
            self._parts.append(slice(start, len(self._pieces)))
            self._pieces.append(line)
        self._plain = all(part.plain for part in parts)

    def fill(self, values: Mapping[str, Any]) -> Filled | None:
        """Return the letter: what `mime.text_part` returns for the text of each part, between the boundary's lines.

        None if the letter must be rendered for that.
        """
        pieces = self._pieces.copy()
        plain = self._plain
        for name, parts in self._values.items():
            value = values.get(name)
            # a word: plain ASCII on one line
            if value.__class__ is not str or not value or not value.isascii() or not value.isprintable():
                return None
            neat = value[0] != " " != value[-1] and "  " not in value
            if not neat and name in self._neat:
                return None
            plain = plain and neat and value[0] != "."
            encoded = value.encode("ascii")
            for places, escapes, most_chars in parts:
                # asked first, since `escape` makes a text of its own class
                written = escape(value).encode("ascii") if escapes and _MARKUP.search(encoded) else encoded
                if len(written) > most_chars:
                    return None
                for place in places:
                    pieces[place] = written
        return Filled(pieces, plain)

    def apart(self, filled: Filled) -> list[bytes]:
        """Return each part of a letter."""
        return [b"".join(filled.pieces[part]) for part in self._parts]


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
