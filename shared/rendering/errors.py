"""What goes wrong in a template: a `RenderError` that says where, and which variable is to blame."""

from __future__ import annotations

from shared.errors import KurirError


class RenderError(KurirError):
    """A template that cannot be compiled or rendered.

    `variable` is the name that is missing or unfit ("" where none is to blame), `part` the part of the template
    (`subject`, `html`, `text`, `whatsapp`), `line` the line in it, from 1, 0 where it is not known. The message
    never holds a value of a recipient.
    """

    def __init__(self, reason: str, *, variable: str = "", part: str = "", line: int = 0) -> None:
        where = f"{part}, line {line}: " if part and line else f"{part}: " if part else ""
        super().__init__(where + reason)
        self.reason = reason
        self.variable = variable
        self.part = part
        self.line = line

    def within(self, part: str) -> RenderError:
        """Return the same error with its part named."""
        return RenderError(self.reason, variable=self.variable, part=part, line=self.line)
