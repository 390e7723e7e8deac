"""Rendering: the template language, the values, and the limits."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.blasts import Blast
from shared.jobs import Job, Recipient
from shared.rendering import (
    RenderError,
    compile_template,
    html_to_text,
    job_values,
    merge_variables,
    whatsapp_components,
)
from shared.templates import Template, Variable, WhatsAppContent


def mail(**changes: Any) -> Template:
    return Template(**{"id": "t", "name": "T", "channels": ["email"], "subject": "s", **changes})


@dataclass
class Person:
    name: str = "Ann"
    email: str = "ann@example.com"
    phone: str = ""
    variables: dict[str, Any] = field(default_factory=dict)


def rendered(source: str, **values: Any) -> str:
    return compile_template(mail(text=source)).render(values).text


def test_same_content_is_compiled_once() -> None:
    """Each single message is a blast of its own: the second with the same template must not compile it again."""
    first, second = (mail(text="Hello {{ name }}", subject="compiled once") for _ in range(2))
    assert compile_template(first) is compile_template(second)
    assert compile_template(first) is not compile_template(mail(text="Hello {{ name }}!", subject="compiled once"))


def test_many_templates_in_rotation_stay_compiled() -> None:
    """Hundreds of templates in turn are compiled once each, since compiling takes thousands of times a rendering."""
    rotation = [mail(text=f"Hello {{{{ name }}}}, from {number}", subject="in rotation") for number in range(300)]
    first = [compile_template(template) for template in rotation]
    assert all(compile_template(template) is kept for template, kept in zip(rotation, first, strict=True))


def test_html_is_escaped_and_the_rest_is_not() -> None:
    """A name with markup is escaped in html, and unchanged in the subject and the text."""
    template = mail(subject="Hi {{ name }}", html="<p>Hi {{ name }}</p>", text="Hi {{ name }}")
    message = compile_template(template).render({"name": "<b>Bo & Co</b>"})
    assert message.html == "<p>Hi &lt;b&gt;Bo &amp; Co&lt;/b&gt;</p>"
    assert message.subject == message.text == "Hi <b>Bo & Co</b>"


def test_a_subject_is_one_line() -> None:
    """No value can begin a new header."""
    subject = compile_template(mail(subject="Re: {{ x }}", text="t")).render_subject({"x": "a\r\nBcc: b@c.d\u2028e"})
    assert subject == "Re: a Bcc: b@c.d e"


def test_a_missing_text_is_made_from_the_html() -> None:
    """It is made once, when the template is compiled, and equals the text of the rendered html."""
    html = "<h1>Hello {{ name }}</h1><p>{% if vip %}Dear <b>friend</b>{% endif %}</p><a href='{{ url }}'>Go</a>"
    template = compile_template(mail(html=html))
    values = {"name": "A & B", "vip": True, "url": "https://example.com/?a=1&b=2"}
    message = template.render(values)
    assert message.text == html_to_text(message.html)
    assert "Hello A & B" in message.text
    assert "https://example.com/?a=1&b=2" in message.text


def test_the_nearer_value_wins() -> None:
    """The order is recipient variables, global variables, the recipient's fields, defaults."""
    template = mail(text="x", variables=[Variable("a", default="d"), Variable("b"), Variable("c", required=False)])
    values = merge_variables(template, {"a": "g", "b": "g", "email": "g"}, Person(variables={"b": "r", "name": "R"}))
    assert (values["a"], values["b"], values["c"]) == ("g", "r", None)
    assert (values["name"], values["email"]) == ("R", "g")
    assert merge_variables(template, {}, Person())["a"] == "d"


def test_a_job_is_rendered_with_its_blasts_values() -> None:
    """A job gets the address of its channel and its own unsubscribe link."""
    blast = Blast("b", mail(text="x"), ["email"], "normal", 0, {"email": 1}, 1, variables={"g": 1})
    job = Job("b", 0, "email", "normal", Recipient("a@example.com", "Ann", {"v": 2}), 0)
    values = job_values(blast, job, "https://example.com/u/1")
    assert {name: values[name] for name in ("name", "email", "phone", "g", "v", "unsubscribe_url")} == {
        "name": "Ann", "email": "a@example.com", "phone": "", "g": 1, "v": 2,
        "unsubscribe_url": "https://example.com/u/1",
    }  # fmt: skip


def test_a_missing_variable_is_named() -> None:
    """The error has the variable and the part; `default` and `is defined` accept a missing variable."""
    with pytest.raises(RenderError) as raised:
        rendered("Hi {{ nobody }}")
    assert (raised.value.variable, raised.value.part) == ("nobody", "text")
    assert rendered("{{ nobody | default('you') }}{{ nobody is defined }}") == "youfalse"


