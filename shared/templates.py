"""A template: named, versioned content with the variables it needs and the channels it serves."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

VariableType = Literal["string", "number", "date", "email", "phone", "url"]
Category = Literal["transactional", "marketing"]


class Variable(msgspec.Struct, frozen=True, omit_defaults=True):
    """A variable that a template uses; `default` serves where neither recipient nor blast gives a value.

    The value of a `sensitive` one, a password or a code, is sealed from the request to the send (`shared.sealing`), and
    no log shows it.
    """

    name: str
    type: VariableType = "string"
    required: bool = True
    default: Any = None
    example: Any = None
    description: str = ""
    sensitive: bool = False


class WhatsAppContent(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The provider's approved template and, in order, the variables that fill its parameters."""

    template_name: str
    language: str
    namespace: str = ""
    header_variables: list[str] = []
    body_variables: list[str] = []
    button_variables: list[str] = []


class Template(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A template as the API shows it and as a blast's snapshot keeps it; `version` counts from 1."""

    id: str
    name: str
    channels: list[str]
    type: str = "notification"
    category: Category = "transactional"
    subject: str = ""
    html: str = ""
    text: str = ""
    variables: list[Variable] = []
    whatsapp: WhatsAppContent | None = None
    version: int = 1
