"""Reads Resend's webhooks: one event in each body.

Source: resend.com/docs/webhooks/event-types. Events do not say which of several recipients they are about; Kurir sends
each message to one. Resend names a message by an id of its own; our headers come back with some events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    address_of,
    each,
    first_text,
    identifier,
    items,
    mapping,
    own_job_id,
    own_message_id,
    text,
    word,
)
from services.receipts.providers.found import Found, Message, reader_of_events
from services.receipts.verdicts import Verdict, severity
from shared.receipts import JOB_HEADER, ReceiptKind

_IGNORED = frozenset(
    {"emailsent", "emailscheduled", "emaildeliverydelayed", "emailopened", "emailclicked", "emailreceived"}
)
# changes of contacts and domains in Resend's own lists
_OTHERS = ("contact.", "domain.")
_KINDS: Mapping[str, ReceiptKind] = {
    "emaildelivered": "delivered", "emailbounced": "bounced", "emailfailed": "bounced", "emailsuppressed": "bounced",
    "emailcomplained": "complained",
}  # fmt: skip
# the types and subtypes are those of Amazon SES, through which Resend sends
_ON_A_LIST = frozenset({"suppressed", "onaccountsuppressionlist"})
_CONDEMNED = frozenset({"", "general", "noemail"})
# bounces from before they had types
_SAID_HARD, _SAID_SUPPRESSED = "hard bounce", "suppressed sending"


def _read(event: Mapping[str, Any], found: Found) -> None:
    said = word(event.get("type"))
    if said in _IGNORED or text(event.get("type")).startswith(_OTHERS):
        found.ignore()
        return
    if said not in _KINDS:
        found.unknown("type", event.get("type"))
        return
    data = mapping(event.get("data"))
    bounce = next((part for name in ("bounce", "failed", "suppressed") if (part := mapping(data.get(name)))), {})
    words, reply = first_text(bounce, "message", "reason", most=LONGEST_WORDS), _reply(bounce)
    kind, message = _KINDS[said], _message(data)
    verdict = _severity(said, bounce, words, reply, message.address) if kind == "bounced" else ""
    found.add(kind, message, event.get("created_at"), ("", reply or words), verdict)


def _reply(bounce: Mapping[str, Any]) -> str:
    """Return what the recipient's server said, "" if it said nothing."""
    codes = bounce.get("diagnosticCode")
    return " ".join(filter(None, (text(one, LONGEST_WORDS) for one in (items(codes) or (codes,)))))


def _severity(said: str, bounce: Mapping[str, Any], words: str, reply: str, recipient: str) -> Verdict:
    kind, subtype = word(bounce.get("type")), word(bounce.get("subType"))
    if said == "emailsuppressed" or subtype in _ON_A_LIST or (not kind and _SAID_SUPPRESSED in words):
        return "hard"
    if said == "emailfailed" or kind not in {"", "permanent"}:
        return "soft"
    said_hard = kind == "permanent" and subtype in _CONDEMNED
    said_hard = said_hard or (not kind and _SAID_HARD in words)
    # Resend's explanations speak of reputation and suppression lists: of them only the codes count
    return severity("", reply, recipient, said_hard=said_hard) if reply else severity(words, "", said_hard=said_hard)


def _message(data: Mapping[str, Any]) -> Message:
    headers = {text(one.get("name")).lower(): one.get("value") for one in each(data.get("headers"))}
    to = data.get("to")
    return Message(
        own_job_id(headers.get(JOB_HEADER)),
        own_message_id(headers.get("message-id") or data.get("message_id")),
        identifier(data.get("email_id")),
        address_of(next(iter(items(to)), "") if isinstance(to, list) else to),
    )


read = reader_of_events("resend", _read)
