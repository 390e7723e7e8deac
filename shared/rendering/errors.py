"""The errors of templates: a `RenderError` has the place of the mistake and the variable at fault."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import KurirError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tag begins in its part, counted from 1 (0: unknown), and its shortened source."""

    line: int = 0
    column: int = 0
    tag: str = ""


NOWHERE = Place()


class RenderError(KurirError):
    """A template cannot be compiled or rendered.

    `variable` is the missing or unsuitable variable ("" if none is at fault), `part` the part of the template
    (`subject`, `html`, `text`, `whatsapp`), `place` the place in it. The message never has a recipient's values.
    """

    def __init__(self, reason: str, *, variable: str = "", part: str = "", place: Place = NOWHERE) -> None:
        where = f"{part}, line {place.line}, column {place.column}" if place.line else part
        tag = f", `{place.tag}`" if place.tag else ""
        super().__init__(f"{where}{tag}: {reason}" if part else reason)
        self.reason = reason
        self.variable = variable
        self.part = part
        self.place = place

    @property
    def line(self) -> int:
        """The line in the part, from 1; 0 if unknown."""
        return self.place.line

    def within(self, part: str) -> RenderError:
        """Return the same error with its part."""
        return RenderError(self.reason, variable=self.variable, part=part, place=self.place)

    def at(self, place: Place) -> RenderError:
        """Return the same error with its place."""
        return RenderError(self.reason, variable=self.variable, part=self.part, place=place)


class TagError(RenderError):
    """An error while a source is parsed; `tag` is the number of the faulty tag, from which its place is looked up."""

    def __init__(self, reason: str, tag: int) -> None:
        super().__init__(reason)
        self.tag = tag
