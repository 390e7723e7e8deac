"""The nearest name: what somebody may have meant who wrote a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# longer names are not misspelt, they are something else; and comparing takes the square of the length
_LONGEST = 40
_LEAST_LIKE = 0.6
# about 10 ms of processor time at most: clients choose how many names are compared with how many others
_CHARACTERS = 6000


class Hints:
    """Finds the names that are nearest to those of one request, the first of them where there are very many."""

    def __init__(self) -> None:
        self._left = _CHARACTERS

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """Return the known name that is nearest to another, "" where none is near, or too much was asked already."""
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
        """Return "; did you mean 'x'?" for the nearest of the known names, "" where none is near."""
        near = self.nearest(name, known)
        return f"; did you mean {near!r}?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of the known names, "" where none is near."""
    return Hints().did_you_mean(name, known)
