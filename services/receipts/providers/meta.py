"""Reads the webhooks of Meta's WhatsApp Cloud API: statuses of messages and users' marketing preferences.

Source: developers.facebook.com, WhatsApp, webhooks, reference (messages/status, user_preferences, overview). A body is
a list of entries with a list of changes each, and a change has a list of statuses: all of them are read. Statuses come
in any order and more than once. A text such as STOP is a message to the business and no opt-out: only the user's own
preference is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    each,
    first_text,
    identifier,
    items,
    mapping,
    own_job_id,
    text,
    word,
)
from services.receipts.providers.found import Found, Message, reader
from shared.receipts import ReceiptKind

# the user opted out of this business's marketing: https://developers.facebook.com/docs/whatsapp error codes
_OPTED_OUT = "131050"
# a played voice message was read
_KINDS: Mapping[str, ReceiptKind] = {
    "delivered": "delivered", "read": "read", "played": "read", "failed": "undelivered",
}  # fmt: skip
# `sent` says what the API's answer said; `deleted` and `warning` are the On-Premises API's
_IGNORED = frozenset({"sent", "accepted", "deleted", "warning"})
# a status of a payment or of another thing that was in a message has a type of its own
_OF_A_MESSAGE = frozenset({"", "message"})
_OTHER_TYPES = frozenset({"payment", "call"})
_PREFERENCES: Mapping[str, ReceiptKind] = {"stop": "opted_out", "resume": "opted_in", "signup": "opted_in"}
_MARKETING = frozenset({"", "marketingmessages"})
# other lists of a change: inbound messages, errors of the account, echoes of messages sent by others
_OTHER_LISTS = frozenset({"messages", "errors", "message_echoes", "calls", "group_participants"})
_OTHER_FIELDS = frozenset(
    {
        "account_alerts", "account_offboarded", "account_reconnected", "account_review_update",
        "account_settings_update", "account_update", "automatic_events", "business_capability_update",
        "business_status_update", "business_username_update", "calls", "campaign_status_update", "contacts", "flows",
        "group_lifecycle_update", "group_participants_update", "group_settings_update", "group_status_update",
        "history", "message_echoes", "message_template_components_update", "message_template_quality_update",
        "message_template_status_update", "messaging_handovers", "partner_solutions",
        "payment_configuration_update", "phone_number_name_update", "phone_number_quality_update", "security",
        "smb_app_state_sync", "smb_message_echoes", "standby", "template_category_update",
        "template_correct_category_detection", "tracking_events", "user_id_update",
    }
)  # fmt: skip


def walk(body: Any, found: Found) -> None:
    """Read all changes of all entries."""
    entries = mapping(body).get("entry")
    if not isinstance(entries, list):
        found.problem("it is not a webhook of WhatsApp: it has no list of entries")
        return
    for entry in each(entries):
        if not isinstance(entry.get("changes"), list):
            found.problem("an entry has no list of changes")
        for change in each(entry.get("changes")):
            walk_value(mapping(change.get("value")), found, change.get("field"))


def walk_value(value: Mapping[str, Any], found: Found, field: Any = None) -> None:
    """Read the value of a change, or a body of a gateway that passes only this on."""
    others = 0 if _OTHER_LISTS.isdisjoint(value) else sum(len(items(value.get(name))) for name in _OTHER_LISTS)
    for status in each(items(value.get("statuses"))):
        read_status(status, found)
    for preference in each(items(value.get("user_preferences"))):
        _read_preference(preference, value, found)
    found.ignore(others)
    if others or items(value.get("statuses")) or items(value.get("user_preferences")):
        return
    if text(field) in _OTHER_FIELDS:
        found.ignore()
    else:
        found.unknown("content of the field", field)


def read_status(status: Mapping[str, Any], found: Found) -> None:
    """Read one status of a message."""
    said = word(status.get("status"))
    kind = _KINDS.get(said)
    if kind is None or ("type" in status and word(status["type"]) not in _OF_A_MESSAGE):
        _pass_over(status, said, found)
        return
    message = Message(
        own_job_id(status.get("biz_opaque_callback_data")),
        "",
        identifier(status.get("id")),
        text(status.get("recipient_id")) or text(status.get("recipient_participant_id")),
    )
    if said != "failed":
        found.add(kind, message, status.get("timestamp"))
        return
    reply = _error_of(status)
    found.add(kind, message, status.get("timestamp"), reply)
    if reply[0] == _OPTED_OUT:
        found.add("opted_out", message, status.get("timestamp"), reply)


def _pass_over(status: Mapping[str, Any], said: str, found: Found) -> None:
    """Count a status that is of no interest, or keep one that is not known."""
    thing = word(status.get("type"))
    if thing in _OTHER_TYPES or (thing in _OF_A_MESSAGE and said in _IGNORED):
        found.ignore()
    elif thing not in _OF_A_MESSAGE:
        found.unknown("type of status", status.get("type"))
    else:
        found.unknown("status", status.get("status"))


def _error_of(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return the code and the words of the error that says most: an opt-out, else the first that has a code."""
    error = min(each(status.get("errors")), key=_silence_of, default={})
    details = text(mapping(error.get("error_data")).get("details"), LONGEST_WORDS)
    return text(error.get("code")), details or first_text(error, "message", "title", most=LONGEST_WORDS)


def _silence_of(error: Mapping[str, Any]) -> int:
    code = text(error.get("code"))
    return 0 if code == _OPTED_OUT else 1 if code else 2


def _read_preference(preference: Mapping[str, Any], value: Mapping[str, Any], found: Found) -> None:
    """Read a preference; of a user whose number Meta hides, the contacts beside it may have it.

    Without a number nobody can be found. Such an opt-out takes effect all the same: Meta refuses the next marketing
    message with 131050, which suppresses the number.
    """
    kind = _PREFERENCES.get(word(preference.get("value")))
    user, phone = text(preference.get("user_id")), text(preference.get("wa_id"))
    if word(preference.get("category")) not in _MARKETING:
        found.unknown("category of a preference", preference.get("category"))
    elif kind is None:
        found.unknown("preference", preference.get("value"))
    elif phone := phone or (_number_of(user, value) if user else ""):
        words = text(preference.get("detail"), LONGEST_WORDS)
        found.add(kind, Message(address=phone), preference.get("timestamp"), ("", words))
    elif user:
        found.ignore()
    else:
        found.problem("a preference names no phone number")


def _number_of(user: str, value: Mapping[str, Any]) -> str:
    """Return the number of a user by the contacts of the same change, "" if they do not have it."""
    contacts = each(items(value.get("contacts")))
    return next((text(one.get("wa_id")) for one in contacts if text(one.get("user_id")) == user), "")


read = reader("meta", walk)
