"""Names in a template: of its variables, and of the template that WhatsApp approved."""

from __future__ import annotations

import pytest

from services.ingest.http.decoding import decode_struct
from services.ingest.http.errors import Problem
from services.ingest.templates.checking import check_template
from services.ingest.templates.requests import TemplateContent, template_of
from shared.rendering import compile_template
from shared.templates import Template, Variable, WhatsAppContent

_WORDS = [
    "for",
    "if",
    "in",
    "and",
    "or",
    "is",
    "else",
    "elif",
    "endif",
    "set",
    "from",
    "with",
    "class",
    "range",
    "TRUE",
]


def _problems(template: Template) -> list[Problem]:
    return check_template(template, "ID")


def _mail(name: str, text: str = "x") -> Template:
    return Template("t", "T", ["email"], subject="s", text=text, variables=[Variable(name)])


@pytest.mark.parametrize(
    "name", ["true", "True", "false", "False", "none", "None", "not", "loop", "self", "namespace", "caller"]
)
def test_a_word_that_no_template_could_print_is_refused_as_a_name(name: str) -> None:
    """Such a variable was stored, and then printed nothing, the word itself, or made each use of it an error."""
    (problem,) = _problems(_mail(name))
    assert (problem.field, problem.code) == ("variables[0].name", "INVALID_VALUE")
    assert f"such as {name.lower()}_value" in problem.message
    assert not _problems(_mail(f"{name.lower()}_value"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("unsubscribe_url", "without declaring it"),
        ("2nd", "beginning with a letter"),
        ("due date", "letters, digits and underscores"),
        ("größe", "letters, digits and underscores"),
    ],
)
def test_the_problem_says_what_is_wrong_with_a_name(name: str, advice: str) -> None:
    """Each kind of name that cannot be has a message of its own."""
    (problem,) = _problems(_mail(name))
    assert advice in problem.message


@pytest.mark.parametrize("name", _WORDS)
def test_other_words_of_the_language_can_be_names(name: str) -> None:
    """They mean a variable wherever a value can be: a column `from` or `class` needs no other name."""
    uses = "{{ X }} {{ X | upper }} {% if X %}{{ 'a' if not X else X }}{% endif %}"
    template = _mail(name, (uses + "{% for i in [X] %}{{ i ~ X }}{% endfor %}").replace("X", name))
    assert not _problems(template)
    assert compile_template(template).render({name: "v"}).text == "v V vvv"


@pytest.mark.parametrize("name", ["order_update", "otp2", "2fa_code", "_", "a" * 512])
@pytest.mark.parametrize("language", ["id", "en_US", "pt_BR", "fil", "prs_AF"])
def test_names_and_languages_of_approved_templates_are_taken(name: str, language: str) -> None:
    """Whatever Meta's rules allow; its list of languages grows, so only the form is checked."""
    content = WhatsAppContent(name, language, namespace="b393932b_0056_4389_a284_c45fb5f78ef0")
    assert not _problems(Template("t", "T", ["whatsapp"], whatsapp=content))


@pytest.mark.parametrize(
    "name",
    ["Order_Update", "order update", "order-update", "order_update ", "\n", "order_update\n", "größe", "{{ name }}"],
)
def test_what_cannot_be_an_approved_templates_name_is_refused(name: str) -> None:
    """Meta creates no such template, so every message would fail with 132001 and pause its blast."""
    (problem,) = _problems(Template("t", "T", ["whatsapp"], whatsapp=WhatsAppContent(name, "id")))
    assert (problem.field, problem.code) == ("whatsapp.templateName", "INVALID_VALUE")
    assert "lower-case letters a to z, digits and underscores" in problem.message


@pytest.mark.parametrize(
    ("language", "advice"),
    [
        ("en-US", "write en_US"),
        ("en_us", "write en_US"),
        ("EN", "write en"),
        ("PT-br", "write pt_BR"),
        (" id", "write id"),
        ("id\n", "write id"),
        ("English", "such as id, en or pt_BR"),
        ("e", "such as id, en or pt_BR"),
        ("zh_Hans_CN", "such as id, en or pt_BR"),
        ("123", "such as id, en or pt_BR"),
    ],
)
def test_a_language_is_written_as_whatsapp_writes_it(language: str, advice: str) -> None:
    """No template was approved in a code of another form; where the meaning is clear, the message names it."""
    (problem,) = _problems(Template("t", "T", ["whatsapp"], whatsapp=WhatsAppContent("hello", language)))
    assert (problem.field, problem.code) == ("whatsapp.language", "INVALID_VALUE")
    assert advice in problem.message


@pytest.mark.parametrize("namespace", ["a b", "a\tb", "größe", "a\n"])
def test_a_namespace_has_no_space(namespace: str) -> None:
    """It is an identifier of the provider, passed on as it is."""
    (problem,) = _problems(Template("t", "T", ["whatsapp"], whatsapp=WhatsAppContent("hello", "id", namespace)))
    assert problem.field == "whatsapp.namespace"


def _with_number(field: str, number: str) -> Template:
    body = (
        '{"name": "T", "channels": ["email"], "subject": "s", "text": "{{ amount }}", "variables": '
        f'[{{"name": "amount", "type": "number", "{field}": {number}}}]}}'
    )
    return template_of("t", decode_struct(body.encode(), TemplateContent))


@pytest.mark.parametrize("field", ["default", "example"])
@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "9" * 30])
def test_a_whole_number_of_more_than_64_bits_is_an_example_like_any_other(field: str, number: str) -> None:
    """Such a template could not be packed: storing it, or a preview of it, was answered with 500."""
    template = _with_number(field, number)
    assert not _problems(template)
    assert str(getattr(template.variables[0], field)) == number
    assert [one.message for one in _problems(_with_number(field, number + "0" * 30))] != []
