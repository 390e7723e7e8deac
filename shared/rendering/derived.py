"""The text part of a template that has only html, derived once when the template is compiled.

Each `{{ … }}` and `{% … %}` of the html is replaced by a mark, the html is converted to text, and the marks are
replaced by their tags again. The result is a text template, so rendering a message needs no html parsing. If the result
would not be faithful (a condition inside a tag, unescaped values, literal braces …), each message's rendered html is
converted instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from shared.rendering.delimiters import TagLexer
from shared.rendering.errors import RenderError
from shared.rendering.interpolation import Interpolation
from shared.rendering.plaintext import (
    BREAK,
    ENDS,
    SPACE,
    STATEMENT,
    Reader,
    html_to_text,
    is_neat,
    is_neat_word,
    settle,
    tidy,
    trimmed,
)
from shared.rendering.sandbox import HTML, PLAIN_AS_IS, Part

# an expression's mark is treated as a word; a statement's mark, which `plaintext` knows, has no width
_EXPRESSION_MARK = "\ue000{}\ue001"
_STATEMENT_MARK = "\ue002{}\ue003"
_MARK = re.compile("[\ue000\ue002]([0-9]+)[\ue001\ue003]")
_PRIVATE = re.compile(f"[\ue000-\ue003{SPACE}-{BREAK}]")
_UNFAITHFUL = re.compile(r"\|\s*(?:safe|nl2br|e|escape)\b|<\s*(?:pre|ol)\b", re.IGNORECASE)
_BRACES = ("{{", "{%")


class TextPart(Protocol):
    """Produces the text of a message; `html` is its rendered html."""

    @property
    def interpolation(self) -> Interpolation | None:
        """The text if it only inserts variables, else None."""
        ...

    def render(self, values: Mapping[str, Any], html: str) -> str:
        """Return the text; raises RenderError."""
        ...


class WrittenText:
    """A text part that the template's author wrote."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.interpolation = part.interpolation

    def render(self, values: Mapping[str, Any], html: str) -> str:
        """Return the text; raises RenderError."""
        del html
        return self.part.render(values)


class DerivedText:
    """A text template derived from the html; with `gaps` it has statements, next to which spacing is undecided."""

    def __init__(self, part: Part, *, gaps: bool) -> None:
        self.part = part
        self._gaps = gaps
        self.interpolation = _neat(part.interpolation) if part.interpolation is not None else None

    def render(self, values: Mapping[str, Any], html: str) -> str:
        """Return the text; raises RenderError."""
        del html
        text = self.part.render(values)
        if self.interpolation is not None and all(_is_neat_word(values[name]) for name in self.part.variables):
            return trimmed(text)
        return tidy(settle(text) if self._gaps else text)


def _neat(letter: Interpolation) -> Interpolation | None:
    """Return an interpolation trimmed, if that is all that has to be done to it whenever its values are neat words."""
    if not is_neat("x".join(letter.texts)):
        return None
    texts = list(letter.texts)
    texts[0] = texts[0].lstrip(ENDS)
    texts[-1] = texts[-1].rstrip(ENDS) + "\n"
    return Interpolation(texts, letter.names, escapes=letter.escapes, neat=True)


def _is_neat_word(value: object) -> bool:
    return isinstance(value, str) and is_neat_word(value)


class ConvertedText:
    """A text converted from each message's html."""

    interpolation = None

    def render(self, values: Mapping[str, Any], html: str) -> str:
        """Return the text."""
        del values
        return html_to_text(html)


def derive_text(html: str, language: str = "") -> TextPart:
    """Return the text part for an html source."""
    source = text_source(html)
    if source is None:
        return ConvertedText()
    try:
        return DerivedText(Part(source, "text", PLAIN_AS_IS, language), gaps="{%" in source)
    except RenderError:
        return ConvertedText()


def text_source(html: str) -> str | None:
    """Return the source of a text template with the html's content, or None if a faithful one is not possible."""
    if _PRIVATE.search(html) or _UNFAITHFUL.search(html):
        return None
    marks = _Marks()
    marked = marks.put_aside(html)
    if marked is None:
        return None
    reader = Reader.read(marked)
    text = reader.text()
    if not reader.faithful or any(brace in text for brace in _BRACES):
        return None
    # a statement inside a style or a comment is dropped, so its counterpart must not stay
    if STATEMENT.findall(text) != marks.statements:
        return None
    return marks.put_back(text)


class _Marks:
    def __init__(self) -> None:
        self._sources: list[str] = []
        self._numbers: dict[str, int] = {}
        self.statements: list[str] = []

    def put_aside(self, html: str) -> str | None:
        """Return the html with marks instead of template tags, or None if it has raw blocks or cannot be read."""
        out: list[str] = []
        tag: list[str] = []
        try:
            for _number, kind, value in TagLexer(HTML, html).pieces():
                if kind.startswith("raw_"):
                    return None
                if kind == "data":
                    out.append(value)
                else:
                    tag.append(value)
                    if kind in {"variable_end", "block_end"}:
                        out.append(self._mark("".join(tag), kind))
                        tag.clear()
        except RenderError:
            return None
        return "".join(out)

    def _mark(self, source: str, kind: str) -> str:
        if kind == "block_end":
            # each statement gets its own mark, so that their order can be compared
            self._sources.append(source.rstrip("\n"))
            self.statements.append(_STATEMENT_MARK.format(len(self._sources) - 1))
            return self.statements[-1]
        if source not in self._numbers:
            # equal expressions share a mark, so that a link whose label is its address is recognised
            self._numbers[source] = len(self._sources)
            self._sources.append(source)
        return _EXPRESSION_MARK.format(self._numbers[source])

    def put_back(self, text: str) -> str:
        return _MARK.sub(lambda mark: self._sources[int(mark[1])], text)
