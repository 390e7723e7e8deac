"""Exact numbers: decimals that keep their written form from the request to the message.

Floating point would turn 1915000.00 into 1915000.0 and lose digits beyond the 15th. A whole number of at most 64 bits
stays an `int`; every other number is a `Number`. Its packed form (`packed_number`) is a list with its text, since
Redis's scripts cannot read msgpack's extension types, and no value of a variable is a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

MAX_DIGITS = 30
MAX_NUMBER = 10**MAX_DIGITS
MAX_CHARS = 64
# the widest whole numbers that msgpack can carry
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_CURRENCY = re.compile(r"([+-]?)\s*(?:Rp\.?|IDR)\s*(?=[0-9+-])", re.IGNORECASE)
_SIGNED = re.compile(r"([+-]?)([0-9.][0-9., '’\u00a0\u2009\u202f]*)")
_ALIKE = {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "’": "'"}
_BLANKS = " '’\u00a0\u2009\u202f"
_JSON = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SHORTENED = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[eE][+-]?[0-9]+")


class NotANumberError(ValueError):
    """A text is not one number; the message completes the sentence "this value …" and does not quote the text."""


class AmbiguousNumberError(NotANumberError):
    """A text could be two numbers; `readings` has both in an unambiguous form."""

    def __init__(self, readings: tuple[str, str]) -> None:
        super().__init__("could be two different numbers: a single dot or comma before three digits")
        self.readings = readings


class Number(Decimal):
    """A decimal with its written form; results computed from it are plain Decimals."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, written: str, plain: str | None = None) -> Number:
        """Return a number; `plain` is the text as a Python literal, if it differs from `written`."""
        try:
            number = super().__new__(cls, written if plain is None else plain)
        except InvalidOperation:
            raise ValueError("a number has an exponent that is too large") from None
        number.written = written
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return Number, (self.written, str(Decimal(self)))


def whole(value: int) -> int | Number:
    """Return a whole number of any size in a form that can be packed."""
    return value if _MIN_INTEGER <= value <= _MAX_INTEGER else Number(str(value))


def within_bounds(value: int | Decimal) -> bool:
    """Return whether a number has at most 30 digits before its decimal point and fits in 64 characters."""
    if isinstance(value, Number) and len(value.written) <= MAX_DIGITS and "e" not in value.written.lower():
        return value.is_finite()  # the common case, without checking the digits
    if isinstance(value, int) or not value.is_finite() or not -MAX_NUMBER < value < MAX_NUMBER:
        return isinstance(value, int) and -MAX_NUMBER < value < MAX_NUMBER
    exponent = value.as_tuple().exponent
    written = value.written if isinstance(value, Number) else ""
    return isinstance(exponent, int) and exponent >= -MAX_CHARS and len(written) <= MAX_CHARS


def read_number(text: str) -> int | Number:
    """Read a number as a person or a spreadsheet writes it; raises NotANumberError.

    Dots, commas, spaces or apostrophes may group thousands, a fraction begins with a dot or a comma, and `Rp` or `IDR`
    may precede the number. A single dot or comma before exactly three digits could be either, and is refused.
    """
    written = text.strip()
    if _WHOLE.fullmatch(written):
        return int(written)
    if len(written) > MAX_CHARS:
        raise NotANumberError("is not a number")
    written = written.replace("\u2212", "-")
    if currency := _CURRENCY.match(written):
        written = currency[1] + written[currency.end() :]
    found = _SIGNED.fullmatch(written)
    if found is None:
        if _SHORTENED.fullmatch(written):
            raise NotANumberError("looks like a number that a spreadsheet has shortened: write all its digits")
        raise NotANumberError("is not a number")
    sign, body = found.groups()
    number = Number(written, sign + _plain(sign, body))
    if not within_bounds(number):
        raise NotANumberError(f"has more than {MAX_DIGITS} digits before the decimal point")
    return number


def _plain(sign: str, body: str) -> str:
    """Return ungrouped digits with a decimal point; raises NotANumberError."""
    dots, commas = body.count("."), body.count(",")
    grouped_by_blanks = any(blank in body for blank in _BLANKS)
    point = ""
    if dots and commas:
        point = "." if body.rfind(".") > body.rfind(",") else ","
    elif dots + commas == 1:
        point = "." if dots else ","
        head, _, tail = body.partition(point)
        if not grouped_by_blanks and len(tail) == 3 and tail.isdecimal() and _could_be_a_group(head):
            raise AmbiguousNumberError((f"{sign}{head}{tail}", f"{sign}{head}.{tail}0"))
    whole_part, _, fraction = body.rpartition(point) if point else (body, "", "")
    if point and not fraction.isdecimal():
        raise NotANumberError("is not a number")
    return f"{_ungrouped(whole_part)}.{fraction}" if point else _ungrouped(whole_part)


def _could_be_a_group(head: str) -> bool:
    return 1 <= len(head) <= 3 and head.isdecimal() and head[0] != "0"


def _ungrouped(digits: str) -> str:
    if digits.isdecimal() or not digits:
        return digits or "0"
    marks = {_ALIKE.get(char, char) for char in digits if not char.isdecimal()}
    groups = re.split(r"[^0-9]", digits)
    fits = 1 <= len(groups[0]) <= 3 and groups[0][0] != "0" and all(len(group) == 3 for group in groups[1:])
    if len(marks) != 1 or not fits:
        raise NotANumberError("is not a number")
    return "".join(groups)


def packed_number(value: object) -> list[str]:
    """Return the packed form of a number (msgspec's `enc_hook`); raises TypeError for anything else."""
    if isinstance(value, Number):
        return [value.written] if _JSON.fullmatch(value.written) else [value.written, str(Decimal(value))]
    raise TypeError(f"{type(value).__name__} cannot be packed")


def json_number(value: object) -> Any:
    """Return a number for JSON (msgspec's `enc_hook`): its written form, as a text if JSON does not allow it."""
    if isinstance(value, Number):
        return msgspec.Raw(value.written.encode()) if _JSON.fullmatch(value.written) else value.written
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def unpacked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with packed numbers unpacked."""
    return {name: unpacked_value(value) if value.__class__ is list else value for name, value in values.items()}


def unpacked_value(value: Any) -> Any:
    """Return a value, unpacked if it is a packed number."""
    match value:
        case [str(written)]:
            return Number(written)
        case [str(written), str(plain)]:
            return Number(written, plain)
    return value


def plain_json(value: Any) -> Any:
    """Return JSON data with floats instead of exact numbers, for data that is never printed (metadata)."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain_json(one) for one in value]
    return value
