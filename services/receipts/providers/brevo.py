"""Reads Brevo's transactional webhooks: one event in each body, or a list of them where batches are turned on.

Source: developers.brevo.com, "Transactional webhooks". `ts_epoch` is the only time in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    UnreadableError,
    address_of,
    first_text,
    mapping,
    own_job_id,
    own_message_id,
    parse_json,
    text,
    word,
)
from services.receipts.providers.found import Found, Message, reader_of_events
from services.receipts.verdicts import Verdict, severity
from shared.receipts import ReceiptKind

JOB_FIELD = "kurir_job"
_IGNORED = frozenset(
    {"request", "sent", "opened", "uniqueopened", "proxyopen", "uniqueproxyopen", "click", "clicked", "listaddition",
     "contactupdated", "contactdeleted", "inboundemailprocessed"}
)  # fmt: skip
_KINDS: Mapping[str, ReceiptKind] = {
    "delivered": "delivered", "hardbounce": "bounced", "softbounce": "bounced", "blocked": "bounced",
    "invalidemail": "bounced", "invalid": "bounced", "error": "bounced", "spam": "complained",
    "complaint": "complained", "unsubscribe": "opted_out", "unsubscribed": "opted_out",
}  # fmt: skip
_CONDEMNED = frozenset({"hardbounce", "invalidemail", "invalid"})
# some final refusals come as `deferred`: "550 RecipientError: 550 5.1.1 … User unknown"
_REFUSED_FOR_GOOD = re.compile(r"\s*5\d\d\b")
_REPLY_CODE = re.compile(r"(?<![\w.])(5\d\d(?: 5\.\d{1,3}\.\d{1,3})?|5\.\d{1,3}\.\d{1,3})(?![\w.])")


def _read(event: Mapping[str, Any], found: Found) -> None:
    said, words = word(event.get("event")), text(event.get("reason"), LONGEST_WORDS)
    if said == "deferred" and _REFUSED_FOR_GOOD.match(words):
        said = "softbounce"
    if said in _IGNORED or said == "deferred" or (not said and "items" in event):
        found.ignore()
        return
    if said not in _KINDS:
        found.unknown("event", event.get("event"))
        return
    code = _REPLY_CODE.search(words)
    reply = (code[1] if code else "", words)
    kind, message = _KINDS[said], _message(event)
    verdict = _severity(said, event, message.address, reply) if kind == "bounced" else ""
    # the account's other times are in its own zone
    found.add(kind, message, event.get("ts_epoch"), reply, verdict)


def _severity(said: str, event: Mapping[str, Any], recipient: str, reply: tuple[str, str]) -> Verdict:
    if said in _CONDEMNED:
        return severity(*reply, recipient, said_hard=True)
    return severity(*reply, recipient) if word(event.get("event")) == "deferred" else "soft"


def _message(event: Mapping[str, Any]) -> Message:
    own = own_message_id(event.get("message-id"))
    return Message(_job_id(event.get("X-Mailin-custom")), own, "", address_of(event.get("email")))


def _job_id(custom: Any) -> str:
    """Return the job of the header X-Mailin-custom: its value alone, or a field of a JSON object."""
    if not isinstance(custom, str) or not custom.lstrip().startswith("{"):
        return own_job_id(custom)
    try:
        fields = mapping(parse_json(custom.encode("utf-8", "surrogatepass")))
    except UnreadableError:
        return ""
    return own_job_id(first_text(fields, JOB_FIELD))


read = reader_of_events("brevo", _read)
