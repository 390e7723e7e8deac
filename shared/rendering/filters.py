"""The filters, methods and tests that a template may use: a short list, each charged to the budget.

jinja2's filters are left out if an argument can make their cost or output explode (`center`, `format`, `indent`,
`wordwrap`, `xmlattr`, `tojson`, `pprint`, `map`, `groupby` …).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from jinja2.runtime import Undefined
from markupsafe import Markup
from markupsafe import escape as escape_markup

from shared.rendering.budget import charge, charge_text
from shared.rendering.errors import RenderError
from shared.rendering.languages import currency_style, in_language
from shared.rendering.remembered import remembered
from shared.rendering.values import (
    EXACT,
    AmbiguousTextError,
    Exact,
    Scalar,
    demand,
    is_missing,
    moment,
    number,
    scalar,
    text,
)

# %-directives of strftime, without the widths that glibc allows (%1000000d)
_DATE_FORMAT = re.compile(r"(?:[^%]|%[aAbBdDeFHIjmMnpSTuUVwWyYzZ%])*")
MAX_DATE_FORMAT = 200
_MOST_PLACES = 12


def _cased(apply: Callable[[str], str]) -> Callable[[object], str]:
    def change(value: object) -> str:
        return apply(text(value))

    return change


def default(value: object, fallback: object = "", also_empty: object = False) -> object:
    """Return the fallback for a missing, null or empty value, with `also_empty` also for zero and false."""
    return fallback if is_missing(value) or value == "" or (also_empty and not value) else value


def safe(value: object) -> Markup:
    """Mark a text as html that needs no escaping; the template's author is responsible for it."""
    return Markup(text(value))  # noqa: S704 - this is what the filter is for


def escape(value: object) -> Markup:
    """Escape a text for html."""
    return escape_markup(text(value))


def nl2br(value: object) -> Markup:
    """Escape a text and show its line breaks in html."""
    return replace(escape_markup(text(value)), "\n", Markup("<br>\n"))  # type: ignore[return-value]  # Markup in, out


def replace(value: object, old: object, new: object) -> str:
    """Replace every occurrence of a text."""
    subject, before, after = text(value), text(old), text(new)
    if isinstance(subject, Markup):
        before, after = escape_markup(before), escape_markup(after)
    charge_text(len(subject) + max(0, len(after) - len(before)) * (subject.count(before)))
    return subject.replace(before, after)


def join(value: object, separator: object = "") -> str:
    """Join the single values of a list."""
    charge(1 + len(_sized(value)))
    pieces = [text(item) for item in _sized(value)]
    between = text(separator)
    charge_text(sum(map(len, pieces)) + len(between) * len(pieces))
    if isinstance(between, Markup) or any(isinstance(piece, Markup) for piece in pieces):
        return escape_markup(between).join(pieces)
    return between.join(pieces)


def length(value: object) -> int:
    """Return the length of a text, a list or an object; that of null is 0."""
    if value is None:
        return 0
    return len(value) if isinstance(value, (str, Mapping)) else len(_sized(value))


def first(value: object) -> object:
    """Return the first item, null for an empty list."""
    return _item(value, 0)


def last(value: object) -> object:
    """Return the last item, null for an empty list."""
    return _item(value, -1)


def truncate(value: object, chars: object = 80, ending: object = "…") -> str:
    """Shorten a text to `chars` characters, the ending included."""
    subject, size, tail = text(value), int(number(chars)), text(ending)
    if len(subject) <= size:
        return subject
    return str(subject)[: max(0, size - len(tail))] + tail


_NO_FALLBACK = object()


def integer(value: object, fallback: object = _NO_FALLBACK) -> Scalar:
    """Return a number without its fraction, or the fallback for any other value.

    Without a fallback an empty value is 0, and a text that is not a number is an error: an amount must not become 0.
    """
    try:
        return math.trunc(number(value))
    except AmbiguousTextError:
        raise
    except RenderError:
        return _fallback(value, fallback)


def floating(value: object, fallback: object = _NO_FALLBACK) -> Scalar:
    """Return a number with a fraction; other values as in `integer`."""
    try:
        exact = number(value)
    except AmbiguousTextError:
        raise
    except RenderError:
        return _fallback(value, fallback)
    return Decimal(f"{exact}.0") if isinstance(exact, int) else Decimal(exact)


def _fallback(value: object, fallback: object) -> Scalar:
    """Return the replacement for a value that is not a number; call it from the handler of that error."""
    demand(value)
    if fallback is not _NO_FALLBACK:
        return scalar(fallback)
    if text(value).strip():
        raise  # noqa: PLE0704 -- the error that the caller handles
    return 0


def rounded(value: object, places: object = 0) -> Exact:
    """Round a number half away from zero, by default to a whole number."""
    digits = _places("round", places)
    charge(1)
    exact = number(value)
    if isinstance(exact, int):
        return exact
    return _to_places(exact, digits) if digits else int(_to_places(exact, 0))


def absolute(value: object) -> Exact:
    """Return a number without its sign."""
    exact = number(value)
    return abs(exact) if isinstance(exact, int) else exact.copy_abs()


@remembered
def grouped(value: object, places: object = 0, thousands: object = ".", point: object = ",") -> str:
    """Write a number with grouped thousands, by default as in Indonesia: 1.250.000,50.

    The number is rounded half away from zero to `places`, by default to a whole number.
    """
    digits = _places("number", places)
    charge(1)
    return _with_marks(number(value), digits, text(thousands)[:4], text(point)[:4])


