"""Names that the template of a blast does not know: told once each, however many recipients have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.ingest.problems import MAX_PROBLEMS, Problem
from services.ingest.recipients.csv_header import Header
from shared.nearest import Hints
from shared.rendering import BUILT_IN
from shared.templates import Template

CODE = "UNKNOWN_VARIABLE"
_SHOWN_CHARS = 60
# what every recipient has, and may have among its variables as well; the unsubscribe link is nobody's to give
_EVERYBODYS = BUILT_IN[:3]


def known_names(template: Template) -> frozenset[str]:
    """Return the names that may be given to a template."""
    return frozenset(one.name for one in template.variables) | set(_EVERYBODYS)


class UnknownNames:
    """Collects a warning for each unknown name, at most 100."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._known = known_names(template)
        self._hints = Hints()
        # those that need no warning (any more)
        self._passed = set(self._known)
        self._full = False
        self.warnings: list[Problem] = []

    def note(self, given: Mapping[str, Any], path: str) -> None:
        """Take the variables that one recipient was given; `path` is the place of their object in the request."""
        if not self._full and not given.keys() <= self._passed:
            self.add((name for name in given if name not in self._passed), path)

    def note_columns(self, header: Header) -> None:
        """Take the columns of a file, with the template's names where they are its variables."""
        columns = (name for name, _ in header.variables if name not in self._known and name not in header.aliased)
        self.add(columns, "recipients[0].variables", "column")
        self._passed |= header.aliased

    def among(self, given: Mapping[str, Any]) -> list[str]:
        """Return the unknown names that were given."""
        return [name for name in given if name not in self._known]

    def add(self, names: Iterable[str], path: str, what: str = "variable") -> None:
        """Warn of names."""
        for name in names:
            if len(self.warnings) >= MAX_PROBLEMS:
                self._full = True
                return
            shown = name[:_SHOWN_CHARS]
            near = self._hints.did_you_mean(name, sorted(self._known))
            message = f"the template {self._template.id} does not use the {what} {shown!r}{near}"
            self.warnings.append(Problem(f"{path}.{shown}", CODE, message))
            self._passed.add(name)


def unknown_globals(template: Template, given: Mapping[str, Any], path: str = "globalVariables") -> list[Problem]:
    """Return a warning for each global variable that the template does not know."""
    names = UnknownNames(template)
    names.note(given, path)
    return names.warnings
