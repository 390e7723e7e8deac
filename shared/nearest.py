"""The nearest name: suggests a known name for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# longer names are rarely misspellings, and comparing takes time quadratic in the length
_LONGEST = 40
_LEAST_LIKE = 0.6
# bounds the time to about 10 ms of processor time, since clients choose how many names are compared
_CHARACTERS = 6000


class Hints:
    """Finds the nearest known names for one request, within a budget of compared characters."""

    def __init__(self) -> None:
        self._left = _CHARACTERS

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """Return the known name nearest to another, "" if none is near or the budget is used up."""
        folded = name.casefold()
        best, likeness = "", _LEAST_LIKE
        if len(folded) > _LONGEST:
            return best
        matcher = SequenceMatcher(b=folded)
        for one in known:
            length = len(one) + len(folded)
            if 2 * min(len(one), len(folded)) < likeness * length:
                continue
            self._left -= length
            if self._left < 0:
                break
            matcher.set_seq1(one.casefold())
            if matcher.quick_ratio() < likeness:
                continue
            ratio = matcher.ratio()
            if ratio > likeness or (ratio == likeness and not best):
                best, likeness = one, ratio
        return best

    def did_you_mean(self, name: str, known: Iterable[str]) -> str:
        """Return "; did you mean 'x'?" for the nearest known name, "" if none is near."""
        near = self.nearest(name, known)
        return f"; did you mean {near!r}?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, "" if none is near."""
    return Hints().did_you_mean(name, known)
