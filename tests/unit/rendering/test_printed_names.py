"""The names that a template prints without a guard."""

from __future__ import annotations

import pytest

from shared.rendering import compile_template
from shared.templates import Button, Template, WhatsAppContent


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("Dear {{ name }}", {"name"}),
        ("{{ name | upper | trim }}", {"name"}),
        ("{{ 'Dear ' ~ name }}", {"name"}),
        ("{{ name.split(' ')[0] }}", {"name"}),
        ("{% if vip %}{{ name }}{% endif %}", {"name"}),
        ("{{ name if vip else 'you' }}", {"name"}),
        ("{% set first = name.split(' ')[0] %}Hi {{ first }}", {"name"}),
        ("{% if name %}Hi {{ name }}{% endif %} {{ name }}", {"name"}),
        ("{{ vip | default(name) }}", {"name"}),
        ("{% for x in xs %}{{ name }}{% endfor %}", {"name", "x"}),
        ("{% if name %}{{ name }}{% endif %}", set()),
        ("{% if not name %}you{% else %}{{ name }}{% endif %}", set()),
        ("{% if vip %}x{% elif name %}{{ name }}{% endif %}", set()),
        ("{% if vip and name %}{{ name }}{% endif %}", set()),
        ("{% if name is defined %}{{ name }}{% endif %}", set()),
        ("{{ name | default('you') }}", set()),
        ("{{ name | trim | d('you') | upper }}", set()),
        ("{{ name or 'you' }}", set()),
        ("{{ 'Dear ' ~ name if name else 'Hello' }}", set()),
        ("{{ name and ('Dear ' ~ name) }}", set()),
        ("{% set first = name.split(' ')[0] %}{% if first %}Hi {{ first }}{% endif %}", set()),
        ("{% set first = name.split(' ')[0] %}{% if name %}Hi {{ first }}{% endif %}", set()),
        ("{% set who = name or 'you' %}Hi {{ who }}", set()),
        ("{% set name = name or 'you' %}Hi {{ name }}", set()),
        ("{% if vip %}{% set who = name %}{% else %}{% set who = 'you' %}{% endif %}{{ who }}", {"name"}),
        ("{% if vip %}{% set name = 'VIP' %}{% endif %}{{ name }}", {"name"}),
        (
            "{% if a %}{% set name=1 %}{% elif b %}{% set name=2 %}{% else %}{% set name=3 %}{% endif %}{{ name }}",
            set(),
        ),
        ("{% if not name %}{% set name = 'you' %}{% endif %}{{ name }}", set()),
        ("{{ ('Dear ' ~ name) | default('you') }}", {"name"}),
        ("{{ 'Dear ' + name or 'you' }}", {"name"}),
        ("{% set line = 'Dear ' ~ name %}{% if line %}{{ line }}{% endif %}", {"name"}),
        ("{{ (name ~ '') or 'you' }}", set()),
        ("{% for word in name.split(' ') %}{{ word }}{% endfor %}", {"name"}),
        ("{% for word in [name] %}{{ word }}{% endfor %}", {"name"}),
        ("{% for word in name.split(' ') %}{{ word or 'you' }}{% endfor %}", set()),
        ("{% for word in name.split(' ') if word %}{{ word }}{% endfor %}", set()),
        ("{% for name in code.split(',') %}{{ name }}{% endfor %}", {"code"}),
        ("{% for part in name %}{{ part }}{% endfor %}", {"part"}),
        ("{{ name == 'Siti' }}", set()),
        ("{% raw %}{{ name }}{% endraw %} {# {name} #}", set()),
    ],
)
def test_a_name_is_printed_unless_something_guards_it(source: str, printed: set[str]) -> None:
    """This holds for names in the subject, the html and the text."""
    found = compile_template(Template("t", "T", ["email"], subject=source, html=source)).printed
    assert found & {"name"} == printed & {"name"}


def test_a_parameter_prints_its_names() -> None:
    """Meta refuses empty parameters, so a plain name counts as printed; an expression may guard it."""
    bodies = ["name", "email | default('-')"]
    content = WhatsAppContent("t", "en", body_variables=bodies, button_variables=[Button("phone")])
    whatsapp = compile_template(Template("t", "T", ["whatsapp"], whatsapp=content)).whatsapp
    assert whatsapp is not None
    assert whatsapp.printed == {"name", "phone"}


def test_the_name_of_a_file_prints_its_names() -> None:
    """Without the name the file would be `Invoice .pdf`."""
    content = WhatsAppContent("t", "en", header_variables=["document:x"], document_filename="Invoice {{ name }}.pdf")
    whatsapp = compile_template(Template("t", "T", ["whatsapp"], whatsapp=content)).whatsapp
    assert whatsapp is not None
    assert "name" in whatsapp.printed
