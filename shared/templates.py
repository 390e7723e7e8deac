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


ButtonType = Literal["url", "quick_reply", "copy_code", "otp", "flow", "catalog"]


class Button(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A button of a WhatsApp template that takes a value; without `index` its place in the list counts, from 0."""

    value: str
    type: ButtonType = "url"
    index: int | None = None


class WhatsAppContent(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The provider's approved template and, in order, what fills its parameters.

    Each is a variable's name, an expression (`amount | number`) or a text with tags (`Rp {{ amount | number }}`). A
    button that is only that is a URL button.
    """

    template_name: str
    language: str
    namespace: str = ""
    header_variables: list[str] = []
    body_variables: list[str] = []
    button_variables: list[str | Button] = []
    document_filename: str = ""


class Template(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A template as the API shows it and as a blast's snapshot keeps it; `version` counts from 1.

    `language` is a code such as `id` or `pt_BR`.
    """

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
    language: str = ""

    @property
    def spoken(self) -> str:
        """The language of its dates and amounts: its own, else that of its WhatsApp content, else English."""
        return self.language or (self.whatsapp.language if self.whatsapp else "") or "en"
