"""The readers of providers' webhooks, by the name in the hook's path, and the channel of each provider."""

from __future__ import annotations

from collections.abc import Mapping

from services.receipts.providers import brevo, mailgun, meta, postmark, qiscus, resend, sendgrid, ses
from services.receipts.reading import Reader
from shared.channels import EMAIL, WHATSAPP

READERS: Mapping[str, Reader] = {
    "meta": meta.read,
    "qiscus": qiscus.read,
    "ses": ses.read,
    "sendgrid": sendgrid.read,
    "mailgun": mailgun.read,
    "postmark": postmark.read,
    "brevo": brevo.read,
    "resend": resend.read,
}
CHANNEL_OF: Mapping[str, str] = dict.fromkeys(READERS, EMAIL.name) | dict.fromkeys(("meta", "qiscus"), WHATSAPP.name)
