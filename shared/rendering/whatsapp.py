"""The parameters of a WhatsApp template message, as the Cloud API and Qiscus take them.

A header variable may be written `image:name`, `video:name` or `document:name`; its value is then the link of the
medium. Meta refuses empty parameters, line breaks, tabs and more than four spaces in a row, and parameters that are
too long (codes 131008, 132005, 132018): the first is an error here, white space is made single.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.rendering.errors import RenderError
from shared.rendering.limits import refill
from shared.rendering.values import text
from shared.templates import Template

MEDIA = ("image", "video", "document")
MAX_HEADER_CHARS = 60
MAX_BODY_CHARS = 1024
MAX_URL_CHARS = 2000

Component = dict[str, Any]


def split_media(written: str) -> tuple[str, str]:
    """Split a header variable into its medium ("text" if none is named) and the variable's name."""
    medium, colon, name = written.partition(":")
    return (medium, name) if colon else ("text", written)


def whatsapp_components(template: Template, values: Mapping[str, Any]) -> list[Component]:
    """Return the header, body and button components with their parameters; raises RenderError.

    A template without parameters gives an empty list. Buttons are URL buttons, one parameter each, in order.
    """
    content = template.whatsapp
    if content is None:
        raise RenderError("the template has no WhatsApp content", part="whatsapp")
    refill()
    components: list[Component] = []
    if content.header_variables:
        components.append(_component("header", [_header(name, values) for name in content.header_variables]))
    if content.body_variables:
        parameters = [_text(name, values, MAX_BODY_CHARS) for name in content.body_variables]
        components.append(_component("body", parameters))
    for index, name in enumerate(content.button_variables):
        button = {"type": "button", "sub_type": "url", "index": str(index)}
        components.append({**button, "parameters": [_text(name, values, MAX_URL_CHARS)]})
    return components


def _component(kind: str, parameters: list[Component]) -> Component:
    return {"type": kind, "parameters": parameters}


def _header(written: str, values: Mapping[str, Any]) -> Component:
    medium, name = split_media(written)
    if medium not in MEDIA:
        return _text(name, values, MAX_HEADER_CHARS)
    return {"type": medium, medium: {"link": _value(name, values, MAX_URL_CHARS)}}


def _text(name: str, values: Mapping[str, Any], cap: int) -> Component:
    return {"type": "text", "text": _value(name, values, cap)}


def _value(name: str, values: Mapping[str, Any], cap: int) -> str:
    if name not in values:
        raise RenderError(f"variable {name!r} has no value", variable=name, part="whatsapp")
    try:
        written = " ".join(text(values[name]).split())
    except RenderError as error:
        raise RenderError(error.reason, variable=name, part="whatsapp") from None
    if not written:
        raise RenderError(f"variable {name!r} is empty", variable=name, part="whatsapp")
    if len(written) > cap:
        raise RenderError(f"variable {name!r} is longer than {cap} characters", variable=name, part="whatsapp")
    return written
