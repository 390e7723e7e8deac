"""Requests of providers: what they post, in the shapes that they document, and how they sign it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.ingest.hooks import signers

TOKEN = "hook-token-0123456789-0123456789"
META_SECRET, QISCUS_SECRET, MAILGUN_KEY = "app secret of meta", "secret of qiscus", "signing key of mailgun"
POSTMARK_LOGIN, BREVO_LOGIN = "kurir:post:märk", "kurir:brevo"
RESEND_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SENDGRID, SNS = signers.SendGrid(), signers.Sns()
BY_URL = {"KURIR_HOOK_TOKEN": TOKEN}
SIGNED = BY_URL | {
    "KURIR_META_APP_SECRET": META_SECRET,
    "KURIR_META_VERIFY_TOKEN": "verify token",
    "KURIR_QISCUS_HOOK_SECRET": QISCUS_SECRET,
    "KURIR_SES_TOPIC_ARNS": signers.TOPIC,
    "KURIR_SENDGRID_HOOK_KEY": SENDGRID.public,
    "KURIR_MAILGUN_HOOK_KEY": MAILGUN_KEY,
    "KURIR_POSTMARK_HOOK_LOGIN": POSTMARK_LOGIN,
    "KURIR_BREVO_HOOK_LOGIN": BREVO_LOGIN,
    "KURIR_RESEND_HOOK_SECRET": RESEND_SECRET,
}
JOB = "6atxp5f8hffam0j6:7:whatsapp"
MESSAGE_ID = "6atxp5f8hffam0j6.7.email.1@example.com"


@dataclass(frozen=True, slots=True)
class HookRequest:
    """A provider's request; `how` is one of SHAPES."""

    provider: str
    how: str
    body: bytes
    headers: Mapping[str, str]


def _status(number: int, words: str) -> dict[str, Any]:
    """A status of the WhatsApp Cloud API (reference/messages/status)."""
    return {
        "id": f"wamid.HBgNNjI4MTI3NzAwMDA{number:04}",
        "status": ("sent", "delivered", "read", "failed")[number % 4],
        "timestamp": str(1_750_857_384 + number),
        "recipient_id": f"6281224770{number % 1000:03}",
        "biz_opaque_callback_data": JOB,
        "conversation": {"id": "6ceb9d929c9bdc4f90e967a32f8639b4", "origin": {"type": "utility"}},
        "pricing": {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"},
        "errors": [{"code": 131049, "title": words, "error_data": {"details": words}}],
    }


def _meta(count: int, words: str) -> Any:
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "6281100000000", "phone_number_id": "106540352242922"},
        "statuses": [_status(number, words) for number in range(count)],
    }
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "102290129340398", "changes": [{"field": "messages", "value": value}]}],
    }


def _qiscus(count: int, words: str) -> Any:
    return {"statuses": [_status(number, words) for number in range(count)]}


def _ses(count: int, words: str) -> Any:
    recipient = {"emailAddress": "jane@example.com", "status": "5.1.1", "action": "failed", "diagnosticCode": words}
    return {
        "notificationType": "Bounce",
        "bounce": {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [recipient] * count,
            "timestamp": "2016-01-27T14:59:44.101Z",
            "feedbackId": "00000138111222aa-44455566-cccc-cccc-cccc-ddddaaaa068a-000000",
        },
        "mail": {
            "timestamp": "2016-01-27T14:59:38.237Z",
            "messageId": "00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa0680-000000",
            "destination": ["jane@example.com"],
            "headers": [{"name": "Message-ID", "value": f"<{MESSAGE_ID}>"}],
            "commonHeaders": {"messageId": f"<{MESSAGE_ID}>", "subject": words},
        },
    }


def _sendgrid(count: int, words: str) -> Any:
    return [
        {
            "email": "recipient@example.com",
            "timestamp": 1461095246 + number,
            "smtp-id": f"<{MESSAGE_ID}>",
            "sg_event_id": f"ZyjAM5rnQmuI1KFInHQ{number:04}",
            "sg_message_id": "wrfRRvF7Q0GgwUo2CvDmEA.filter0425p1mdw1.13037.57168B4A1D.0",
            "event": "bounce",
            "type": "bounce",
            "status": "5.1.1",
            "reason": words,
        }
        for number in range(count)
    ]


