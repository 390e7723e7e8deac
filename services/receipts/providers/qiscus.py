"""Reads the webhooks of Qiscus, which passes WhatsApp's statuses on.

Its documentation names the webhook and shows no body, so three shapes are read: Meta's envelope, the value of one of
its changes alone (`statuses` and `messages`, as the On-Premises API sent it), and the one that the system before Kurir
expected: `{"type": "message_status", "payload": {…}}`. Qiscus's webhooks for chat agents bring inbound messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.receipts.providers import meta
from services.receipts.providers.fields import LONGEST_WORDS, each, identifier, mapping, text, word
from services.receipts.providers.found import Found, reader_of_events

_VALUE_LISTS = ("statuses", "user_preferences", "messages", "errors")
_INBOUND = frozenset({"incomingmessage", "postcommentmobile", "postcommentrest", "postcomment", "markasresolved"})


def _read(one: Mapping[str, Any], found: Found) -> None:
    kind = word(one.get("type"))
    if "entry" in one:
        meta.walk(one, found)
    elif any(isinstance(one.get(name), list) for name in _VALUE_LISTS):
        meta.walk_value(one, found)
    elif kind == "messagestatus":
        for payload in each(one.get("payload")):
            meta.read_status(_status(payload), found)
        if not isinstance(one.get("payload"), dict | list):
            found.problem("a message status has no payload")
    elif kind in _INBOUND:
        found.ignore()
    else:
        found.unknown("type of body", one.get("type"))


def _status(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload of the third shape as one of Meta's statuses."""
    error = payload.get("error")
    message = mapping(error) or {"message": text(error, LONGEST_WORDS)}
    return {
        **{key: value for key, value in payload.items() if key != "type"},
        "id": identifier(payload.get("message_id")) or identifier(payload.get("id")),
        "errors": payload.get("errors") or ([message] if error else []),
    }


read = reader_of_events("qiscus", _read)
