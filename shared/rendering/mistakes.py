"""Mistakes in a template's tags: jinja2's messages are replaced by ours, which say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

from shared.rendering.delimiters import Tags
from shared.rendering.errors import RenderError, TagError

AS_TEXT = "To print literal braces, put them between {% raw %} and {% endraw %}."
_ENDINGS = {
    "end of print statement": "`}}`",
    "end of statement block": "`%}`",
    "begin of print statement": "`{{`",
    "begin of statement block": "`{%`",
    "end of template": "the end of the template",
}
_CLOSERS = {"endif": "if", "endfor": "for", "endset": "set", "else": "if", "elif": "if"}


def explained(error: TagError, tags: Tags) -> RenderError:
    """Return the error with its place and a hint."""
    reason = error.reason
    if reason.startswith("Unexpected end of template") and (unclosed := tags.unclosed()):
        place = tags.place(unclosed)
        word = place.tag.strip("{%-+ ").partition(" ")[0]
        return RenderError(f"this `{word}` is never closed: write {{% end{word} %}} at its end", place=place)
    return RenderError(_reason(reason), place=tags.place(error.tag))


def _reason(said: str) -> str:
    """Return our message for one of jinja2's; any other message stays."""
    for pattern, ours in _OURS:
        if found := pattern.match(said):
            return ours(*found.groups())
    return said


def _unknown(word: str) -> str:
    if word in _CLOSERS:
        return f"this `{word}` has no matching `{_CLOSERS[word]}`"
    return f"there is no statement {word[:40]!r}; known are if, for, set and raw. {AS_TEXT}"


def _expected(wanted: str, found: str) -> str:
    return f"{_ENDINGS.get(wanted, f'`{wanted}`')} is expected here, not {_ENDINGS.get(found, f'`{found}`')}. {AS_TEXT}"


def _unexpected(found: str) -> str:
    return f"{_ENDINGS.get(found, f'`{found}`')} is not expected here. {AS_TEXT}"


_OURS: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = (
    (re.compile(r"Encountered unknown tag '([^']*)'"), _unknown),
    (re.compile(r"expected token '([^']*)', got '(.*)'", re.DOTALL), _expected),
    (re.compile(r"Expected an expression"), lambda: f"this tag has nothing to print. {AS_TEXT}"),
    (re.compile(r"Missing end of raw"), lambda: "this `raw` is never closed: write {% endraw %} at its end"),
    (re.compile(r"[Uu]nexpected end of template"), lambda: f"this tag is never closed. {AS_TEXT}"),
    (re.compile(r"unexpected (?:char )?['\"](.*?)['\"](?: at |, expected |$)", re.DOTALL), _unexpected),
    (re.compile(r"tag name expected"), lambda: f"this tag is empty. {AS_TEXT}"),
)
