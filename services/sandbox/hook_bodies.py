"""The bodies of webhooks: Meta's envelope, and the three shapes in which Qiscus's statuses may come. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from services.sandbox.outcomes import WHATSAPP_ERRORS
from services.sandbox.statuses import Event, OptOut, Status

_HREF = "https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes/"


@dataclass(frozen=True, slots=True)
class Sender:
    """The business that a webhook is for: Meta's id of its number, and the app and channel at Qiscus."""

    phone_number_id: str
    app_code: str
    channel_id: str


def meta_body(events: Iterable[Event], sender: Sender) -> bytes:
    """Return Meta's envelope: an entry with a change for each field."""
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550100", "phone_number_id": sender.phone_number_id},
    }
    statuses, opt_outs = _split(events)
    changes = [
        {"field": field, "value": {**value, field_of_value: items}}
        for field, field_of_value, items in (
            ("messages", "statuses", [_status(one) for one in statuses]),
            ("user_preferences", "user_preferences", [_preference(one) for one in opt_outs]),
        )
        if items
    ]
    entry = {"id": "102290129340398", "changes": changes}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


class QiscusBodies:
    """Makes the bodies of Qiscus's webhooks, whose shape is not documented, in all the shapes that are known."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._batches = 0

    def of(self, events: Sequence[Event]) -> list[bytes]:
        """Return the bodies that report a batch: its first status in the old shape, the rest in one of the others."""
        self._batches += 1
        first = events[0]
        old = [_old_body(first)] if isinstance(first, Status) else []
        rest = events[len(old) :]
        if not rest:
            return old
        return [*old, meta_body(rest, self._sender) if self._batches % 2 else self._bare(rest)]

    def _bare(self, events: Sequence[Event]) -> bytes:
        """Return the value of Meta's change alone, as the On-Premises API sent it."""
        statuses, opt_outs = _split(events)
        body: dict[str, Any] = {
            "app_code": self._sender.app_code,
            "channel_id": self._sender.channel_id,
            "contacts": [],
            "statuses": [_status(one) for one in statuses],
        }
        if opt_outs:
            body["user_preferences"] = [_preference(one) for one in opt_outs]
        return orjson.dumps(body)


def _split(events: Iterable[Event]) -> tuple[list[Status], list[OptOut]]:
    found = list(events)
    return [one for one in found if isinstance(one, Status)], [one for one in found if isinstance(one, OptOut)]


def _status(event: Status) -> dict[str, Any]:
    message = event.message
    fields: dict[str, Any] = {
        "id": message.message_id,
        "status": event.status,
        "timestamp": str(event.at_s),
        "recipient_id": message.to,
    }
    if message.job_id:
        fields["biz_opaque_callback_data"] = message.job_id
    if event.code:
        fields["errors"] = [_error(event.code)]
    elif event.status != "read":
        fields["pricing"] = {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"}
    return fields


def _error(code: int) -> dict[str, Any]:
    words = WHATSAPP_ERRORS[code][1]
    return {"code": code, "title": words, "message": words, "error_data": {"details": words}, "href": _HREF}


def _preference(event: OptOut) -> dict[str, Any]:
    return {
        "wa_id": event.to,
        "detail": "User requested to stop marketing messages",
        "category": "marketing_messages",
        "value": "stop",
        "timestamp": event.at_s,
    }


def _old_body(event: Status) -> bytes:
    """Return the shape that the system before Kurir expected; it does not name the job."""
    payload: dict[str, Any] = {
        "message_id": event.message.message_id,
        "status": event.status,
        "timestamp": str(event.at_s),
        "recipient_id": event.message.to,
    }
    if event.code:
        payload["error"] = {"code": event.code, "message": WHATSAPP_ERRORS[event.code][1]}
    return orjson.dumps({"type": "message_status", "payload": payload})
