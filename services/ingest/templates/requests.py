"""A template as a client or a YAML file writes it: all but its version, which the library counts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from services.ingest.requests import Request
from shared.templates import Category, Template, Variable, VariableType, WhatsAppContent

MAX_VARIABLES = 200

Line = Annotated[str, Meta(max_length=200)]
Names = Annotated[list[Annotated[str, Meta(max_length=110)]], Meta(max_length=100)]
Source = Annotated[str, Meta(max_length=262_144)]
Scalar = str | int | float | bool | None


class VariableRequest(Request, kw_only=True, frozen=True):
    """A variable that the template uses; without a default, a required one must be given for every recipient.

    No log shows the value of a sensitive one (a password, a code), and it is encrypted until it is sent.
    """

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    type: VariableType = "string"
    required: bool = True
    default: Scalar = None
    example: Scalar = None
    description: Annotated[str, Meta(max_length=500)] = ""
    sensitive: bool = False


class WhatsAppRequest(Request, kw_only=True, frozen=True):
    """The template that the provider approved and, in order, the variables that fill its parameters.

    A header variable may be written `image:name`, `video:name` or `document:name`: its value is then a link.
    """

    template_name: Annotated[str, Meta(min_length=1, max_length=512)]
    language: Annotated[str, Meta(min_length=1, max_length=20)]
    namespace: Line = ""
    header_variables: Names = field(default_factory=list)
    body_variables: Names = field(default_factory=list)
    button_variables: Names = field(default_factory=list)


class TemplateContent(Request, kw_only=True, frozen=True):
    """What PUT takes: a template but its id, which stands in the path."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    channels: Annotated[list[str], Meta(min_length=1, max_length=16)]
    type: Annotated[str, Meta(max_length=100)] = "notification"
    category: Category = "transactional"
    subject: Annotated[str, Meta(max_length=2000)] = ""
    html: Source = ""
    text: Source = ""
    variables: Annotated[list[VariableRequest], Meta(max_length=MAX_VARIABLES)] = field(default_factory=list)
    whatsapp: WhatsAppRequest | None = None


class TemplateRequest(TemplateContent, kw_only=True, frozen=True):
    """A template as POST takes it."""

    id: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=100,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
            extra_json_schema={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"},
        ),
    ]


def template_of(template_id: str, content: TemplateContent) -> Template:
    """Return the template that a request describes, its version not counted yet."""
    found = content.whatsapp
    return Template(
        id=template_id,
        name=content.name,
        channels=list(content.channels),
        type=content.type,
        category=content.category,
        subject=content.subject,
        html=content.html,
        text=content.text,
        variables=[_variable(one) for one in content.variables],
        whatsapp=WhatsAppContent(**_fields(found)) if found else None,
    )


def _variable(one: VariableRequest) -> Variable:
    return Variable(**_fields(one))


def _fields(request: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}
