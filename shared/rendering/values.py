"""What a template's expressions may hold, and how a value becomes text.

Values are what JSON has, nothing else: no object with attributes ever reaches a template. Containers can be looped
over and looked into, but not printed, compared, concatenated or nested anew, so nothing grows faster than a
template is long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from jinja2 import StrictUndefined
from jinja2.runtime import LoopContext, Undefined
from markupsafe import Markup

from shared.rendering.errors import RenderError
from shared.rendering.limits import MAX_NUMBER, charge_text

Scalar = str | int | float | bool | None

_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?")


class MissingVariable(StrictUndefined):
    """A name without a value: any use but `is defined` and `default` raises a RenderError that names it."""

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
    return "no text or number"


def demand(value: object) -> Any:
    """Return a value that exists; raises RenderError with the name of a missing one."""
    if isinstance(value, MissingVariable):
        value._fail_with_undefined_error()  # noqa: SLF001 - our own class, above
    return value


def scalar(value: object) -> Scalar:
    """Return a single value; raises RenderError for a missing one and for a container."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    demand(value)
    raise RenderError(f"{_kind(value)} stands where a text or a number is needed")


def text(value: object) -> str:
    """Write a single value as a text, charging for its length; nothing becomes an empty text."""
    if isinstance(value, str):
        charge_text(len(value))
        return value
    value = scalar(value)
    charge_text(0)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise RenderError("a number is too large")
    return str(value)


def number(value: object) -> int | float:
    """Return a number, also from a text that holds one; raises RenderError."""
    value = scalar(value)
    if isinstance(value, str):
        return _parsed_number(value.strip())
    if value is None or isinstance(value, bool):
        raise RenderError("a number is needed")
    if not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise RenderError("a number is too large")
    return value


def _parsed_number(digits: str) -> int | float:
    if _NUMBER.fullmatch(digits) is None:
        raise RenderError("a number is needed")
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def moment(value: object) -> date:
    """Read an ISO 8601 date or time (2026-01-31, 2026-01-31T12:00:00Z) or seconds since the epoch."""
    value = scalar(value)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        written = text(value).strip()
        return date.fromisoformat(written) if len(written) == 10 else datetime.fromisoformat(written)
    except (ValueError, OverflowError, OSError):
        raise RenderError("a date such as 2026-01-31 or 2026-01-31T12:00:00Z is needed") from None


def finalize(value: object) -> object:
    """Turn the value of an output expression into what is printed (jinja2 escapes it afterwards)."""
    return value if isinstance(value, Markup) and _charged(value) else text(value)


def _charged(value: Markup) -> bool:
    charge_text(len(value))
    return True


def is_missing(value: object) -> bool:
    """Say whether a value is absent or null."""
    return value is None or isinstance(value, Undefined)
