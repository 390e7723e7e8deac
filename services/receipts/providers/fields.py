"""Fields of outside JSON: any body becomes plain values, and any value the type that is asked for.

A provider, or someone with the hook's URL, may send anything: other types, lone surrogates, numbers without end, a
thousand levels. Nothing here raises, and all of it takes time in proportion to the body.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from shared.foreign_text import decoded, legible
from shared.jobs import is_job_id
from shared.receipts import LONGEST_RECEIPT_WORDS

LONGEST_WORDS = LONGEST_RECEIPT_WORDS
LONGEST_ID = 512
LONGEST_ADDRESS = 320
LONGEST_CODE = 64
_LONGEST_TIME = 64
_MOST_DIGITS = 20
# larger seconds would be after the year 5000: so they are milliseconds, microseconds or nanoseconds
_LARGEST_SECONDS = 1e11
# providers repeat a request for days, and an operator may replay entries; clocks differ by minutes
_OLDEST_S = 366 * 86400.0
_AHEAD_S = 3600.0
NOTHING: Mapping[str, Any] = {}


class UnreadableError(ValueError):
    """A body is not JSON; the message says why and quotes nothing of it."""


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text; raises UnreadableError.

    Also reads what strict readers refuse: other encodings, lone surrogates, NaN.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(decoded(body))
    except (ValueError, RecursionError) as error:
        raise UnreadableError("it is not JSON" if isinstance(error, ValueError) else "it is nested too deep") from error


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object, an empty one for any other value."""
    return value if isinstance(value, dict) else NOTHING


def items(value: Any) -> Sequence[Any]:
    """Return a list, an empty one for any other value."""
    return value if isinstance(value, list) else ()


def each(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list, or a single object as if it were a list of one.

    One empty object stands for all others in the list: a million numbers are one mistake.
    """
    if isinstance(value, dict):
        yield value
        return
    others = False
    for one in items(value):
        if isinstance(one, dict) and one:
            yield one
        else:
            others = True
    if others:
        yield NOTHING


def text(value: Any, most: int = LONGEST_ID) -> str:
    """Return a text or a whole number as valid, readable text of at most `most` characters, "" for any other value."""
    if isinstance(value, str):
        if len(value) <= most and value.isascii() and value.isprintable():
            return value.strip()
        return legible(value, most).strip()
    if isinstance(value, float) and value.is_integer() and abs(value) < 10.0**15:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_MOST_DIGITS:
        return str(value)
    return ""


def first_text(values: Mapping[str, Any], *names: str, most: int = LONGEST_ID) -> str:
    """Return the first of the named fields that has text, "" if none has."""
    for name in names:
        if (value := values.get(name)) is not None and (found := text(value, most)):
            return found
    return ""


def word(value: Any) -> str:
    """Return a text as a key for tables: lower case, without spaces and signs."""
    if isinstance(value, str) and len(value) <= LONGEST_CODE:
        return _word_of(value)
    return "" if value is None else _plain(text(value, LONGEST_CODE))


@lru_cache(1024)
def _word_of(value: str) -> str:
    # the same few words are in every body
    return _plain(text(value, LONGEST_CODE))


def _plain(words: str) -> str:
    return "".join(filter(str.isalnum, words.lower()))


def identifier(value: Any) -> str:
    """Return an id, "" for one that is too long to be real: a part of an id names another message, or none."""
    return text(value) if not isinstance(value, str) or len(value) <= LONGEST_ID else ""


def own_message_id(value: Any) -> str:
    """Return a Message-ID without angle brackets."""
    return identifier(value).removeprefix("<").removesuffix(">").strip()


def own_job_id(value: Any) -> str:
    """Return a value if it is a job id; the field may hold another application's data."""
    found = identifier(value)
    return found if is_job_id(found) else ""


def address_of(value: Any) -> str:
    """Return the address of a text such as `Name <address>`."""
    found = text(value, LONGEST_ADDRESS)
    return found[found.rindex("<") + 1 :].partition(">")[0].strip() if "<" in found else found


def moment(value: Any, taken_at: float) -> float:
    """Return a time in Unix seconds; `taken_at` for anything that is not a time, or is absurd.

    Reads seconds and their thousandths as numbers or text, and ISO 8601; a time without a zone is in UTC. A time is
    absurd if it is more than an hour after, or a year before the body was taken.
    """
    seconds = _seconds(value)
    while abs(seconds) > _LARGEST_SECONDS and math.isfinite(seconds):
        seconds /= 1000
    return seconds if -_OLDEST_S <= seconds - taken_at <= _AHEAD_S else taken_at


def _seconds(value: Any) -> float:
    if isinstance(value, str) and len(value) <= _LONGEST_TIME:
        return _written_seconds(value.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return _written_seconds(text(value, _LONGEST_TIME))


@lru_cache(1024)
def _written_seconds(words: str) -> float:
    # most bodies name only a few seconds
    try:
        return float(words)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(words)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan
