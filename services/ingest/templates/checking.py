"""Checks a template and finds every problem before the template can be used.

A template must compile, use only variables that it declares, fit its channels, and render with its own examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from services.ingest.blasts.variables import ValueProblem, check_of
from services.ingest.http.errors import Problem
from shared.channels import CHANNELS, EMAIL, WHATSAPP
from shared.nearest import Hints
from shared.rendering import BUILT_IN, CompiledTemplate, RenderError, compile_template
from shared.rendering.languages import is_language
from shared.rendering.syntax import NOT_NAMES
from shared.rendering.whatsapp import MEDIA, Parameter, buttons_of, split_media
from shared.templates import Template, Variable, WhatsAppContent

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# white space of all kinds may stay
_UNFIT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_GIVEN = "unsubscribe_url"
_SHOWN = frozenset({"name", "email", "phone"})
# https://developers.facebook.com/docs/whatsapp: one header parameter; at most ten buttons, except in carousels
_MOST_HEADERS, _MOST_BUTTONS = 1, 10
# the same source: names of templates are in lower case; a language is `id`, or with its region `pt_BR`
_APPROVED_NAME = re.compile(r"[a-z0-9_]+")
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:_([A-Z]{2}))?")
_LANGUAGE_LIKE = re.compile(r"([a-z]{2,3})(?:[_-]([a-z]{2}))?", re.IGNORECASE)
_NAMESPACE = re.compile(r"[!-~]*")
_SAMPLES = {
    "string": "example",
    "number": 1,
    "date": "2026-01-31",
    "email": "person@example.com",
    "phone": "6281234567890",
    "url": "https://example.com/",
}


def check_template(template: Template, region: str) -> list[Problem]:
    """Return every problem of a template; none means that it may be stored."""
    problems = [*_channel_problems(template), *_character_problems(template), *_variable_problems(template, region)]
    parameters = _whatsapp_problems(template)
    problems += parameters
    try:
        compiled = compile_template(template)
    except RenderError as error:
        if error.part == "whatsapp" and parameters:
            return problems
        return [*problems, Problem(error.part, "INVALID_TEMPLATE", str(error))]
    problems += _undeclared(template, compiled)
    return problems or list(_render_problems(template, compiled))


def unused_variables(template: Template) -> list[Problem]:
    """Return a warning for each declared variable that no part of the template uses."""
    compiled = compile_template(template)
    used = sorted(compiled.variables | (compiled.whatsapp.variables if compiled.whatsapp else frozenset()))
    hints = Hints()
    return [
        Problem(
            f"variables[{position}].name",
            "UNKNOWN_VARIABLE",
            f"no part of the template uses {one.name!r}{hints.did_you_mean(one.name, used)}",
        )
        for position, one in enumerate(template.variables)
        if one.name not in used
    ]


def required_fields(template: Template) -> list[str]:
    """Return a recipient's own fields that the template prints unguarded, besides the addresses of its channels."""
    compiled = compile_template(template)
    printed = compiled.printed | (compiled.whatsapp.printed if compiled.whatsapp else frozenset())
    declared = {one.name for one in template.variables}
    addresses = {CHANNELS[name].address_field for name in template.channels}
    return [name for name in BUILT_IN[:3] if name in printed and name not in declared | addresses]


def sample_values(template: Template) -> dict[str, Any]:
    """Return values for a test render: the template's examples, else its defaults, else a sample of the type."""
    values: dict[str, Any] = {
        "name": "Example Person", "email": "person@example.com", "phone": "6281234567890",
        _GIVEN: "https://example.com/u/example",
    }  # fmt: skip
    return values | {one.name: _sample(one) for one in template.variables}


def _sample(variable: Variable) -> Any:
    for value in (variable.example, variable.default):
        if value is not None:
            return value
    return _SAMPLES[variable.type]


def _unknown_channel(name: str) -> str:
    return f"there is no channel {name[:60]!r}: use {' or '.join(CHANNELS)}"


def _channel_problems(template: Template) -> Iterator[Problem]:
    for position, name in enumerate(template.channels):
        if name not in CHANNELS:
            yield Problem(f"channels[{position}]", "UNKNOWN_CHANNEL", _unknown_channel(name))
        elif name in template.channels[:position]:
            yield Problem(f"channels[{position}]", "INVALID_VALUE", f"{name} is listed twice")
    if EMAIL.name in template.channels:
        if not template.subject.strip():
            yield Problem("subject", "REQUIRED", "an email template needs a subject")
        if not (template.html.strip() or template.text.strip()):
            yield Problem("html", "REQUIRED", "an email template needs html or text")
    if template.language and not is_language(template.language):
        yield Problem("language", "INVALID_VALUE", "language must be a code such as id, en or pt_BR")
    if WHATSAPP.name in template.channels and template.whatsapp is None:
        yield Problem("whatsapp", "REQUIRED", "a WhatsApp template must name the provider's template in `whatsapp`")


def _character_problems(template: Template) -> Iterator[Problem]:
    for part in ("subject", "html", "text"):
        if _UNFIT.search(getattr(template, part)):
            yield Problem(part, "INVALID_CHARACTERS", f"{part} contains control characters, which no mail may have")


def _name_problem(name: str) -> str:
    """Return why a variable cannot have this name, "" if it can."""
    if not _NAME.fullmatch(name):
        why = "use letters, digits and underscores, beginning with a letter"
    elif name == _GIVEN:
        why = "every template has it, so use it without declaring it"
    elif name in NOT_NAMES:
        why = f"this word has a meaning of its own in templates; choose another name, such as {name.lower()}_value"
    else:
        return ""
    return f"{name[:60]!r} cannot be a variable's name: {why}"


