"""The parameters of a WhatsApp template message, as the Cloud API and Qiscus accept them.

A header variable may be written `image:name`, `video:name` or `document:name`; its value is then the link of the
medium. Meta refuses empty parameters, line breaks, tabs, runs of more than four spaces, and parameters that are too
long (codes 131008, 132005, 132018). Empty and overlong parameters are errors here too; white space is collapsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from shared.rendering.budget import MAX_OUTPUT_CHARS, refill
from shared.rendering.errors import RenderError
from shared.rendering.sandbox import PLAIN, Part
from shared.rendering.values import text
from shared.templates import Button, ButtonType, WhatsAppContent

MEDIA = ("image", "video", "document")
MAX_HEADER_CHARS = 60
MAX_BODY_CHARS = 1024
MAX_URL_CHARS = 2000
MAX_FILENAME_CHARS = 240
PART = "whatsapp"
# https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates: maximum lengths
_MOST_CHARS: dict[ButtonType, int] = {
    "url": MAX_URL_CHARS, "quick_reply": 256, "copy_code": 20, "otp": 15, "flow": 200, "catalog": 100,
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MEDIUM = re.compile(r"([a-z]+)\s*:\s*(.*)", re.DOTALL)
_PATH_END = re.compile("[?#]")
_UNFIT_FILENAME = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')

Component = dict[str, Any]


def split_media(written: str) -> tuple[str, str]:
    """Split a header variable into its medium ("text" by default) and the variable or expression for its value."""
    found = _MEDIUM.fullmatch(written)
    return (found[1], found[2]) if found else ("text", written)


def buttons_of(content: WhatsAppContent) -> list[tuple[int, Button]]:
    """Return each button with its index in the approved template, counted from 0."""
    written = [one if isinstance(one, Button) else Button(one) for one in content.button_variables]
    return [(place if one.index is None else one.index, one) for place, one in enumerate(written)]


class Parameter:
    """The source of one parameter: a variable, an expression, or a text with tags.

    `variables` are the names that it uses, `printed` those that it prints without a guard.
    """

    def __init__(self, written: str, language: str) -> None:
        self._name = written if _NAME.fullmatch(written) else ""
        self._part: Part | None = None
        if not self._name:
            source = written if "{{" in written or "{%" in written else f"{{{{ {written} }}}}"
            self._part = Part(source, PART, PLAIN, language)
        self.variables = self._part.variables if self._part is not None else frozenset({self._name})
        self.printed = self._part.printed if self._part is not None else self.variables
        self._blamed = next(iter(self.variables)) if len(self.variables) == 1 else ""

    def value(self, values: Mapping[str, Any], cap: int) -> str:
        """Return the text of the parameter; raises RenderError with the variable at fault."""
        try:
            written = " ".join(self._text(values).split())
        except RenderError as error:
            raise RenderError(error.reason, variable=error.variable or self._blamed, part=PART) from None
        if not written:
            raise self._unfit("is empty")
        if len(written) > cap:
            raise self._unfit(f"is longer than {cap} characters")
        return written

    def _unfit(self, problem: str) -> RenderError:
        what = f"variable {self._blamed!r}" if self._blamed else "a parameter"
        return RenderError(f"{what} {problem}", variable=self._blamed, part=PART)

    def _text(self, values: Mapping[str, Any]) -> str:
        if self._part is not None:
            return self._part.render(values)
        if self._name not in values:
            raise RenderError(f"variable {self._name!r} has no value", variable=self._name)
        value = values[self._name]
        if value.__class__ is str and len(value) <= MAX_OUTPUT_CHARS:  # as `text` would return it
            return value
        refill()
        return text(value)


class WhatsAppParameters:
    """The sources of a template's parameters; raises RenderError for an expression that cannot be compiled."""

    def __init__(self, content: WhatsAppContent, language: str) -> None:
        headers = [split_media(written) for written in content.header_variables]
        self._headers = [(medium, Parameter(written, language)) for medium, written in headers]
        self._body = [Parameter(written, language) for written in content.body_variables]
        self._buttons = [(index, one.type, Parameter(one.value, language)) for index, one in buttons_of(content)]
        self._filename = Part(content.document_filename, PART, PLAIN, language) if content.document_filename else None
        every = [*(one for _, one in self._headers), *self._body, *(one for _, _, one in self._buttons)]
        self.filename_variables = self._filename.variables if self._filename is not None else frozenset()
        self.variables = self.filename_variables.union(*(one.variables for one in every))
        named = self._filename.printed if self._filename is not None else frozenset()
        self.printed = named.union(*(one.printed for one in every))

    def components(self, values: Mapping[str, Any]) -> list[Component]:
        """Return the header, body and button components with their parameters; raises RenderError."""
        found: list[Component] = []
        if self._headers:
            parameters = [self._header(medium, one, values) for medium, one in self._headers]
            found.append({"type": "header", "parameters": parameters})
        if self._body:
            texts = [_text(one.value(values, MAX_BODY_CHARS)) for one in self._body]
            found.append({"type": "body", "parameters": texts})
        for index, kind, one in self._buttons:
            value = one.value(values, _MOST_CHARS[kind])
            # the API treats the copy-code button of an authentication template as a URL button
            sub_type = "url" if kind == "otp" else kind
            button = {"type": "button", "sub_type": sub_type, "index": str(index)}
            found.append({**button, "parameters": [_button_parameter(kind, value)]})
        return found

    def _header(self, medium: str, parameter: Parameter, values: Mapping[str, Any]) -> Component:
        if medium not in MEDIA:
            return _text(parameter.value(values, MAX_HEADER_CHARS))
        link = parameter.value(values, MAX_URL_CHARS)
        shown = {"link": link}
        if medium == "document":
            shown["filename"] = self._file_name(link, values)
        return {"type": medium, medium: shown}

    def _file_name(self, link: str, values: Mapping[str, Any]) -> str:
        """Return the file name that the recipient sees: the template's, else the end of the link's path."""
        named = self._filename.render(values) if self._filename is not None else ""
        name = named or unquote(_PATH_END.split(link, maxsplit=1)[0].rpartition("/")[2])
        return " ".join(_UNFIT_FILENAME.sub(" ", name).split())[:MAX_FILENAME_CHARS] or "document"


def _text(value: str) -> Component:
    return {"type": "text", "text": value}


def _button_parameter(kind: ButtonType, value: str) -> Component:
    match kind:
        case "quick_reply":
            return {"type": "payload", "payload": value}
        case "copy_code":
            return {"type": "coupon_code", "coupon_code": value}
        case "flow":
            return {"type": "action", "action": {"flow_token": value}}
        case "catalog":
            return {"type": "action", "action": {"thumbnail_product_retailer_id": value}}
        case _:
            return _text(value)
