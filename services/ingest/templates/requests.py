"""A template as a client or a YAML file writes it: everything but its version, which the library assigns."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from services.ingest.http.requests import ChannelName, Request, Variables
from shared.numbers import whole
from shared.templates import Button, ButtonType, Category, Template, Variable, VariableType, WhatsAppContent

MAX_VARIABLES = 200

Line = Annotated[str, Meta(max_length=200)]
# a variable's name, an expression, or a text with tags
Value = Annotated[str, Meta(min_length=1, max_length=1000, examples=["amount | currency('IDR')"])]
Values = Annotated[list[Value], Meta(max_length=100)]
Source = Annotated[str, Meta(max_length=262_144)]
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
# numbers stay exact only in fields of any type; `check_template` refuses values that are not scalars
Scalar = Annotated[Any, Meta(extra_json_schema=_SCALAR)]


class VariableRequest(Request, kw_only=True, frozen=True):
    """A variable that the template uses; without a default, a required one must be given for every recipient.

    The value of a sensitive variable (a password, a code) never appears in a log, and is encrypted until it is sent.
    """

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    type: VariableType = "string"
    required: bool = True
    default: Scalar = None
    example: Scalar = None
    description: Annotated[str, Meta(max_length=500)] = ""
    sensitive: bool = False


class ButtonRequest(Request, kw_only=True, frozen=True):
    """A button that takes a value; `index` is its place among the approved template's buttons, from 0."""

    value: Value
    type: ButtonType = "url"
    index: Annotated[int, Meta(ge=0, le=9)] | None = None


class WhatsAppRequest(Request, kw_only=True, frozen=True):
    """The template that the provider approved and, in order, the values of its parameters.

    Each value is a variable's name, an expression (`amount | number`) or a text with tags (`Rp {{ amount | number }}`).
    A header variable may be written `image:name`, `video:name` or `document:name`: its value is then a link.
    `documentFilename` is the name of a document as the recipient sees it; the end of the link by default.
    """

    template_name: Annotated[str, Meta(min_length=1, max_length=512)]
    language: Annotated[str, Meta(min_length=1, max_length=20)]
    namespace: Line = ""
    header_variables: Values = field(default_factory=list)
    body_variables: Values = field(default_factory=list)
    button_variables: Annotated[list[Value | ButtonRequest], Meta(max_length=100)] = field(default_factory=list)
    document_filename: Annotated[str, Meta(max_length=500)] = ""


class TemplateContent(Request, kw_only=True, frozen=True):
    """A template as PUT takes it: without its id, which is in the path."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    channels: Annotated[list[str], Meta(min_length=1, max_length=16)]
    type: Annotated[str, Meta(max_length=100)] = "notification"
    category: Category = "transactional"
    subject: Annotated[str, Meta(max_length=2000)] = ""
    html: Source = ""
    text: Source = ""
    variables: Annotated[list[VariableRequest], Meta(max_length=MAX_VARIABLES)] = field(default_factory=list)
    whatsapp: WhatsAppRequest | None = None
    language: Annotated[str, Meta(max_length=20, examples=["id"])] = ""


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


class PreviewRequest(Request, kw_only=True, frozen=True):
    """One recipient's message, to be rendered and shown, not sent: of a stored template, or of one given whole.

    Give either `templateId` or `template`.
    """

    template_id: Annotated[str, Meta(max_length=100, examples=["otp"])] = ""
    template: TemplateContent | None = None
    global_variables: Variables = field(default_factory=dict)
    recipient: msgspec.Raw
    channel: ChannelName


def template_of(template_id: str, content: TemplateContent) -> Template:
    """Return the template that a request describes, without a version."""
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
        whatsapp=_whatsapp(found) if found else None,
        language=content.language,
    )


def _whatsapp(one: WhatsAppRequest) -> WhatsAppContent:
    buttons = [Button(**_fields(each)) if isinstance(each, ButtonRequest) else each for each in one.button_variables]
    return WhatsAppContent(**_fields(one) | {"button_variables": buttons})


def _variable(one: VariableRequest) -> Variable:
    return Variable(**_fields(one) | {"default": _packable(one.default), "example": _packable(one.example)})


def _packable(value: Any) -> Any:
    """Return a value with which a template can be packed: whole numbers may be larger than msgpack's."""
    return whole(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _fields(request: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}
