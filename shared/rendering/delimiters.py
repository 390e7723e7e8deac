"""Delimiters: jinja2's lexer, reduced to the documented delimiters.

Delimiters are `{{ … }}`, `{% … %}` around a statement, and `{% raw %} … {% endraw %}`; a `-` inside one removes the
white space before or after it. Everything else (`{#`, `#}`, `{%s}`, a closing delimiter without an opening one) is
plain text, since CSS, JavaScript and JSON are full of it. In `{{{` the last two braces open the tag.

Every token carries the number of its tag instead of its line, so that a syntax error of jinja2 can be shown with line,
column and the tag itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import Environment, TemplateSyntaxError
from jinja2.lexer import Lexer, Token

from shared.numbers import Number, within_bounds
from shared.rendering.budget import MAX_TOKENS
from shared.rendering.errors import Place, TagError

# all statements of jinja2, refused ones included: as plain text they would be sent to recipients
_STATEMENTS = (
    "autoescape|block|break|call|continue|debug|do|elif|else|embed|endautoescape|endblock|endcall|endfilter|endfor|"
    "endif|endmacro|endraw|endset|endtrans|endwith|extends|filter|for|from|if|import|include|macro|pluralize|print|"
    "raw|set|trans|with"
)
# also an unknown word, if its tag is closed; the search ends at the next brace
_STATEMENT = rf"\{{%(?=[-+]?\s*(?:(?:{_STATEMENTS})\b|[A-Za-z_][^{{}}%]*%\}}|%\}}))"
_EXPRESSION = r"\{\{(?!\{)"
_ROOT = re.compile(
    r"(.*?)(?:"
    r"(?P<raw_begin>\{%(\-|\+|)\s*raw\s*(?:\-%\}\s*|%\}))"
    rf"|(?P<block_begin>{_STATEMENT}(\-|\+|))"
    rf"|(?P<variable_begin>{_EXPRESSION}(\-|\+|)))",
    re.DOTALL,
)
_OPENING = frozenset({"raw_begin", "block_begin", "variable_begin"})
# white space may have been removed before these
_AFTER_STRIPPED = _OPENING | {"raw_end"}
_BLANK = re.compile(r"\s*")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_SHOWN_CHARS = 60
_BLOCKS = {"if": "endif", "for": "endfor"}
_WORD = re.compile(r"\{%[-+]?\s*(\w+)")


class Tags:
    """The tags of one source by number, as its tokens carry them."""

    def __init__(self, source: str) -> None:
        self.source = "\n".join(_LINE_BREAK.split(source))
        self._starts: list[int] = []

    def add(self, start: int) -> int:
        """Add a tag that begins at `start`; return its number, from 1."""
        self._starts.append(start)
        return len(self._starts)

    def place(self, number: int) -> Place:
        """Return the place of a tag; 0 is the text before the first tag."""
        if not 0 < number <= len(self._starts):
            return Place(1, 1)
        start = self._starts[number - 1]
        line_start = self.source.rfind("\n", 0, start) + 1
        return Place(self.source.count("\n", 0, start) + 1, start - line_start + 1, self._tag(number))

    def unclosed(self) -> int:
        """Return the number of the innermost unclosed `if` or `for`, or 0."""
        opened: list[tuple[int, str]] = []
        for number in range(1, len(self._starts) + 1):
            found = _WORD.match(self.source, self._starts[number - 1])
            word = found[1] if found else ""
            if word in _BLOCKS:
                opened.append((number, _BLOCKS[word]))
            elif opened and word == opened[-1][1]:
                opened.pop()
        return opened[-1][0] if opened else 0

    def _tag(self, number: int) -> str:
        start = self._starts[number - 1]
        opening = self.source[start : start + 2]
        end = self.source.find("}}" if opening == "{{" else "%}", start)
        stop = self._starts[number] if number < len(self._starts) else len(self.source)
        whole = self.source[start : end + 2 if 0 <= end < stop else stop]
        shown = " ".join(whole[: _SHOWN_CHARS * 2].split())
        return shown if len(shown) <= _SHOWN_CHARS else shown[: _SHOWN_CHARS - 1] + "…"


class TagLexer(Lexer):
    """jinja2's lexer with other rules for the start of a tag; one per source, since it records the tags."""

    def __init__(self, environment: Environment, source: str) -> None:
        super().__init__(environment)
        begin, data = self.rules["root"]
        self.rules["root"] = [begin._replace(pattern=_ROOT), data]
        self._source = source
        self.tags = Tags(source)

    def pieces(self) -> Iterator[tuple[int, str, str]]:
        """Yield the number of the tag, the kind and the text of each token; raises TagError."""
        source, at, number = self.tags.source, 0, 0
        try:
            for _line, kind, text in self.tokeniter(self._source, ""):
                if kind in _AFTER_STRIPPED:
                    at = _BLANK.match(source, at).end()  # type: ignore[union-attr]  # matches nothing as well
                if kind in _OPENING:
                    number = self.tags.add(at)
                at += len(text)
                yield number, kind, text
        except TemplateSyntaxError as error:
            raise TagError(error.message or "", number) from None

    def tokens(self) -> Iterator[Token]:
        """Yield tokens for the parser, with exact numbers; raises TagError."""
        for count, piece in enumerate(self.pieces()):
            number, kind, text = piece
            if count > MAX_TOKENS:
                raise TagError(f"the template has more than {MAX_TOKENS} tokens", number)
            if kind == "float":
                yield Token(number, kind, _exact(text, number))  # type: ignore[arg-type]  # a value, as theirs
            else:
                yield from self.wrap([piece])


def _exact(written: str, tag: int) -> Number:
    number = Number(written.replace("_", ""))
    if not within_bounds(number):
        raise TagError("a number is too large or too small", tag)
    return number
