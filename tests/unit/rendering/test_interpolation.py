"""Parts that only insert variables are filled in without jinja2's code: the text, or the error, stays the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.numbers import Number
from shared.rendering.budget import MAX_OUTPUT_CHARS
from shared.rendering.errors import RenderError
from shared.rendering.sandbox import HTML, PLAIN, PLAIN_AS_IS, Part

PIECES = ["", "Dear ", "\n", "\r\n", "  ", "%s", "{}", "{#", "<b>", "é", "{{ name }}", "{{- name }}", "{{ shop -}}"]
PIECES += ["{{ gone }}", "{{ name|upper }}", "{% raw %}{{ x }}{% endraw %}", "{% if name %}x{% endif %}", "{{ 'a' }}"]
VALUES = st.sampled_from(["", "Ana", "<b>&'\"", "é\ud800", "a\r\nb", "{{ shop }}", "%s", "x" * 70_000])
OTHERS = st.sampled_from([None, True, 3, 10**40, 1.5, Number("1.50"), ["x"], {"a": "b"}])


def outcome(part: Part, values: dict[str, Any], cap: int) -> object:
    try:
        return part.render(values, cap)
    except RenderError as error:
        return str(error), error.variable, error.part


@given(
    source=st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    values=st.fixed_dictionaries({}, optional={"name": VALUES | OTHERS, "shop": VALUES | OTHERS}),
    cap=st.sampled_from([0, 5, 20, MAX_OUTPUT_CHARS]),
)
def test_interpolation_gives_what_jinja2s_code_gives(source: str, values: dict[str, Any], cap: int) -> None:
    """In each environment, for any value or none, and at any cap of the output."""
    for environment in (HTML, PLAIN, PLAIN_AS_IS):
        part, usual = Part(source, "text", environment), Part(source, "text", environment)
        usual.interpolation = None
        found = outcome(part, values, cap)
        assert found == outcome(usual, values, cap)
        assert isinstance(found, tuple) or type(found) is str


@pytest.mark.parametrize("length", [MAX_OUTPUT_CHARS // 100, MAX_OUTPUT_CHARS // 100 + 1, MAX_OUTPUT_CHARS + 1])
def test_huge_values_meet_the_same_limits(length: int) -> None:
    """Values that are too long for the output, or that cost too many steps, are refused with the same words."""
    part, usual = (Part("{{ name }}" * 100, "text", HTML) for _ in range(2))
    usual.interpolation = None
    assert outcome(part, {"name": "<" * length}, 10**9) == outcome(usual, {"name": "<" * length}, 10**9)


def test_what_does_more_is_left_to_jinja2() -> None:
    """Text and variables are an interpolation; filters, statements and constants are not."""
    assert Part("Dear {{ name }},\n{{ shop }}", "text").interpolation is not None
    for source in ("{{ name | upper }}", "{% if name %}x{% endif %}", "{{ 'a' }}", "{{ a.b }}", "{{ a if b }}"):
        assert Part(source, "text").interpolation is None
