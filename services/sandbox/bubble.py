"""A WhatsApp message as a reader shows it: the parameters of its template. Never raises on a hostile body."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
import orjson

MOST_PARAMETERS = 100
_LONGEST_TEXT = 10_000
_MEDIA = ("image", "video", "document")


class Bubble(msgspec.Struct, frozen=True):
    """The parts of a message that come from the sender; the fixed text of its template is the provider's."""

    template: str
    language: str
    header: list[str]
    body: list[str]
    buttons: list[str]


def read_bubble(source: bytes) -> Bubble | None:
    """Read the body of a call to the Cloud API; None if it is not one, or was cut off."""
    try:
        message = orjson.loads(source)
    except orjson.JSONDecodeError:
        return None
    template = _object(_object(message).get("template"))
    parts: dict[str, list[str]] = {"header": [], "body": [], "button": []}
    for component in islice(_list(template.get("components")), MOST_PARAMETERS):
        found = _object(component)
        kind = found.get("type")
        if isinstance(kind, str) and kind.lower() in parts:
            parts[kind.lower()] += [_text(one) for one in _list(found.get("parameters"))]
    return Bubble(
        template=_shown(template.get("name")),
        language=_shown(_object(template.get("language")).get("code")),
        header=parts["header"][:MOST_PARAMETERS],
        body=parts["body"][:MOST_PARAMETERS],
        buttons=parts["button"][:MOST_PARAMETERS],
    )


def _text(parameter: object) -> str:
    """Return what a parameter shows: its text, or the address of a file, which nobody loads."""
    found = _object(parameter)
    for name in ("text", "payload"):
        if isinstance(found.get(name), str):
            return _shown(found[name])
    for name in _MEDIA:
        media = _object(found.get(name))
        if media:
            words = [_shown(media[key]) for key in ("filename", "link", "id") if key in media]
            return f"{name}: {' '.join(words)}"
    return _shown(orjson.dumps(parameter).decode())


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(value: object) -> str:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else "" if value is None else str(value)[:_LONGEST_TEXT]
