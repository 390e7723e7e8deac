"""Filters that remember their results, since the recipients of a blast often share an amount or a date.

A result costs as many steps as it cost to compute, so whether it was remembered changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache, partial, wraps

from shared.numbers import Number
from shared.rendering.budget import charge, charged_by

_KEPT = 2048
_LONGEST = 64
# a `Number` is not among the arguments: equal ones are printed differently
_NUMBERS = frozenset({int, float, Decimal, Number})
_ARGUMENTS = frozenset({int, type(None)})


def remembered(function: Callable[..., str]) -> Callable[..., str]:
    """Return a filter with a memory; its result must follow from its arguments, and from a number only its size."""

    @lru_cache(_KEPT, typed=True)
    def computed(*arguments: object, **named: object) -> tuple[str, int]:
        return charged_by(partial(function, *arguments, **named))

    @wraps(function)
    def remembering(value: object, *arguments: object, **named: object) -> str:
        if not _fits(value, _NUMBERS) or not all(_fits(one, _ARGUMENTS) for one in (*arguments, *named.values())):
            return function(value, *arguments, **named)
        result, cost = computed(value, *arguments, **named)
        charge(cost)
        return result

    return remembering


def _fits(value: object, kinds: frozenset[type]) -> bool:
    kind = value.__class__
    return len(value) <= _LONGEST if kind is str else kind in kinds  # type: ignore[arg-type]  # a text, as just seen
