"""Filters that remember: the same result, the same error and the same cost as without a memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from shared.numbers import Number
from shared.rendering.budget import charged_by, refill
from shared.rendering.errors import RenderError
from shared.rendering.filters import FILTERS

VALUES: list[Any] = [
    *["1250000", "1.250.000,50", "1,234", "", "x", "2026-03-01", " 2026-03-01 ", "2026-03-01T10:00:00Z", "1" * 70],
    *[1, True, 1.0, Decimal(1), Number("1"), 0, -0.0, 0.0, Decimal("-0"), 10**40, 1769817600.25, float("nan")],
    *[Number("1.5"), Number("1.50"), Decimal("1.5"), Number("-0.00"), Number("1e5"), None, ["1"]],
]
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("number", (), {}),
    ("number", (2,), {}),
    ("number", (True,), {}),
    ("number", (2, Number("1.50"), Number("1.5")), {}),
    ("number", (2, Number("1.5"), Number("1.50")), {}),
    ("number", (2, 1, True), {}),
    ("currency", ("USD",), {"language": "de"}),
    ("currency", ("IDR", None), {"language": "en"}),
    ("currency", ("no such",), {"language": "en"}),
    ("date", (), {"language": "id"}),
    ("date", ("%d" * 200,), {"language": "id"}),
    ("date", ("%A %p" + " " * 70,), {"language": "en"}),
]


def outcome(function: Callable[[], object]) -> object:
    refill()
    try:
        return charged_by(function)
    except RenderError as error:
        return str(error)


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS)
def test_remembered_result_is_the_computed_one(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Equal numbers of another type or another form, and arguments that are printed, are not mistaken for others."""
    function = FILTERS[name]
    for _ in range(2):
        for value in VALUES:
            found = outcome(partial(function, value, *arguments, **named))
            assert found == outcome(partial(inspect.unwrap(function), value, *arguments, **named)), value


def test_exhausted_budget_is_exhausted_for_a_remembered_result_too() -> None:
    """A remembered result costs what it cost to compute: equal values give a template no more room."""
    filled = partial(FILTERS["date"], "2026-03-01", "%d %B %Y", language="en")
    refill()
    _, cost = charged_by(filled)
    _, twice = charged_by(lambda: (filled(), filled()))
    assert twice == 2 * cost > 0
