"""Names of fields in an answer, and the objects among them that mix snake_case with camelCase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

_SNAKE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")
_CAMEL = re.compile(r"[a-z]+[a-z0-9]*(?:[A-Z][a-z0-9]*)+")


def spellings(names: Iterable[str]) -> set[str]:
    """Return which spellings these names have; a single word has none of its own."""
    found = {"snake" if _SNAKE.fullmatch(one) else "camel" if _CAMEL.fullmatch(one) else "" for one in names}
    return found - {""}


def mixed(value: Any) -> set[str]:
    """Return the names in a value, and in whatever it holds, where they are not all of one spelling."""
    names = set(_names(value))
    return names if len(spellings(names)) > 1 else set()


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(one)
