"""A template: named, versioned content with its variables and channels."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

VariableType = Literal["string", "number", "date", "email", "phone", "url"]
Category = Literal["transactional", "marketing"]


class Variable(msgspec.Struct, frozen=True, omit_defaults=True):
    """A variable of a template; `default` applies if neither recipient nor blast has a value.

    The value of a `sensitive` variable, such as a password or a code, is sealed from the request to the send
    (`shared.sealing`), and logs never show it.
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
    """A button of a WhatsApp template that takes a value; the default `index` is its position in the list, from 0."""

    value: str
    type: ButtonType = "url"
    index: int | None = None


class WhatsAppContent(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The provider's approved template and the sources of its parameters, in order.

    Each source is a variable's name, an expression (`amount | number`) or a text with tags
    (`Rp {{ amount | number }}`). A button given only by its source is a URL button.
    """

    template_name: str
    language: str
    namespace: str = ""
    header_variables: list[str] = []
    body_variables: list[str] = []
    button_variables: list[str | Button] = []
    document_filename: str = ""


class Template(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A template as in the API and in a blast's snapshot; `version` counts from 1.

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
        """The language of dates and amounts: the template's, else that of its WhatsApp content, else English."""
        return self.language or (self.whatsapp.language if self.whatsapp else "") or "en"
