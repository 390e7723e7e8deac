"""Parts that only insert variables into a text, filled in without running jinja2's code.

Most parts of most templates are such. Where a value is no text, is missing or is very long, the part is rendered in the
usual way instead, so that there is one place for errors and for the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import nodes
from markupsafe import escape

from shared.rendering.budget import MAX_OUTPUT_CHARS


class Interpolation:
    """Such a part: texts, one more than variables, which are between them.

    With `escapes` the values are escaped for html. With `neat` it is the part only for neat values
    (`plaintext.is_neat_word`).
    """

    def __init__(self, texts: Sequence[str], names: Sequence[str], *, escapes: bool, neat: bool = False) -> None:
        self.texts = tuple(texts)
        self.names = tuple(names)
        self.escapes = escapes
        self.neat = neat
        self._pieces = [""] * (len(texts) + len(names))
        self._pieces[::2] = texts
        # such values together have at most the output's cap of characters: that never exhausts the budget of steps
        self._most_chars = MAX_OUTPUT_CHARS // max(1, len(names))
        self.places = _places(names)

    def fill(self, values: Mapping[str, Any], cap: int) -> str | None:
        """Return the text; None if the part must be rendered in the usual way, to the same or to an error."""
        pieces = self._pieces.copy()
        for name, places in self.places:
            value = values.get(name)
            if value.__class__ is not str or len(value) > self._most_chars:
                return None
            written = escape(value) if self.escapes else value
            for place in places:
                pieces[place] = written
        filled = "".join(pieces)
        return filled if len(filled) <= cap else None


def _places(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return each name with its places among the pieces: texts and variables in turn, a text first."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(2 * number + 1)
    return list(found.items())


def interpolation(template: nodes.Template, *, escapes: bool) -> Interpolation | None:
    """Return the interpolation that a template consists of; None if it does anything else."""
    texts, names = [""], list[str]()
    for output in template.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                texts[-1] += node.data
            elif isinstance(node, nodes.Name):
                names.append(node.name)
                texts.append("")
            else:
                return None
    return Interpolation(texts, names, escapes=escapes)