def _variable_problems(template: Template, region: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for position, one in enumerate(template.variables):
        path = f"variables[{position}]"
        if problem := _name_problem(one.name):
            yield Problem(f"{path}.name", "INVALID_VALUE", problem)
        elif one.name in seen:
            yield Problem(f"{path}.name", "INVALID_VALUE", f"{one.name} is declared twice")
        elif one.sensitive and one.name in _SHOWN:
            yield Problem(
                f"{path}.sensitive", "INVALID_VALUE", f"{one.name} cannot be sensitive, because the log shows it"
            )
        if one.sensitive and one.default is not None:
            what = f"{one.name} is sensitive, so it cannot have a default: every reader of the template would see it"
            yield Problem(f"{path}.default", "INVALID_VALUE", what)
        seen.add(one.name)
        check = check_of(one, region)
        for field, value in (("default", one.default), ("example", one.example)):
            if value is None:
                continue
            try:
                check(value)
            except ValueProblem as unfit:
                yield Problem(f"{path}.{field}", unfit.code, f"{one.name}'s {field} {unfit}")


def _whatsapp_problems(template: Template) -> list[Problem]:
    content = template.whatsapp
    if content is None:
        return []
    kinds: tuple[tuple[str, list[str], int], ...] = (
        ("headerVariables", content.header_variables, _MOST_HEADERS),
        ("bodyVariables", content.body_variables, len(content.body_variables)),
        ("buttonVariables", [one.value for _, one in buttons_of(content)], _MOST_BUTTONS),
    )
    problems, hints = [*_approved_problems(content), *_button_problems(content)], Hints()
    for field, names, most in kinds:
        if len(names) > most:
            what = f"a WhatsApp template can have at most {most} of these, not {len(names)}"
            problems.append(Problem(f"whatsapp.{field}", "PARAMETER_COUNT_MISMATCH", what))
        for position, written in enumerate(names):
            path = f"whatsapp.{field}[{position}]"
            medium, value = split_media(written) if field == "headerVariables" else ("text", written)
            if medium not in (*MEDIA, "text"):
                problems.append(Problem(path, "INVALID_TEMPLATE", f"a header must be {', '.join(MEDIA)} or text"))
            else:
                problems += _parameter_problems(template, path, value, hints)
    return problems


def _approved_problems(content: WhatsAppContent) -> Iterator[Problem]:
    """Yield what cannot be the name, language or namespace of an approved template: every message would be refused."""
    if not _APPROVED_NAME.fullmatch(content.template_name):
        what = (
            f"{content.template_name[:60]!r} cannot be the name of an approved template, "
            "which has lower-case letters a to z, digits and underscores only"
        )
        yield Problem("whatsapp.templateName", "INVALID_VALUE", what)
    if not _LANGUAGE.fullmatch(content.language):
        like = _LANGUAGE_LIKE.fullmatch(content.language.strip())
        meant = f"{like[1].lower()}{f'_{like[2].upper()}' if like[2] else ''}" if like else ""
        hint = f"write {meant}" if meant else "use the approved template's code, such as id, en or pt_BR"
        what = f"{content.language!r} is not a language code of WhatsApp: {hint}"
        yield Problem("whatsapp.language", "INVALID_VALUE", what)
    if not _NAMESPACE.fullmatch(content.namespace):
        what = "a namespace has neither spaces nor characters outside ASCII"
        yield Problem("whatsapp.namespace", "INVALID_VALUE", what)


def _parameter_problems(template: Template, path: str, written: str, hints: Hints) -> Iterator[Problem]:
    try:
        names = Parameter(written, template.spoken).variables
    except RenderError as error:
        yield Problem(path, "INVALID_TEMPLATE", str(error))
        return
    known = _declared(template)
    for name in sorted(names - known):
        what = f"the template does not declare the variable {name[:60]!r}{hints.did_you_mean(name, known)}"
        yield Problem(path, "INVALID_TEMPLATE", what)


def _button_problems(content: WhatsAppContent) -> Iterator[Problem]:
    seen: set[int] = set()
    for position, (index, _button) in enumerate(buttons_of(content)):
        path = f"whatsapp.buttonVariables[{position}].index"
        if index in seen:
            yield Problem(path, "INVALID_VALUE", f"two buttons have the index {index}")
        seen.add(index)


def _declared(template: Template) -> frozenset[str]:
    return frozenset(one.name for one in template.variables) | set(BUILT_IN)


def _undeclared(template: Template, compiled: CompiledTemplate) -> Iterator[Problem]:
    known, hints = _declared(template), Hints()
    used = compiled.variables | (compiled.whatsapp.filename_variables if compiled.whatsapp else frozenset())
    for name in sorted(used - known):
        what = f"the template uses {name[:60]!r} but does not declare it{hints.did_you_mean(name, known)}"
        yield Problem("variables", "INVALID_TEMPLATE", what)


def _render_problems(template: Template, compiled: CompiledTemplate) -> Iterator[Problem]:
    values = sample_values(template)
    try:
        compiled.render(values)
        if template.whatsapp is not None:
            compiled.components(values)
    except RenderError as error:
        yield Problem(error.part, "RENDER_FAILED", f"the template cannot be rendered with its own examples: {error}")
