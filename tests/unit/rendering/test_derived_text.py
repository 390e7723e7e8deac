"""Texts derived from html are tidied for each message only where a value makes that necessary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.rendering.derived import DerivedText, derive_text
from shared.rendering.plaintext import tidy

HTML = [
    "<p>Dear",
    " ",
    "  ",
    "\n",
    "</p>",
    "<br>",
    "{{ name }}",
    "{{ shop }}",
    "<a href='{{ shop }}'>here</a>",
    "<ul><li>",
]
WORDS = st.sampled_from(
    ["Ana", "", " ", " a", "a\n", "\t\n", "a  b", "\n\n\n", "a\n\n\n\nb", "a b", "\u00a0", "é\u2028"]
)


@given(html=st.lists(st.sampled_from(HTML), max_size=8).map("".join), name=WORDS, shop=WORDS)
def test_derived_text_is_tidy_for_any_value(html: str, name: str, shop: str) -> None:
    """Values that are empty, blank or broken over lines leave no more space behind than others."""
    derived, values = derive_text(html), {"name": name, "shop": shop}
    if isinstance(derived, DerivedText):
        assert derived.render(values, "") == tidy(derived.part.render(values))


def test_values_of_one_line_need_no_tidying() -> None:
    """A usual letter is neat as it is; one that is indented is not."""
    for html, neat in (("<p>Dear {{ name }},</p><p>hello</p>", True), ("<ul><li><ul><li>{{ name }}</ul></ul>", False)):
        derived = derive_text(html)
        assert isinstance(derived, DerivedText)
        assert (derived.interpolation is not None) == neat