def _mailgun(count: int, words: str) -> Any:
    token = "".join(f"{part:x}" for part in time.time_ns().to_bytes(8)).ljust(50, "0")
    return {
        "signature": signers.mailgun(MAILGUN_KEY, time.time(), token),
        "event-data": {
            "event": "failed",
            "severity": "permanent",
            "reason": "bounce",
            "timestamp": 1534110422.389832,
            "recipient": "invalid@example.com",
            "message": {"headers": {"message-id": MESSAGE_ID}},
            "delivery-status": {"code": 550, "message": words, "attempt-no": 1},
            "tags": [words] * (count - 1),
        },
    }


def _postmark(count: int, words: str) -> Any:
    return {
        "RecordType": "Bounce",
        "ID": 901542550,
        "Type": "HardBounce",
        "TypeCode": 1,
        "MessageID": "2706ee8a-737c-4285-b032-ccd317af53ed",
        "Details": words,
        "Email": "bounce@example.com",
        "BouncedAt": "2016-04-27T16:28:50.3963933-04:00",
        "Metadata": {"kurir-job": JOB},
        "Content": words * count,
    }


def _brevo(count: int, words: str) -> Any:
    return {
        "event": "hard_bounce",
        "email": "not-a-user@example.com",
        "ts_epoch": 1520363423000,
        "message-id": f"<{MESSAGE_ID}>",
        "reason": words,
        "tags": [words] * count,
    }


def _resend(count: int, words: str) -> Any:
    return {
        "type": "email.bounced",
        "created_at": "2023-10-02T18:11:26.101Z",
        "data": {
            "email_id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            "to": ["bounced@resend.dev"],
            "bounce": {"message": words, "type": "Permanent", "subType": "General"},
            "headers": [{"name": "X-Metadata", "value": words}] * count,
        },
    }


_PAYLOADS: Mapping[str, Callable[[int, str], Any]] = {
    "brevo": _brevo,
    "mailgun": _mailgun,
    "meta": _meta,
    "postmark": _postmark,
    "qiscus": _qiscus,
    "resend": _resend,
    "ses": _ses,
    "sendgrid": _sendgrid,
}
PROVIDERS = tuple(_PAYLOADS)
_NON_ASCII = "Empfänger unbekannt: 收件人不存在 📮"
SHAPES = ("single", "batched", "non-ascii", "escaped", "3 MB")


def hook_request(provider: str, how: str = "single") -> HookRequest:
    """Return a genuine request; SNS messages and Mailgun's events are single ones, as large as asked for."""
    count, words = (10, "unknown user") if how == "batched" else (1, _NON_ASCII)
    if how == "single":
        words = "550 5.1.1 unknown user"
    if how == "3 MB":
        count, words = 3000, "x" * (350 if provider in {"meta", "qiscus"} else 1000)
    payload = _PAYLOADS[provider](count, words)
    if provider == "ses":
        headers, body = signers.sns_request(SNS.message(json.dumps(payload, ensure_ascii=how == "escaped")))
        return HookRequest(provider, how, body, headers)
    body = json.dumps(payload, ensure_ascii=how == "escaped").encode()
    return HookRequest(provider, how, body, {"Content-Type": "application/json", **sign(provider, body)})


def sign(provider: str, body: bytes) -> Mapping[str, str]:
    """Return the headers that prove who sent a body."""
    signs: Mapping[str, Callable[[], Mapping[str, str]]] = {
        "meta": lambda: signers.meta(META_SECRET, body),
        "qiscus": lambda: signers.qiscus(QISCUS_SECRET, body),
        "sendgrid": lambda: SENDGRID.sign(body, str(int(time.time()))),
        "resend": lambda: signers.standard(RESEND_SECRET, body, time.time()),
        "postmark": lambda: signers.basic(POSTMARK_LOGIN),
        "brevo": lambda: signers.basic(BREVO_LOGIN),
    }
    return signs[provider]() if provider in signs else {}
