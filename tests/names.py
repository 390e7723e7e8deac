"""Finds field names in an answer that mix snake_case with camelCase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

_SNAKE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")
_CAMEL = re.compile(r"[a-z]+[a-z0-9]*(?:[A-Z][a-z0-9]*)+")


def spellings(names: Iterable[str]) -> set[str]:
    """Return the spellings of names, `snake` and `camel`; a single word has neither."""
    found = {"snake" if _SNAKE.fullmatch(one) else "camel" if _CAMEL.fullmatch(one) else "" for one in names}
    return found - {""}


def mixed(value: Any) -> set[str]:
    """Return all names in a value, nested ones included, if they have both spellings; else nothing."""
    names = set(_names(value))
    return names if len(spellings(names)) > 1 else set()


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(one)
