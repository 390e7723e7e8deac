"""The values of a template's expressions, and how they become text.

Values are those of JSON: no Python object with attributes ever reaches a template. A template can loop over containers
and read their items, but not print, compare, concatenate or nest them, so nothing grows faster than the template is
long.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any

from jinja2 import StrictUndefined
from jinja2.runtime import LoopContext, Undefined
from markupsafe import Markup

from shared.numbers import MAX_NUMBER, AmbiguousNumberError, NotANumberError, Number, read_number
from shared.rendering.budget import charge_text
from shared.rendering.errors import RenderError

Exact = int | Decimal
Scalar = str | int | float | Decimal | bool | None

_TRAPS = [InvalidOperation, DivisionByZero, Overflow]
# sums and products of numbers with 30 digits before and after the point are exact; smaller numbers become zero
EXACT = Context(prec=130, rounding=ROUND_HALF_UP, Emin=-100, Emax=999, traps=_TRAPS)
# a quotient may have endless digits: it gets the precision of Python's decimal
DIVISION = Context(prec=28, rounding=ROUND_HALF_UP, Emin=-100, Emax=999, traps=_TRAPS)


class MissingVariable(StrictUndefined):
    """A name without a value: any use except `is defined` and `default` raises a RenderError that names it."""

    __slots__ = ()

    def _fail_with_undefined_error(self, *_args: Any, **_kwargs: Any) -> Any:
        name = self._undefined_name or ""
        raise RenderError(f"variable {name!r} has no value", variable=str(name))

    __iter__ = __str__ = __len__ = _fail_with_undefined_error
    __eq__ = __ne__ = __bool__ = __hash__ = _fail_with_undefined_error
    __contains__ = __getattr__ = _fail_with_undefined_error


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple, range)):
        return "a list"
    if isinstance(value, LoopContext):
        return "the loop itself"
    return "a value of another kind"


def demand(value: object) -> Any:
    """Return a value; raises RenderError with the name of a missing one."""
    if isinstance(value, MissingVariable):
        value._fail_with_undefined_error()  # noqa: SLF001 - our own class, above
    return value


def scalar(value: object) -> Scalar:
    """Return a single value; raises RenderError for a missing value and for a container."""
    if value is None or isinstance(value, (str, int, float, Decimal)):
        return value
    demand(value)
    raise RenderError(f"a text or a number is needed here, not {_kind(value)}")


def text(value: object) -> str:
    """Write a single value as text and charge for its length; null becomes an empty text."""
    if isinstance(value, str):
        charge_text(len(value))
        return value
    value = scalar(value)
    charge_text(0)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return value.written
    exact = number(value)
    return str(exact) if isinstance(exact, int) else format(exact or abs(exact), "f")


class AmbiguousTextError(RenderError):
    """A text could be two different numbers."""


def number(value: object) -> Exact:
    """Return a number, or read one from a text; raises RenderError."""
    value = scalar(value)
    if isinstance(value, str):
        return _parsed_number(value)
    if value is None or isinstance(value, bool):
        raise RenderError("a number is needed here")
    exact = value if isinstance(value, (int, Decimal)) else Decimal(repr(value))
    if not (isinstance(exact, int) or exact.is_finite()) or not -MAX_NUMBER <= exact <= MAX_NUMBER:
        raise RenderError("a number is too large")
    return exact


def _parsed_number(written: str) -> Exact:
    try:
        return read_number(written)
    except AmbiguousNumberError as error:
        raise AmbiguousTextError(f"a text {error}; give it as a JSON number, or without grouping") from None
    except NotANumberError as error:
        raise RenderError(f"a number is needed here, but a text {error}") from None


def moment(value: object) -> date:
    """Read an ISO 8601 date or time (2026-01-31, 2026-01-31T12:00:00Z) or seconds since the epoch."""
    value = scalar(value)
    try:
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            return datetime.fromtimestamp(float(value), UTC)
        written = text(value).strip()
        return date.fromisoformat(written) if len(written) == 10 else datetime.fromisoformat(written)
    except (ValueError, OverflowError, OSError):
        raise RenderError("a date such as 2026-01-31 or 2026-01-31T12:00:00Z is needed here") from None


def finalize(value: object) -> object:
    """Return the printed form of an output expression's value (jinja2 escapes it afterwards)."""
    if value.__class__ is str:
        charge_text(len(value))
        return value
    return value if isinstance(value, Markup) and _charged(value) else text(value)


def _charged(value: Markup) -> bool:
    charge_text(len(value))
    return True


def is_missing(value: object) -> bool:
    """Return whether a value is missing or null."""
    return value is None or isinstance(value, Undefined)
