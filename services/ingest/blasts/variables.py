"""Variables: checks their values against the declared types, and reports names that the template does not use.

A value is kept as the client wrote it; a number in a string (as in every CSV file) becomes a number that is printed as
it was written. Null and strings that show nothing count as not given. An unknown name is reported once, however many
recipients have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from services.ingest.blasts.addresses import normal_phone
from services.ingest.blasts.csv_header import Header
from services.ingest.http.errors import MAX_PROBLEMS, Problem
from shared.addresses import BLANK, AddressError
from shared.mailboxes import normal_email
from shared.nearest import Hints
from shared.numbers import (
    MAX_DIGITS,
    AmbiguousNumberError,
    NotANumberError,
    Number,
    read_number,
    whole,
    within_bounds,
)
from shared.rendering import BUILT_IN
from shared.templates import Template, Variable

MAX_TEXT_CHARS = 65_536
_SHOWN_CHARS = 60
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.,]{4,15}(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?")

Value = str | int | Number | bool
Check = Callable[[Any], Value]
CODE = "UNKNOWN_VARIABLE"
# the recipient's own fields, which may be given as variables as well; the unsubscribe link may not
_OWN_FIELDS = BUILT_IN[:3]


class ValueProblem(ValueError):  # noqa: N818 - the API calls it a problem
    """A value that does not fit; `code` is an error code of the API.

    The message is for the client: a predicate to follow the variable's name (`should be a number, but is 'x'`).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def is_nothing(value: object) -> bool:
    """Return whether a value counts as not given."""
    return value is None or (isinstance(value, str) and not value.strip(BLANK))


def check_of(variable: Variable, region: str) -> Check:
    """Return the check of a variable's type, which returns the value to keep or raises ValueProblem.

    The problem of a sensitive variable does not quote its value.
    """
    check = _check_of_type(variable, region)
    return _discreet(check, variable.type) if variable.sensitive else check


def _discreet(check: Check, kind: str) -> Check:
    def discreet(value: object) -> Value:
        try:
            return check(value)
        except ValueProblem as problem:
            if problem.code != "INVALID_VARIABLE":
                raise  # its length, or a character: this quotes nothing
            what = f"is not a valid {kind} (it is sensitive, so its value is not shown)"
            raise ValueProblem(problem.code, what) from None

    return discreet


def _check_of_type(variable: Variable, region: str) -> Check:
    match variable.type:
        case "number":
            return number_value
        case "date":
            return date_value
        case "url":
            return url_value
        case "email":
            return _address_value(normal_email)
        case "phone":
            return _address_value(lambda text: normal_phone(text, region))
        case "string":
            return text_value