@pytest.mark.parametrize(
    ("source", "values", "text"),
    [
        ("{{ n | number }}", {"n": 1234567.5}, "1.234.568"),
        ("{{ n | number(2, ',', '.') }}", {"n": 1234.5}, "1,234.50"),
        ("{{ d | date('%d/%m/%Y') }}", {"d": "2026-01-31T10:00:00Z"}, "31/01/2026"),
        ("{{ s | truncate(5) }}", {"s": "abcdefgh"}, "abcd…"),
        (
            "{% for x in xs %}{{ loop.index }}{{ x }}{{ loop.cycle('-', '+') }}{% endfor %}",
            {"xs": ["a", "b"]},
            "1a-2b+",
        ),
        ("{{ o.a }}{{ o['b'] }}{{ xs[0] }}{{ xs[-1:] | join }}", {"o": {"a": 1, "b": 2}, "xs": [3, 4]}, "1234"),
        ("{{ 7 // 2 + 1.5 * 2 - 1 }}", {}, "5.0"),
        ("{{ 'a' in s and not 'z' in s }}", {"s": "abc"}, "true"),
        ("{{ s.split(',') | length }}{{ s.upper() }}", {"s": "a,b"}, "2A,B"),
        ("{% set t = a ~ '-' ~ b %}{{ t }}", {"a": 1, "b": None}, "1-"),
        ("{{ 'yes' if x > 1 else 'no' }}", {"x": 2}, "yes"),
    ],
)
def test_the_documented_language_works(source: str, values: dict[str, Any], text: str) -> None:
    """Numbers, dates, loops, fields, conditions and texts work."""
    assert rendered(source, **values) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.__class__ }}",
        "{{ x['__class__'].mro() }}",
        "{{ x | attr('y') }}",
        "{{ x | map(attribute='y') }}",
        "{{ x() }}",
        "{{ x.format(1) }}",
        "{{ cycler('a') }}",
        "{% macro m() %}{% endmacro %}",
        "{% call x() %}{% endcall %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{% block b %}{% endblock %}",
        "{% filter upper %}x{% endfilter %}",
        "{% for a in x recursive %}{% endfor %}",
        "{{ 2 ** 9 }}",
        "{{ {'a': 1} }}",
        "{{ [[1]] ~ 1 }}",
        "{{ x | default(*x) }}",
        "{{ '%s' % x.y }}",
        "{{ _private }}",
        "{{ 'x' * 10 }}",
    ],
)
def test_the_rest_of_the_language_is_refused(source: str) -> None:
    """It is refused when the template is compiled or, if that depends on values, when it is rendered."""
    with pytest.raises(RenderError):
        rendered(source, x="value")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{% for a in xs %}{% for b in xs %}{{ a }}{% endfor %}{% endfor %}",
        "{% set a = 'xxxxxxxx' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        "{{ s.replace('x', s).replace('x', s) }}",
        "{{ (1000000000000000 * 1000000000000000) * (1000000000000000 * 1000000000000000) }}",
        "{{ s | urlencode | urlencode | urlencode | urlencode | urlencode }}",
        "{% for c in s %}{{ s }}{% endfor %}",
    ],
)
def test_work_is_bounded_by_counting(source: str) -> None:
    """Excessive work ends in an error within two seconds of processor time."""
    began = time.process_time()
    with pytest.raises(RenderError):
        rendered(source, xs=["é" * 1000] * 1000, s="x&" * 20_000)
    assert time.process_time() - began < 2


def test_errors_hold_no_values() -> None:
    """Errors are logged, and a recipient's data must not be."""
    with pytest.raises(RenderError) as raised:
        rendered("{{ secret + 1 }}", secret="hush-hush")
    assert "hush" not in str(raised.value)


def chat(**changes: Any) -> Template:
    return mail(channels=["whatsapp"], whatsapp=WhatsAppContent("order", "en", **changes))


def test_whatsapp_parameters_are_in_order() -> None:
    """The order is header (here an image), body, and one component per button."""
    template = chat(header_variables=["image:pic"], body_variables=["name", "sum"], button_variables=["path"])
    values = {"pic": "https://example.com/a.png", "name": " Ann\n B ", "sum": 7, "path": "orders/7"}
    assert whatsapp_components(template, values) == [
        {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://example.com/a.png"}}]},
        {"type": "body", "parameters": [{"type": "text", "text": "Ann B"}, {"type": "text", "text": "7"}]},
        {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": "orders/7"}]},
    ]


@pytest.mark.parametrize("value", ["", "  \n", None, "x" * 1025, ["a"]])
def test_a_parameter_that_meta_would_refuse_is_refused_here(value: Any) -> None:
    """The error for an empty, overlong or non-text value names the variable."""
    with pytest.raises(RenderError) as raised:
        whatsapp_components(chat(body_variables=["x"]), {"x": value})
    assert raised.value.variable == "x"
