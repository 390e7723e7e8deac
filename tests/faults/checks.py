"""Counts every check of a guarantee under its name, and every violation.

A test continues after a violation, so that one run reports all of them; it fails at its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

GUARANTEES = ("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9")
_MOST_SHOWN = 20


@dataclass
class Checks:
    """The checks of one test: counts by guarantee, each violation in words, and notes that help to explain it."""

    done: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, str]] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)

    def that(self, guarantee: str, holds: bool, said: str) -> bool:
        """Count one check and record a violation if it does not hold; return whether it holds."""
        assert guarantee in GUARANTEES, guarantee
        self.done[guarantee] += 1
        if not holds:
            self.violations.append((guarantee, said))
        return holds

    def none(self, guarantee: str, found: Collection[object], looked_at: int, said: str) -> bool:
        """Count `looked_at` checks of which those in `found` failed."""
        assert guarantee in GUARANTEES, guarantee
        self.done[guarantee] += looked_at
        shown = ", ".join(map(str, list(found)[:5]))
        self.violations += [(guarantee, f"{said}: {len(found)}, such as {shown}")] * bool(found)
        return not found

    def summary(self) -> dict[str, tuple[int, int]]:
        """Return checks and violations by guarantee."""
        bad = Counter(guarantee for guarantee, _ in self.violations)
        return {name: (self.done[name], bad[name]) for name in GUARANTEES if self.done[name]}

    def words(self) -> str:
        """Return the violations, one per line, `_MOST_SHOWN` at most, and the notes."""
        lines = [f"{guarantee}: {said}" for guarantee, said in self.violations[:_MOST_SHOWN]]
        more = len(self.violations) - _MOST_SHOWN
        return "\n".join([*lines, *([f"… and {more} more"] if more > 0 else []), *self.stories])
