"""Media types with their parameters, by the grammar of RFC 2045, section 5.1: `text/calendar; method=REQUEST`.

Accepted values cannot break out of a header: they have only tokens and quoted strings of printable ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"
_TYPE = re.compile(rf"({_WORD})/({_WORD})")
# possessive by construction: each piece begins with a character that cannot continue the one before
_PARAMETER = re.compile(
    rf'[ \t]*;[ \t]*({_WORD})[ \t]*=[ \t]*(?:({_WORD})|"((?:[^"\\\x00-\x1f\x7f-\U0010ffff]|\\[ -~])*)")'
)
_EMPTY = re.compile(r"[ \t;]*")
_PLAIN = re.compile(_WORD)
_ESCAPED = re.compile(r"\\(.)")
_TO_ESCAPE = re.compile(r'(["\\])')


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type: its name in lower case, and its parameters in order, with names in lower case."""

    name: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, parameter: str) -> str:
        """Return the value of a parameter, or ""."""
        return dict(self.parameters).get(parameter, "")

    def with_default(self, parameter: str, value: str) -> MediaType:
        """Return the media type with a parameter added, unless it already has it."""
        return self if self.get(parameter) else MediaType(self.name, (*self.parameters, (parameter, value)))

    def __str__(self) -> str:
        """Return the media type in the form that `parse_media_type` reads."""
        return "; ".join([self.name, *(f"{name}={written(value)}" for name, value in self.parameters)])


def written(value: str) -> str:
    """Return a parameter's value as a token, quoted if it is not one."""
    return value if _PLAIN.fullmatch(value) else '"' + _TO_ESCAPE.sub(r"\\\1", value) + '"'


def parse_media_type(text: str) -> MediaType:
    """Read a media type; raises ValueError with a message for the client."""
    text = text.strip(" \t")
    found = _TYPE.match(text)
    if found is None:
        raise ValueError("the content type must have the form type/subtype, such as application/pdf")
    parameters: dict[str, str] = {}
    at = found.end()
    while at < len(text) and not _EMPTY.fullmatch(text, at):
        one = _PARAMETER.match(text, at)
        if one is None:
            raise ValueError(
                f"the content type is not valid at character {at + 1}: parameters have the form ; name=value in ASCII, "
                'with quotes around a value that has spaces or signs, such as text/calendar; method="REQUEST"'
            )
        name = one[1].lower()
        if name in parameters:
            raise ValueError(f"the content type has the parameter {name} twice")
        parameters[name] = one[2] if one[2] is not None else _ESCAPED.sub(r"\1", one[3])
        at = one.end()
    return MediaType(found[0].lower(), tuple(parameters.items()))
