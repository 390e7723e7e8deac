"""Only the documented delimiters are tags; all other braces are text."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from shared.rendering import RenderError, compile_template
from shared.templates import Template, WhatsAppContent

MSO = '<!--[if mso | IE]><table><tr><td style="width:{10}%"><![endif]-->'


def rendered(source: str, **values: object) -> dict[str, str]:
    """Render a source as a subject, html, text and WhatsApp parameter."""
    content = WhatsAppContent("t", "en", body_variables=[source if "{{" in source else source + "{{ n }}"])
    template = Template("t", "T", ["email", "whatsapp"], subject=source, html=source, text=source, whatsapp=content)
    compiled = compile_template(template)
    message = compiled.render({"n": "Siti", **values})
    body = compiled.components({"n": "Siti", **values})[0]["parameters"][0]["text"]
    return {"subject": message.subject, "html": message.html, "text": message.text, "whatsapp": body}


@pytest.mark.parametrize(
    "source",
    [
        "@media(max-width:480px){#main{width:100%!important}}",
        "@media(max-width:480px){#main{width:100%}} Ref #}",
        "@keyframes a{0%{left:0}100%{left:1px}}",
        "a{b:c}}d",
        "{# not a comment #}",
        "{#- neither -#}",
        "<% no %> ${ no } #{ no } [[ no ]]",
        "# a line ## another % third",
        "{%s} {%} 100%} %}",
        "}} #} %} }}}",
        "{ { n } } { % if n % }",
        'var a={"x":{"y":{"z":1}}};if(a){b()}',
        "function(){if(x){return{}}}",
        "{%d items} {% }",
    ],
)
def test_undocumented_delimiters_stay_as_written(source: str) -> None:
    """This holds in the subject, the html, the text and a WhatsApp parameter."""
    for part, written in rendered(source).items():
        assert written.removesuffix("Siti").strip() == source, part


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a{b{{ n }}c}", "a{bSitic}"),
        ("a{{{ n }}}", "a{Siti}"),
        ("{{{{ n }}}}", "{{Siti}}"),
        ('{"a":{"b":"{{ n }}"}}', '{"a":{"b":"Siti"}}'),
        ('{"a":{"b":{{ n }}}}', '{"a":{"b":Siti}}'),
        ("{# {{ n }} #}", "{# Siti #}"),
        ("{{ '}}' }}{{ '{#' }}", "}}{#"),
        ("{% raw %}{{ n }} {% x %}{% endraw %} {{ n }}", "{{ n }} {% x %} Siti"),
        ("x {%- if n -%} y {%- endif -%} z {{ n }}", "xyz Siti"),
        ("x {{- n -}} y", "xSitiy"),
        ("{%if n%}a{%endif%}{{n}}", "aSiti"),
    ],
)
def test_a_tag_among_braces_is_filled_in(source: str, text: str) -> None:
    """Of three opening braces the last two open the tag."""
    assert set(rendered(source).values()) == {text}


def test_css_script_and_conditional_comments_of_a_mail_stay_as_written() -> None:
    """This holds for the html and for the text derived from it."""
    html = (
        "<html><head><style>@media(max-width:480px){#main{width:100%}}</style>"
        '<script type="application/ld+json">{"@context":{"a":{"b":1}}}</script></head>'
        f"<body>{MSO}<p>Hello {{{{ n }}}}, PAY NOW</p><p>Ref {{{{ n }}}} #}}</p></body></html>"
    )
    message = compile_template(Template("t", "T", ["email"], subject="s", html=html)).render({"n": "Siti"})
    assert message.html == html.replace("{{ n }}", "Siti")
    assert message.text == "Hello Siti, PAY NOW\n\nRef Siti #}\n"


@pytest.mark.parametrize(
    ("source", "place", "words"),
    [
        ("{{ a b }}", (1, 1), "`}}` is expected here, not `b`"),
        ("x\n <b>{{ n | nmber }}</b>", (2, 5), "did you mean 'number'?"),
        ("{{ n }}<i>{{ }}", (1, 11), "nothing to print"),
        ("{{ n", (1, 1), "never closed"),
        ("{% if n }x{% endif %}", (1, 1), "`}` is not expected here"),
        ("a {% if n %}{{ n }}b", (1, 3), "this `if` is never closed: write {% endif %}"),
        ("{% for x in n %}{% if x %}{% endif %}", (1, 1), "this `for` is never closed: write {% endfor %}"),
        ("{{ n }} {% endif %}", (1, 9), "has no matching `if`"),
        ("{% include 'x' %}", (1, 1), "not allowed"),
        ("{% foo %}", (1, 1), "no statement 'foo'"),
        ("{% raw %}x", (1, 1), "this `raw` is never closed"),
        ("\n\n  {{ n.__class__ }}", (3, 3), "'__class__' is not allowed"),
        (".a{{color:red}}", (1, 3), "{% raw %}"),
        ("{{ 1e400 }}", (1, 1), "too large"),
    ],
)
def test_a_mistake_in_a_tag_is_shown_with_its_place_and_a_hint(source: str, place: tuple[int, int], words: str) -> None:
    """The error has line and column, the tag itself, and what to do."""
    with pytest.raises(RenderError) as raised:
        compile_template(Template("t", "T", ["email"], subject="s", html=source))
    found = raised.value.place
    assert (found.line, found.column) == place
    assert words in str(raised.value)
    assert found.tag[:2] in source
    assert str(raised.value).startswith(f"html, line {place[0]}, column {place[1]}, `{found.tag}`: ")


@pytest.mark.parametrize("piece", ["{%", "{%a", "{% ", "{%a {%", "{", "{{{", "#}", "{%-", "{% if", "{% raw", "%}{"])
def test_a_source_of_nothing_but_delimiters_is_read_in_linear_time(piece: str) -> None:
    """200,000 characters are read or refused within two seconds."""
    began = time.process_time()
    with suppress(RenderError):
        compile_template(Template("t", "T", ["email"], subject="s", text=piece * (200_000 // len(piece))))
    assert time.process_time() - began < 2
