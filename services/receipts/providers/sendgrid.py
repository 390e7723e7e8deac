"""Reads SendGrid's event webhook: a list of events, whose unique arguments are fields of the event itself.

Source: twilio.com/docs/sendgrid/for-developers/tracking-events/event. Of two kinds of `bounce`, a `blocked` one is a
refusal that is not the address's fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    address_of,
    first_text,
    identifier,
    own_job_id,
    own_message_id,
    text,
    word,
)
from services.receipts.providers.found import Found, Message, reader_of_events
from services.receipts.verdicts import Verdict, severity
from shared.receipts import ReceiptKind

JOB_ARGUMENT = "kurir_job"
_IGNORED = frozenset({"processed", "deferred", "open", "click", "accountstatuschange"})
_KINDS: Mapping[str, ReceiptKind] = {
    "delivered": "delivered", "bounce": "bounced", "blocked": "bounced", "dropped": "bounced",
    "spamreport": "complained", "unsubscribe": "opted_out", "groupunsubscribe": "opted_out",
    "groupresubscribe": "opted_in",
}  # fmt: skip
# SendGrid's own list of bounced addresses, and what it does not take for an address at all
_DROPPED_FOR_THE_ADDRESS = frozenset({"bouncedaddress", "invalid"})
_UNSUBSCRIBED = "unsubscribedaddress"
# classes that say nothing against the verdict; the others are technical, content, reputation, volume, full mailboxes
_ABOUT_THE_ADDRESS = frozenset({"", "invalidaddress", "unclassified"})
# SMTP's answer names the message by what precedes the name of SendGrid's machine
_MACHINE = re.compile(r"\.(?:filter|recvd|ismtpd)")


def _read(event: Mapping[str, Any], found: Found) -> None:
    said = word(event.get("event"))
    if said in _IGNORED:
        found.ignore()
        return
    if said not in _KINDS:
        found.unknown("event", event.get("event"))
        return
    message = Message(
        own_job_id(event.get(JOB_ARGUMENT)),
        own_message_id(event.get("smtp-id")),
        _MACHINE.split(identifier(event.get("sg_message_id")), 1)[0],
        address_of(event.get("email")),
    )
    reply = first_text(event, "status"), first_text(event, "reason", "response", most=LONGEST_WORDS)
    at, verdict = event.get("timestamp"), _severity(said, event, message.address, reply)
    found.add(_KINDS[said], message, at, reply, verdict if _KINDS[said] == "bounced" else "")
    if said == "dropped" and word(event.get("reason")) == _UNSUBSCRIBED:
        found.add("opted_out", message, at, reply)


def _severity(said: str, event: Mapping[str, Any], recipient: str, reply: tuple[str, str]) -> Verdict:
    if said == "dropped":
        return "hard" if word(event.get("reason")) in _DROPPED_FOR_THE_ADDRESS else "soft"
    if said == "blocked" or word(event.get("type")) not in {"", "bounce"}:
        return "soft"
    if word(event.get("bounce_classification")) not in _ABOUT_THE_ADDRESS:
        return "soft"
    return severity(*reply, recipient, said_hard=text(event.get("type")).lower() == "bounce")


read = reader_of_events("sendgrid", _read)
