"""What goes wrong in a template: a `RenderError` that says where, and which variable is to blame."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import KurirError


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a part a tag begins, counted from 1 (0: not known), and how it reads, shortened."""

    line: int = 0
    column: int = 0
    tag: str = ""


NOWHERE = Place()


class RenderError(KurirError):
    """A template that cannot be compiled or rendered.

    `variable` is the name that is missing or unfit ("" where none is to blame), `part` the part of the template
    (`subject`, `html`, `text`, `whatsapp`), `place` the place in it. The message never holds a value of a recipient.
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
        """The line in the part, from 1; 0 where it is not known."""
        return self.place.line

    def within(self, part: str) -> RenderError:
        """Return the same error with its part named."""
        return RenderError(self.reason, variable=self.variable, part=part, place=self.place)

    def at(self, place: Place) -> RenderError:
        """Return the same error with its place."""
        return RenderError(self.reason, variable=self.variable, part=self.part, place=place)


class TagError(RenderError):
    """An error while a source is read: `tag` is the number of the tag that has it, until its place is looked up."""

    def __init__(self, reason: str, tag: int) -> None:
        super().__init__(reason)
        self.tag = tag
