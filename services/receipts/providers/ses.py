"""Reads Amazon SES's notifications and published events, in the envelope of Amazon SNS.

Source: docs.aws.amazon.com, SES guide, "Amazon SNS notification contents" (`notificationType`) and "Event data
that Amazon SES publishes" (`eventType`), which hardly differ. An event may name several recipients, and the same bounce
may come in both forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.receipts.providers.fields import (
    LONGEST_WORDS,
    UnreadableError,
    address_of,
    each,
    first_text,
    identifier,
    items,
    mapping,
    own_job_id,
    own_message_id,
    parse_json,
    text,
    word,
)
from services.receipts.providers.found import Found, Message, reader
from services.receipts.verdicts import Verdict, severity
from shared.receipts import JOB_HEADER

_NO_EVENTS = frozenset({"subscriptionconfirmation", "unsubscribeconfirmation"})
_CHECK_OF_TOPIC = "Successfully validated SNS topic"
_IGNORED = frozenset(
    {"send", "open", "click", "deliverydelay", "received", "amazonsnssubscriptionsucceeded", "subscriptionconfirmation"}
)
# SES's own lists: it does not even try, so nobody's reply says more
_ON_A_LIST = frozenset({"suppressed", "onaccountsuppressionlist"})
_CONDEMNED = frozenset({"", "general", "noemail"})
_UNSUBSCRIBED = frozenset({"unsubscribedrecipient"})
# SES reports automatic replies, such as those of people who are on holiday, like this, with no delivery report
_ANY_REPLY = ("transient", "general")
# "invalid domain": SES tried, found no host for hours, and calls that transient
_INVALID_DOMAIN = "5.4.4"
# RFC 5965, 7.3, and RFC 6591: these are not complaints of a person about our mail
_NO_COMPLAINTS = frozenset({"notspam", "authfailure", "virus"})


def walk(body: Any, found: Found) -> None:
    """Read an envelope, or the bare event that SNS sends with raw message delivery."""
    envelope = mapping(body)
    if word(envelope.get("Type")) in _NO_EVENTS:
        found.ignore()
    elif "Message" in envelope:
        _read_message(envelope.get("Message"), envelope, found)
    elif "eventType" in envelope or "notificationType" in envelope:
        _read_event(envelope, envelope, found)
    else:
        found.problem("it is not a notification of Amazon SNS: it has no Message")


def _read_message(message: Any, envelope: Mapping[str, Any], found: Found) -> None:
    if isinstance(message, str) and message.startswith(_CHECK_OF_TOPIC):
        found.ignore()
        return
    if isinstance(message, str):
        try:
            message = parse_json(message.encode("utf-8", "surrogatepass"))
        except UnreadableError as error:
            found.problem(f"the Message of Amazon SNS cannot be read: {error}")
            return
    _read_event(mapping(message), envelope, found)


def _read_event(event: Mapping[str, Any], envelope: Mapping[str, Any], found: Found) -> None:
    kind = first_text(event, "eventType", "notificationType")
    readers = {
        "bounce": _read_bounce,
        "complaint": _read_complaint,
        "delivery": _read_delivery,
        "reject": _read_refusal,
        "renderingfailure": _read_refusal,
        "subscription": _read_subscription,
    }
    if word(kind) in _IGNORED:
        found.ignore()
    elif word(kind) in readers:
        readers[word(kind)](event, envelope.get("Timestamp"), found)
    else:
        found.unknown("type of event", kind)


def _read_bounce(event: Mapping[str, Any], sent_at: Any, found: Found) -> None:
    bounce, mail = mapping(event.get("bounce")), mapping(event.get("mail"))
    kind, subtype = word(bounce.get("bounceType")), word(bounce.get("bounceSubType"))
    at = bounce.get("timestamp") or sent_at
    for one in _recipients(bounce.get("bouncedRecipients"), mail, found):
        if (kind, subtype) == _ANY_REPLY and not _has_report(one):
            found.ignore()
            continue
        message = _message(mail, one.get("emailAddress"))
        code, words = text(one.get("status")), text(one.get("diagnosticCode"), LONGEST_WORDS)
        found.add("bounced", message, at, (code, words), _severity(kind, subtype, (code, words), message.address))
        if subtype in _UNSUBSCRIBED:
            found.add("opted_out", message, at, (code, words))


def _has_report(recipient: Mapping[str, Any]) -> bool:
    """Return whether a delivery status notification came with a bounce: only then SES has these fields."""
    return any(text(recipient.get(name)) for name in ("action", "status", "diagnosticCode"))


def _severity(kind: str, subtype: str, reply: tuple[str, str], recipient: str) -> Verdict:
    if kind == "permanent":
        if subtype in _ON_A_LIST:
            return "hard"
        return "soft" if subtype in _UNSUBSCRIBED else severity(*reply, recipient, said_hard=subtype in _CONDEMNED)
    invalid_domain = kind == "transient" and reply[0] == _INVALID_DOMAIN
    return severity(*reply, recipient, said_hard=True) if invalid_domain else "soft"


def _read_complaint(event: Mapping[str, Any], sent_at: Any, found: Found) -> None:
    complaint, mail = mapping(event.get("complaint")), mapping(event.get("mail"))
    if word(complaint.get("complaintFeedbackType")) in _NO_COMPLAINTS:
        found.ignore()
        return
    words = first_text(complaint, "complaintFeedbackType", "complaintSubType")
    at = complaint.get("timestamp") or complaint.get("arrivalDate") or sent_at
    for one in _recipients(complaint.get("complainedRecipients"), mail, found):
        found.add("complained", _message(mail, one.get("emailAddress")), at, ("", words))


def _read_delivery(event: Mapping[str, Any], sent_at: Any, found: Found) -> None:
    delivery, mail = mapping(event.get("delivery")), mapping(event.get("mail"))
    at, words = delivery.get("timestamp") or sent_at, text(delivery.get("smtpResponse"), LONGEST_WORDS)
    for address in items(delivery.get("recipients")) or items(mail.get("destination")) or ("",):
        found.add("delivered", _message(mail, address), at, ("", words))


def _read_refusal(event: Mapping[str, Any], sent_at: Any, found: Found) -> None:
    """Read a message that SES accepted and then did not send: for a virus, or a template without a variable."""
    reject, failure = mapping(event.get("reject")), mapping(event.get("failure"))
    words = text(reject.get("reason"), LONGEST_WORDS) or text(failure.get("errorMessage"), LONGEST_WORDS)
    mail = mapping(event.get("mail"))
    for address in items(mail.get("destination")) or ("",):
        found.add("bounced", _message(mail, address), sent_at, ("", words), "soft")


def _read_subscription(event: Mapping[str, Any], sent_at: Any, found: Found) -> None:
    """Read a change of preferences on SES's own page; one that leaves some topics is no opt-out from everything."""
    subscription, mail = mapping(event.get("subscription")), mapping(event.get("mail"))
    if mapping(subscription.get("newTopicPreferences")).get("unsubscribeAll") is not True:
        found.ignore()
        return
    for address in items(mail.get("destination")) or ("",):
        found.add("opted_out", _message(mail, address), subscription.get("timestamp") or sent_at)


def _recipients(value: Any, mail: Mapping[str, Any], found: Found) -> Sequence[Mapping[str, Any]]:
    """Return the recipients that an event names; a message to one recipient need not name it again."""
    named = list(each(value))
    if named or len(items(mail.get("destination"))) == 1:
        return named or [{"emailAddress": items(mail.get("destination"))[0]}]
    found.problem("an event names no recipient")
    return []


def _message(mail: Mapping[str, Any], address: Any) -> Message:
    """Return the message: by its own headers, if the topic includes the original headers, and by SES's id."""
    headers = {text(one.get("name")).lower(): one.get("value") for one in each(mail.get("headers"))}
    own = mapping(mail.get("commonHeaders")).get("messageId") or headers.get("message-id")
    return Message(
        own_job_id(headers.get(JOB_HEADER)), own_message_id(own), identifier(mail.get("messageId")), address_of(address)
    )


read = reader("ses", walk)