@remembered
def currency(value: object, code: object = "IDR", places: object = None, language: object = "") -> str:
    """Write an amount of money as the language does: `Rp 1.915.000`, `$12.50`.

    A currency that is counted in whole units (IDR, JPY) shows a fraction only if the amount has one.
    """
    charge(4)
    exact = number(value)
    style = currency_style(str(text(code)), str(text(language)))
    whole = style.whole_units and exact == int(exact)
    digits = (0 if whole else style.places) if places is None else _places("currency", places)
    amount = _with_marks(absolute(exact), digits, style.thousands, style.point)
    minus = "-" if exact < 0 and amount.strip(f"0{style.point}{style.thousands}") else ""
    return minus + style.pattern.format(amount)


def _places(name: str, places: object) -> int:
    digits = int(number(places))
    if not 0 <= digits <= _MOST_PLACES:
        raise RenderError(f"{name} needs a number of places from 0 to {_MOST_PLACES}")
    return digits


def _to_places(exact: Exact, digits: int) -> Decimal:
    return Decimal(exact).quantize(Decimal(1).scaleb(-digits), context=EXACT)


def _with_marks(exact: Exact, digits: int, thousands: str, point: str) -> str:
    quantized = _to_places(exact, digits)
    marks = {",": thousands, ".": point}
    return "".join(marks.get(char, char) for char in f"{quantized or abs(quantized):,.{digits}f}")


@remembered
def date_text(value: object, pattern: object = "%d %B %Y", language: object = "") -> str:
    """Write an ISO 8601 date or time by a strftime pattern, with month and day names in the language."""
    form = str(text(pattern))
    if len(form) > MAX_DATE_FORMAT or _DATE_FORMAT.fullmatch(form) is None:
        raise RenderError("date needs a pattern of plain strftime directives, such as %d %B %Y")
    at = moment(value)
    return at.strftime(in_language(form, at, str(text(language))))


def urlencode(value: object) -> str:
    """Percent-encode a text for a URL's path or query."""
    subject = text(value)
    charge_text(len(subject) * 12)
    return quote(str(subject), safe="")


def _sized(value: object) -> list[Any] | tuple[Any, ...] | range:
    demand(value)
    if isinstance(value, (list, tuple, range)):
        return value
    raise RenderError("a list is needed")


def _item(value: object, position: int) -> object:
    items = value if isinstance(value, str) else _sized(value)
    charge(1)
    return items[position] if items else None


def _mapping(value: object) -> Mapping[str, Any]:
    demand(value)
    if isinstance(value, Mapping):
        charge(1 + len(value))
        return value
    raise RenderError("an object is needed")


def _stripped(value: object, chars: object = None) -> str:
    return text(value).strip(None if chars is None else str(text(chars)))


def _split(value: object, separator: object = None) -> list[str]:
    subject = str(text(value))
    charge(len(subject))
    between = None if separator is None else str(text(separator))
    if between == "":
        raise RenderError("split needs a separator that is not empty")
    return subject.split(between)


def _starts(value: object, start: object) -> bool:
    return text(value).startswith(text(start))


def _ends(value: object, end: object) -> bool:
    return text(value).endswith(text(end))


def _get(value: object, key: object, fallback: object = None) -> object:
    return _mapping(value).get(str(text(key)), fallback)


FILTERS: dict[str, Callable[..., Any]] = {
    "abs": absolute,
    "capitalize": _cased(str.capitalize),
    "currency": currency,
    "d": default,
    "date": date_text,
    "default": default,
    "e": escape,
    "escape": escape,
    "first": first,
    "float": floating,
    "int": integer,
    "join": join,
    "last": last,
    "length": length,
    "lower": _cased(str.lower),
    "nl2br": nl2br,
    "number": grouped,
    "replace": replace,
    "round": rounded,
    "safe": safe,
    "string": text,
    "title": _cased(str.title),
    "trim": _stripped,
    "truncate": truncate,
    "upper": _cased(str.upper),
    "urlencode": urlencode,
}

# filters whose result depends on the template's language
LOCALISED = frozenset({"currency", "date"})
# filters that need a number, or a text with one
NUMERIC = frozenset({"abs", "currency", "number", "round"})

# functions that a template may call as methods: `name.split(' ')`, `totals.items()`
METHODS: dict[str, Callable[..., Any]] = {
    "capitalize": FILTERS["capitalize"],
    "endswith": _ends,
    "get": _get,
    "items": lambda value: list(_mapping(value).items()),
    "keys": lambda value: list(_mapping(value)),
    "lower": FILTERS["lower"],
    "replace": replace,
    "split": _split,
    "startswith": _starts,
    "strip": _stripped,
    "title": FILTERS["title"],
    "upper": FILTERS["upper"],
    "values": lambda value: list(_mapping(value).values()),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _divisible(value: object, by: object) -> bool:
    divisor = number(by)
    if divisor == 0:
        raise RenderError("division by zero")
    return _rest(value, divisor) == 0


def _rest(value: object, divisor: Exact) -> Exact:
    exact = number(value)
    if isinstance(exact, int) and isinstance(divisor, int):
        return exact % divisor
    return abs(EXACT.remainder(Decimal(exact), Decimal(divisor)))


TESTS: dict[str, Callable[..., bool]] = {
    "defined": lambda value: not isinstance(value, Undefined),
    "divisibleby": _divisible,
    "even": lambda value: _rest(value, 2) == 0,
    "mapping": lambda value: isinstance(value, Mapping),
    "none": lambda value: value is None,
    "number": _is_number,
    "odd": lambda value: _rest(value, 2) == 1,
    "string": lambda value: isinstance(value, str),
    "undefined": lambda value: isinstance(value, Undefined),
}
