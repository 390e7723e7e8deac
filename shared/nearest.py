"""The nearest name: what somebody may have meant who wrote a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# longer names are not misspelt, they are something else; and comparing takes the square of the length
_LONGEST = 60


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is nearest to another, "" where none is near."""
    by_folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6) if len(name) <= _LONGEST else []
    return by_folded[near[0]] if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of the known names, "" where none is near."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
