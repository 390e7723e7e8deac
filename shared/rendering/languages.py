"""Dates and money in a language: names of months and days and number formats, from CLDR through Babel.

A language is a code as in WhatsApp and on the web: `id`, `en_US`, `pt-BR`. Lookups are cached, so a message costs none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from babel.dates import get_day_names, get_month_names, get_period_names
from babel.numbers import (
    get_currency_precision,
    get_currency_symbol,
    get_decimal_symbol,
    get_group_symbol,
    is_currency,
)

from shared.rendering.errors import RenderError

DEFAULT = "en"
_KEPT = 256
# directives that need names; a pattern cannot have %c, %x and other combined ones
_NAMED = re.compile(r"%([%aAbBp])")
_SPACES = re.compile("[\u00a0\u202f]")
_MARKS = re.compile("[\u200e\u200f\u061c]")


@dataclass(frozen=True, slots=True)
class CurrencyStyle:
    """The format of an amount: `pattern` has one field for it; with `whole_units` amounts usually have no fraction."""

    pattern: str
    places: int
    thousands: str
    point: str
    whole_units: bool


def is_language(code: str) -> bool:
    """Return whether a language is known."""
    try:
        _locale(code)
    except RenderError:
        return False
    return True


def in_language(pattern: str, at: date, language: str) -> str:
    """Return a strftime pattern with this date's month name, day name and AM or PM filled in."""
    names = _names(language)
    afternoon = isinstance(at, datetime) and at.hour >= 12

    def name(found: re.Match[str]) -> str:
        match found[1]:
            case "B":
                written = names.months[at.month - 1]
            case "b":
                written = names.short_months[at.month - 1]
            case "A":
                written = names.days[at.weekday()]
            case "a":
                written = names.short_days[at.weekday()]
            case "p":
                written = names.halves[afternoon]
            case _:
                return found[0]
        return written.replace("%", "%%")

    return _NAMED.sub(name, pattern)


@dataclass(frozen=True, slots=True)
class _Names:
    months: tuple[str, ...]
    short_months: tuple[str, ...]
    days: tuple[str, ...]
    short_days: tuple[str, ...]
    halves: tuple[str, str]


@lru_cache(_KEPT)
def _names(language: str) -> _Names:
    locale = _locale(language)
    months, short_months = (get_month_names(width, locale=locale) for width in ("wide", "abbreviated"))
    days, short_days = (get_day_names(width, locale=locale) for width in ("wide", "abbreviated"))
    halves = get_period_names("abbreviated", locale=locale)
    return _Names(
        months=tuple(months[number] for number in range(1, 13)),
        short_months=tuple(short_months[number] for number in range(1, 13)),
        days=tuple(days[number] for number in range(7)),
        short_days=tuple(short_days[number] for number in range(7)),
        halves=(halves.get("am", "AM"), halves.get("pm", "PM")),
    )


@lru_cache(_KEPT)
def currency_style(code: str, language: str) -> CurrencyStyle:
    """Return a language's format for amounts of a currency; raises RenderError for an unknown currency code."""
    name = code.strip().upper()
    if not re.fullmatch("[A-Z]{3}", name) or not is_currency(name):
        raise RenderError("currency needs a code such as IDR or USD")
    locale = _locale(_home(name, language))
    symbol = get_currency_symbol(name, locale=locale)
    positive = locale.currency_formats["standard"].pattern.partition(";")[0]
    before, after = positive.partition("¤")[0], positive.partition("¤")[2]
    gap = " " if len(symbol) > 1 and symbol[-1].isalpha() else ""
    if any(char in "#0" for char in before):
        pattern = f"{{}}{_space(before.lstrip('#,0.'))}{symbol}"
    else:
        pattern = f"{symbol}{_space(after.rstrip('#,0.')) or gap}{{}}"
    return CurrencyStyle(
        pattern=_MARKS.sub("", pattern),
        places=get_currency_precision(name) or 2,
        thousands=_SPACES.sub(" ", get_group_symbol(locale)),
        point=get_decimal_symbol(locale),
        whole_units=get_currency_precision(name) == 0,
    )


def _home(currency: str, language: str) -> str:
    """Return the language for an amount: rupiah are always written as in Indonesia."""
    return "id" if currency == "IDR" else language


def _space(gap: str) -> str:
    return " " if " " in _SPACES.sub(" ", gap) else ""


@lru_cache(_KEPT)
def _locale(language: str) -> Locale:
    code = (language or DEFAULT).replace("-", "_")
    try:
        return Locale.parse(code, sep="_")
    except (ValueError, TypeError, UnknownLocaleError):
        pass
    try:
        return Locale.parse(code.partition("_")[0], sep="_")
    except (ValueError, TypeError, UnknownLocaleError):
        raise RenderError(f"there is no language {language[:20]!r}; use a code such as id, en or pt_BR") from None