def text_value(value: object) -> Value:
    """Check a string; numbers and booleans are accepted as well."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS:
            raise ValueProblem("TOO_LONG", f"is longer than {MAX_TEXT_CHARS} characters")
        if not value.isprintable() and _CONTROL.search(value):
            raise ValueProblem("INVALID_CHARACTERS", "contains control characters")
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float, Decimal)):
        return number_value(value)
    raise _unfit("a string", value)


def number_value(value: object) -> Value:
    """Check a number; a string that is unambiguously a number becomes one."""
    if isinstance(value, str):
        return _written_number(value)
    if isinstance(value, float):  # YAML's
        value = Number(repr(value))
    if isinstance(value, bool) or not isinstance(value, (int, Number)):
        raise _unfit("a number", value)
    if not within_bounds(value):
        what = f"may have at most {MAX_DIGITS} digits before the decimal point, and as many after it"
        raise ValueProblem("INVALID_VARIABLE", what)
    return whole(value) if isinstance(value, int) else value


def _written_number(written: str) -> Value:
    try:
        return read_number(written)
    except AmbiguousNumberError as error:
        one, other = error.readings
        what = f"could be {one} or {other[:-1]}: write {one!r} or {other!r}, or give it as a JSON number"
        raise ValueProblem("INVALID_VARIABLE", f"is {written[:_SHOWN_CHARS]!r}, which {what}") from None
    except NotANumberError as error:
        what = f"should be a number, but {written[:_SHOWN_CHARS]!r} {error}"
        raise ValueProblem("INVALID_VARIABLE", what) from None


def date_value(value: object) -> Value:
    """Check an ISO 8601 date or time."""
    if isinstance(value, str) and _DATE.fullmatch(value.strip()):
        written = value.strip()
        try:
            date.fromisoformat(written) if len(written) == 10 else datetime.fromisoformat(written)
        except ValueError:
            raise _unfit("an existing date", value) from None
        return written
    raise _unfit("a date such as 2026-01-31 or 2026-01-31T12:00:00Z", value)


def url_value(value: object) -> Value:
    """Check an absolute http or https URL."""
    wanted = "a URL such as https://example.com/path"
    if not isinstance(value, str):
        raise _unfit(wanted, value)
    written = text_value(value.strip())
    assert isinstance(written, str)  # noqa: S101 - a string stays a string
    try:
        parts = urlsplit(written)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good or any(char.isspace() for char in written):
        raise _unfit(wanted, value)
    return written


def _address_value(normal: Callable[[str], str]) -> Check:
    def check(value: object) -> Value:
        if not isinstance(value, str):
            raise _unfit("an address in a string", value)
        try:
            normal(value)
        except AddressError as error:
            raise ValueProblem("INVALID_VARIABLE", f"is invalid: {error}") from None
        return value.strip()

    return check


def _unfit(wanted: str, value: object) -> ValueProblem:
    if isinstance(value, (str, int, float, Decimal)):
        written = "a number of too many digits" if _is_huge(value) else str(value)
        shown = repr(written[:_SHOWN_CHARS])
    else:
        shown = "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else "nothing"
    return ValueProblem("INVALID_VARIABLE", f"should be {wanted}, but is {shown}")


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and not within_bounds(value)


def check_global_variables(
    template: Template, given: Mapping[str, Any], region: str, path: str = "globalVariables"
) -> tuple[dict[str, Any], list[Problem]]:
    """Check a blast's global variables; return those that the template knows, and every problem."""
    checks = {variable.name: check_of(variable, region) for variable in template.variables}
    checks |= {name: text_value for name in BUILT_IN[:3] if name not in checks}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        if name not in checks or is_nothing(value):
            continue
        try:
            values[name] = checks[name](value)
        except ValueProblem as problem:
            problems.append(Problem(f"{path}.{name}", problem.code, f"{name} {problem}"))
    return values, problems


def known_names(template: Template) -> frozenset[str]:
    """Return the names that may be given to a template."""
    return frozenset(one.name for one in template.variables) | set(_OWN_FIELDS)


class UnknownNames:
    """Collects a warning for each unknown name, at most 100."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._known = known_names(template)
        self._hints = Hints()
        # names that need no (further) warning
        self._passed = set(self._known)
        self._full = False
        self.warnings: list[Problem] = []

    def note(self, given: Mapping[str, Any], path: str) -> None:
        """Note the variables given for one recipient; `path` is the JSON path of their object."""
        if not self._full and not given.keys() <= self._passed:
            self.add((name for name in given if name not in self._passed), path)

    def note_columns(self, header: Header) -> None:
        """Note the columns of a file, which have the template's names where they match its variables."""
        columns = (name for name, _ in header.variables if name not in self._known and name not in header.aliased)
        self.add(columns, "recipients[0].variables", "column")
        self._passed |= header.aliased

    def among(self, given: Mapping[str, Any]) -> list[str]:
        """Return the unknown names that were given."""
        return [name for name in given if name not in self._known]

    def known(self, given: Mapping[str, Any]) -> list[str]:
        """Return the names that were given and that the template knows."""
        return [name for name in given if name in self._known]

    def add(self, names: Iterable[str], path: str, what: str = "variable") -> None:
        """Add a warning for each name."""
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
