"""Parts that were encoded before the first message: byte for byte what encoding the rendered text gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.email_sender.mime import is_plain, text_part
from services.email_sender.ready_part import ReadyParts, ready_part
from shared.rendering import CompiledTemplate
from shared.rendering.interpolation import Interpolation
from shared.templates import Template

TYPE = b'Content-Type: text/plain; charset="utf-8"'
PIECES = st.sampled_from(
    [
        "Dear ",
        "\n",
        "\r\n",
        " ",
        ".",
        "%s",
        "<p>",
        "</p>",
        "<br>",
        "é",
        "{{ name }}",
        "{{ shop }}",
        "x" * 900,
        "x" * 1100,
    ]
)
WORDS = ["Ana", ".", ".a", "", " ", " a", "a ", "a  b", "a b", "é", "\u2028", "a\nb", "\r", "\0", "\t", "<&>\"'"]
VALUES = st.sampled_from([*WORDS, "x" * 40, "<" * 200, "x" * 60, "x" * 990, 5, None])


@given(
    source=st.lists(PIECES, max_size=8).map("".join),
    written=st.booleans(),
    values=st.fixed_dictionaries({"name": VALUES, "shop": VALUES}),
)
def test_ready_part_is_the_encoded_text(source: str, written: bool, values: dict[str, Any]) -> None:
    """For written texts, for html and for texts derived from it; a part that would differ is not filled."""
    text, html = (source, "") if written else ("", source)
    template = CompiledTemplate(Template("t", "T", ["email"], subject="s", html=html, text=text))
    rendered = template.render(values)
    for usual, interpolation in (
        (rendered.text, template.text_interpolation),
        (rendered.html, template.html_interpolation),
    ):
        if (filled := filled_alone(interpolation, values)) is not None:
            lines, plain = filled
            assert lines == text_part(TYPE, usual, eight_bit=False) == text_part(TYPE, usual, eight_bit=True)
            assert is_plain(lines) or not plain


def filled_alone(interpolation: Interpolation | None, values: dict[str, Any]) -> tuple[bytes, bool] | None:
    """Return a part filled in, and whether it is plain; None if it is not ready for these values."""
    part = ready_part(TYPE, interpolation)
    filled = ReadyParts([part], (b"", b"")).fill(values) if part is not None else None
    return (b"".join(filled.pieces), filled.plain) if filled is not None else None


@given(
    source=st.lists(PIECES, max_size=8).map("".join),
    written=st.booleans(),
    values=st.fixed_dictionaries({"name": VALUES, "shop": VALUES}),
)
def test_parts_of_a_letter_are_what_each_is_alone(source: str, written: bool, values: dict[str, Any]) -> None:
    """A letter is ready for values that both of its parts are ready for; each part keeps its own escaping."""
    template = CompiledTemplate(Template("t", "T", ["email"], subject="s", html=source, text=source if written else ""))
    interpolations = template.text_interpolation, template.html_interpolation
    alone = [filled_alone(one, values) for one in interpolations]
    text, html = (ready_part(TYPE, one) for one in interpolations)
    parts = ReadyParts([text, html], (b"<", b"|", b">")) if text and html else None
    filled = parts.fill(values) if parts else None
    if parts is None or filled is None:
        assert None in alone
        return
    (text_lines, text_plain), (html_lines, html_plain) = (one for one in alone if one is not None)
    assert b"".join(filled.pieces) == b"<%b|%b>" % (text_lines, html_lines)
    assert parts.apart(filled) == [text_lines, html_lines]
    assert filled.plain == (text_plain and html_plain)


@pytest.mark.parametrize(
    ("source", "name", "plain"),
    [
        ("Dear {{ name }},\nwelcome.\n", "Ana", True),
        ("{{ name }}{{ name }}.\n.", "Ana", False),
        ("{{ name }}", ".Ana", False),
        ("Dear {{ name }}", " Ana", False),
        ("{{ name }}\n", "Ana ", False),
        ("{{ name }}", "Ana  Bo", False),
        ("Dear {{ name }}\tx", "Ana", False),
        ("Dear  {{ name }}", "Ana", False),
        ("{{ name }} \n", "Ana", False),
    ],
)
def test_lines_are_plain_if_they_need_no_dot_and_no_other_space(source: str, name: str, plain: bool) -> None:
    """Such parts are neither scanned for dots nor relaxed; others are."""
    template = CompiledTemplate(Template("t", "T", ["email"], subject="s", html=source))
    filled = filled_alone(template.html_interpolation, {"name": name})
    assert filled is not None
    lines, known_as_plain = filled
    assert known_as_plain == is_plain(lines) == plain


@pytest.mark.parametrize(
    ("source", "ready"),
    [
        ("Dear {{ name }},\nwelcome.", True),
        ("Dear {{ name }}, " + "x" * 900, True),
        ("Dear {{ name }}, " + "x" * 940, False),
        ("x" * 998, True),
        ("x" * 999, False),
        ("Café {{ name }}", False),
        ("{{ name | upper }}", False),
        ("{{ name }}\n" * 600, False),
    ],
)
def test_only_a_usual_letter_is_ready(source: str, ready: bool) -> None:
    """ASCII in lines with room for a name; not a text so long that the output could exceed its cap."""
    template = CompiledTemplate(Template("t", "T", ["email"], subject="s", text=source))
    assert (filled_alone(template.text_interpolation, {"name": "Ana"}) is not None) == ready
