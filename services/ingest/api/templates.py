"""Templates: reading and writing them, and what each requires of a recipient."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from services.ingest.http.bodies import BODY_ERRORS, read_struct
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation
from services.ingest.http.responses import Answer, ChangeAnswer, json_response
from services.ingest.templates.checking import check_template, required_fields, unused_variables
from services.ingest.templates.requests import TemplateContent, TemplateRequest, template_of
from shared.channels import CHANNELS
from shared.numbers import unpacked
from shared.templates import Category, Template, VariableType, WhatsAppContent

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_BYTES = 1024 * 1024


class VariableView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A variable with all its fields, including those that a stored template omits."""

    name: str
    type: VariableType
    required: bool
    default: Any
    example: Any
    description: str
    sensitive: bool


class TemplateView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The current version of a template, with all its fields."""

    id: str
    name: str
    version: int
    type: str
    category: Category
    channels: list[str]
    subject: str
    html: str
    text: str
    variables: list[VariableView]
    whatsapp: WhatsAppContent | None
    language: str


class TemplateAnswer(Answer, kw_only=True, frozen=True):
    """One template, in its current version; `warnings` lists the variables that no part of it uses."""

    template: TemplateView
    warnings: list[Problem] | UnsetType = UNSET


class TemplatesAnswer(Answer, kw_only=True, frozen=True):
    """All templates, in the order of their ids."""

    templates: list[TemplateView]


class Requirements(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """What a recipient needs: an address for each channel, and a value for each required variable.

    `requiredFields` are the recipient's own fields that the template prints without a guard (such as `name`). `columns`
    is the header of a CSV file for this template.
    """

    template_id: str
    version: int
    category: str
    channels: list[str]
    addresses: dict[str, str]
    variables: list[VariableView]
    required: list[str]
    required_fields: list[str]
    columns: list[str]


class RequirementsAnswer(Answer, kw_only=True, frozen=True):
    """The requirements of a template."""

    requirements: Requirements


async def _list(call: Call) -> web.Response:
    return json_response(TemplatesAnswer(templates=[_view(one) for one in await call.gateway.templates.every()]))


async def _found(call: Call) -> Template:
    template_id = call.request.match_info["id"]
    template = await call.gateway.templates.find(template_id) if _ID.fullmatch(template_id) else None
    if template is None:
        raise ApiError("TEMPLATE_NOT_FOUND")
    return template


async def _show(call: Call) -> web.Response:
    return json_response(TemplateAnswer(template=_view(await _found(call))))


async def _create(call: Call) -> web.Response:
    request = await read_struct(call, TemplateRequest, _MAX_BYTES)
    template = _checked(call, template_of(request.id, request))
    created = await call.gateway.templates.create(template)
    if created is None:
        raise ApiError("TEMPLATE_EXISTS")
    return json_response(_written(created), 201, {"Location": f"/api/v1/templates/{created.id}"})


async def _replace(call: Call) -> web.Response:
    template_id = call.request.match_info["id"]
    content = await read_struct(call, TemplateContent, _MAX_BYTES)
    if not _ID.fullmatch(template_id):
        what = "an id has up to 100 letters, digits, dots, dashes and underscores, and begins with a letter or digit"
        raise invalid([Problem("id", "INVALID_VALUE", what)])
    template, is_new = await call.gateway.templates.replace(_checked(call, template_of(template_id, content)))
    return json_response(_written(template), 201 if is_new else 200)


async def _delete(call: Call) -> web.Response:
    template = await _found(call)
    if not await call.gateway.templates.delete(template.id):
        raise ApiError("TEMPLATE_NOT_FOUND")
    return json_response(ChangeAnswer(message="the template is deleted"))


async def _requirements(call: Call) -> web.Response:
    template = await _found(call)
    addresses = {name: CHANNELS[name].address_field for name in template.channels}
    names = [one.name for one in template.variables if one.name not in {"name", *addresses.values()}]
    requirements = Requirements(
        template_id=template.id,
        version=template.version,
        category=template.category,
        channels=template.channels,
        addresses=addresses,
        variables=_view(template).variables,
        required=[one.name for one in template.variables if one.required and one.default is None],
        required_fields=required_fields(template),
        columns=["name", *addresses.values(), *names],
    )
    return json_response(RequirementsAnswer(requirements=requirements))


def _view(template: Template) -> TemplateView:
    variables = [VariableView(**unpacked(msgspec.structs.asdict(one))) for one in template.variables]
    return TemplateView(**msgspec.structs.asdict(template) | {"variables": variables})


def _written(template: Template) -> TemplateAnswer:
    return TemplateAnswer(template=_view(template), warnings=unused_variables(template) or UNSET)


def _checked(call: Call, template: Template) -> Template:
    problems = check_template(template, call.gateway.settings.default_region)
    if problems:
        raise invalid(problems)
    return template


_UNKNOWN = ("TEMPLATE_NOT_FOUND",)
_WRITING = (*BODY_ERRORS, "VALIDATION_FAILED")

OPERATIONS = [
    Operation("GET", "/templates", "listTemplates", "List all templates", _list, answer=TemplatesAnswer,
              nameless=True),
    Operation("POST", "/templates", "createTemplate", "Add a template", _create, "admin", TemplateAnswer, (201,),
              body=Body({JSON: TemplateRequest}), errors=(*_WRITING, "TEMPLATE_EXISTS")),
    Operation("GET", "/templates/{id}", "showTemplate", "Show a template", _show, answer=TemplateAnswer,
              errors=_UNKNOWN, nameless=True),
    Operation("PUT", "/templates/{id}", "replaceTemplate",
              "Replace a template, or add it; running blasts keep the version they began with",
              _replace, "admin", TemplateAnswer, (200, 201), body=Body({JSON: TemplateContent}), errors=_WRITING),
    Operation("DELETE", "/templates/{id}", "deleteTemplate", "Delete a template", _delete, "admin", ChangeAnswer,
              errors=_UNKNOWN),
    Operation("GET", "/templates/{id}/requirements", "templateRequirements",
              "Show what a template requires of a recipient", _requirements, answer=RequirementsAnswer,
              errors=_UNKNOWN, nameless=True),
]  # fmt: skip
