"""Templates that render for one recipient and fail for another, although both have values of the declared types."""

from __future__ import annotations

from typing import Any

import pytest

from shared.numbers import Number
from shared.rendering import compile_template
from shared.templates import Template, Variable

VARIABLES = [
    Variable("text"),
    Variable("amount", type="number"),
    Variable("rate", type="number", required=False, default=1),
    Variable("maybe", type="number", required=False),
    Variable("day", type="date"),
]


def depends(source: str, given: tuple[str, ...] = (), **more: Any) -> bool:
    template = Template("t", "T", ["email"], subject="s", text=source, variables=VARIABLES, **more)
    unsure = compile_template(template).computed.unsure(template, given)
    return unsure.unknown or bool(unsure.names)


@pytest.mark.parametrize(
    "source",
    [
        "{{ text | number }}",
        "{{ text | currency('USD') }}",
        "{{ text | trim | round(2) }}",
        "{{ text | int + 1 }}",
        "{{ text | float }}",
        "{{ text | date }}",
        "{{ text * 2 }}",
        "{{ -text }}",
        "{{ amount + text }}",
        "{% if text > 5 %}x{% endif %}",
        "{% if text is even %}x{% endif %}",
        "{% for x in range(text) %}x{% endfor %}",
        "{% for x in text.split(',') %}{{ x | number }}{% endfor %}",
        "{% set total = text %}{{ total | number }}",
        "{% set text = 5 if amount else text %}{{ text | number }}",
        "{% if amount %}{% set text = 5 %}{% endif %}{{ text | number }}",
        "{{ (amount if day else text) | number }}",
        "{{ name | number }}",
        "{{ day | number }}",
        "{{ maybe | currency }}",
        "{{ maybe + 1 }}",
        "{{ 100 / amount }}",
        "{{ 100 % (amount - 1) }}",
    ],
)
def test_a_value_may_decide_whether_a_message_can_be_rendered(source: str) -> None:
    """Such templates need a trial rendering for each recipient."""
    assert depends(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ text }} {{ amount }} {{ day }} {{ name }}",
        "{{ amount | number }} {{ amount | currency }}",
        "{{ day | date('%d %B') }}",
        "{{ amount * rate + 1 }} {{ (amount * rate) | currency }}",
        "{{ amount / 3 }}",
        "{{ text | upper | truncate(5) }}",
        "{{ text | length * 2 }}",
        "{% if text == 'x' %}x{% endif %}",
        "{% if amount > 5 %}x{% endif %}",
        "{% for x in [1, 2] %}{{ loop.index + x }}{% endfor %}",
        "{% for x in range(3) %}{{ x * amount }}{% endfor %}",
        "{% set total = amount * rate %}{{ total | currency }}",
        "{% set text = 5 %}{{ text | number }}",
    ],
)
def test_declared_types_avoid_a_trial(source: str) -> None:
    """Such templates need no trial rendering."""
    assert not depends(source)


def test_a_global_variable_replaces_one_that_a_recipient_lacks() -> None:
    assert depends("{{ maybe | number }}")
    assert not depends("{{ maybe | number }}", ("maybe",))


@pytest.mark.parametrize(
    ("source", "fit", "unfit"),
    [
        ("{{ text | number }}", ["1915", "1.915.000", "12,50", 5, Number("1.915")], ["1.915", "x", "", None, True]),
        ("{{ text + 1 }}", [5, Number("1.5")], ["5", None]),
        ("{{ text | date }}", ["2026-05-01"], ["soon", "2026-02-30", None, 5]),
        ("{{ 100 / rate }}", [1, Number("0.5")], [0, Number("0.00"), None]),
        ("{{ 100 / (rate - 1) }}", [], [5]),
    ],
)
def test_values_that_always_compute_need_no_trial(source: str, fit: list[Any], unfit: list[Any]) -> None:
    """Other values need a trial: an `if` may skip the computation."""
    unsure = compile_template(Template("t", "T", ["email"], text=source)).computed
    name = next(iter(unsure.names))
    assert [value for value in [*fit, *unfit] if unsure.fits({name: value})] == fit
