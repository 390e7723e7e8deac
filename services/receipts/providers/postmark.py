"""Reads Postmark's webhooks: one record in each body.

Source: postmarkapp.com/developer/webhooks and the types of its bounce API. Postmark gives a message an id of its own;
the job comes back in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    address_of,
    first_text,
    identifier,
    mapping,
    own_job_id,
    text,
    word,
)
from services.receipts.providers.found import Found, Message, reader_of_events
from services.receipts.verdicts import severity

JOB_METADATA = "kurir-job"
_IGNORED_RECORDS = frozenset({"open", "click", "inbound"})
_CONDEMNED = frozenset({"hardbounce", "bademailaddress"})
_SOFT = frozenset(
    {
        "softbounce", "dnserror", "spamnotification", "unknown", "virusnotification", "manuallydeactivated",
        "unconfirmed", "blocked", "smtpapierror", "dmarcpolicy", "templaterenderingfailed", "undeliverable",
    }
)  # fmt: skip
# delays, and mails that came back and are no bounces
_IGNORED_BOUNCES = frozenset(
    {"transient", "subscribe", "autoresponder", "addresschange", "openrelaytest", "challengeverification",
     "inbounderror"}
)  # fmt: skip
_AT = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")


def _read(record: Mapping[str, Any], found: Found) -> None:
    kind = word(record.get("RecordType"))
    readers = {
        "bounce": _read_bounce,
        "delivery": _read_delivery,
        "spamcomplaint": _read_complaint,
        "subscriptionchange": _read_subscription,
    }
    if kind in _IGNORED_RECORDS or (not kind and "FromFull" in record):
        found.ignore()
    elif kind in readers:
        readers[kind](record, found)
    else:
        found.unknown("RecordType", record.get("RecordType"))


def _read_bounce(record: Mapping[str, Any], found: Found) -> None:
    kind, reply = word(record.get("Type")), _reply(record)
    if kind in _CONDEMNED:
        message = _message(record)
        verdict = severity("", reply[1], message.address, said_hard=True)
        found.add("bounced", message, _at(record), reply, verdict)
    elif kind in _SOFT:
        found.add("bounced", _message(record), _at(record), reply, "soft")
    elif kind == "unsubscribe":
        found.add("opted_out", _message(record), _at(record), reply)
    elif kind == "spamcomplaint":
        _read_complaint(record, found)
    elif kind in _IGNORED_BOUNCES:
        found.ignore()
    else:
        found.unknown("type of bounce", record.get("Type"))


def _read_delivery(record: Mapping[str, Any], found: Found) -> None:
    found.add("delivered", _message(record), _at(record), _reply(record))


def _read_complaint(record: Mapping[str, Any], found: Found) -> None:
    found.add("complained", _message(record), _at(record), _reply(record))


def _read_subscription(record: Mapping[str, Any], found: Found) -> None:
    """Read a change of Postmark's list of addresses that get no mail.

    Only the recipient's own decision counts: bounces and complaints have records of their own, with what was said, and
    what an operator does there is not the recipient's wish.
    """
    if word(record.get("Origin")) not in {"", "recipient"}:
        found.ignore()
    elif record.get("SuppressSending") is False:
        found.add("opted_in", _message(record), _at(record))
    elif word(record.get("SuppressionReason")) in {"", "manualsuppression"}:
        found.add("opted_out", _message(record), _at(record))
    else:
        found.ignore()


def _message(record: Mapping[str, Any]) -> Message:
    metadata = {text(key).lower(): value for key, value in mapping(record.get("Metadata")).items()}
    return Message(
        own_job_id(metadata.get(JOB_METADATA)),
        "",
        identifier(record.get("MessageID")),
        address_of(record.get("Email")) or address_of(record.get("Recipient")),
    )


def _at(record: Mapping[str, Any]) -> str:
    return first_text(record, *_AT)


def _reply(record: Mapping[str, Any]) -> tuple[str, str]:
    return first_text(record, "Type"), first_text(record, "Details", "Description", most=LONGEST_WORDS)


read = reader_of_events("postmark", _read)
