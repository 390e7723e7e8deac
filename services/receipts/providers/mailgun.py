"""Reads Mailgun's webhooks: one event with its signature in each body.

Source: documentation.mailgun.com, "Webhooks" and "Tracking failures". A temporary failure is only a delay, unless it is
the one after which Mailgun gives up (reason `old`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    address_of,
    first_text,
    mapping,
    own_job_id,
    own_message_id,
    word,
)
from services.receipts.providers.found import Found, Message, reader_of_events
from services.receipts.reading import Reading
from services.receipts.verdicts import Verdict, severity
from shared.receipts import ReceiptKind

JOB_VARIABLE = "kurir_job"
_IGNORED = frozenset({"accepted", "opened", "clicked", "stored"})
_KINDS: Mapping[str, ReceiptKind] = {
    "delivered": "delivered", "failed": "bounced", "rejected": "bounced", "complained": "complained",
    "unsubscribed": "opted_out",
}  # fmt: skip
# fields in a URL's encoding, or the first boundary of multipart/form-data
_FORM = re.compile(rb"[A-Za-z][\w.%-]{0,80}=|--[^\r\n]{1,70}\r?\nContent-Disposition: *form-data", re.IGNORECASE)
_GAVE_UP = "old"
_CONDEMNED = "bounce"
# Mailgun's own lists, because of which it does not even try
_BOUNCED_BEFORE, _UNSUBSCRIBED = "suppressbounce", "suppressunsubscribe"


def _read_body(body: Mapping[str, Any], found: Found) -> None:
    if isinstance(body.get("event-data"), dict):
        _read(body["event-data"], found)
    else:
        found.problem("it is not a webhook of Mailgun: it has no event-data")


def _read(event: Mapping[str, Any], found: Found) -> None:
    said, reason = word(event.get("event")), word(event.get("reason"))
    is_delay = said == "failed" and word(event.get("severity")) == "temporary" and reason != _GAVE_UP
    if said in _IGNORED or is_delay:
        found.ignore()
        return
    if said not in _KINDS:
        found.unknown("event", event.get("event"))
        return
    message, reply, at = _message(event), _reply(event), event.get("timestamp")
    if _KINDS[said] != "bounced":
        found.add(_KINDS[said], message, at, reply)
        return
    found.add("bounced", message, at, reply, _severity(said, event, message.address, reply))
    if reason == _UNSUBSCRIBED:
        found.add("opted_out", message, at, reply)


def _severity(said: str, event: Mapping[str, Any], recipient: str, reply: tuple[str, str]) -> Verdict:
    reason = word(event.get("reason"))
    if said != "failed" or word(event.get("severity")) != "permanent":
        return "soft"
    if reason == _BOUNCED_BEFORE:
        return "hard"
    return severity(*reply, recipient, said_hard=True) if reason == _CONDEMNED else "soft"


def _message(event: Mapping[str, Any]) -> Message:
    headers = mapping(mapping(event.get("message")).get("headers"))
    return Message(
        own_job_id(mapping(event.get("user-variables")).get(JOB_VARIABLE)),
        own_message_id(headers.get("message-id")),
        "",
        address_of(event.get("recipient")) or address_of(headers.get("to")),
    )


def _reply(event: Mapping[str, Any]) -> tuple[str, str]:
    status, reject = mapping(event.get("delivery-status")), mapping(event.get("reject"))
    words = first_text(status, "message", "description", most=LONGEST_WORDS) or first_text(
        reject, "reason", "description", most=LONGEST_WORDS
    )
    return first_text(status, "enhanced-code", "code"), words


_read_json = reader_of_events("mailgun", _read_body)


def read(body: bytes, taken_at: float) -> Reading:
    """Read a body; a form is from a route, or a legacy webhook, which Mailgun ended in 2023."""
    if _FORM.match(body):
        return Reading(problem="it is a form, from a route or a legacy webhook of Mailgun, whose webhooks send JSON")
    return _read_json(body, taken_at)
