"""Settings, blasts and messages for the tests of the email sender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from services.email_sender.dkim_keys import KeyRing
from services.email_sender.identity import Identity
from services.email_sender.message import Frame, Mail
from services.email_sender.settings import (
    EmailSettings,
    MailSettings,
    SmtpSettings,
    Timeouts,
    parse_server,
)
from shared.blasts import Blast
from shared.jobs import Attachment, Job, Recipient
from shared.mailboxes import Mailbox
from shared.sending.breaker import BreakerPolicy
from shared.settings import CommonSettings
from shared.templates import Template
from tests.integration.sending.running import SETTINGS

HTML = "<p>Dear {{ name }},</p>\n<p>.hidden dots and <b>bold</b></p>\n"
TEMPLATE = Template(id="t", name="T", channels=["email"], subject="Hello {{ name }}", html=HTML)
MAIL = MailSettings(Mailbox("Shop", "shop@example.com"), "https://kurir.example.com", "secret", "out@example.com")

NO_KEYS = KeyRing()


def smtp_settings(*urls: str, **changes: Any) -> SmtpSettings:
    """Return settings for servers; time-outs are long, since tests run on busy machines."""
    settings = SmtpSettings(
        servers=tuple(parse_server(url) for url in urls),
        timeouts=Timeouts(connect_s=30.0, command_s=30.0, data_s=30.0, idle_s=60.0),
        ca_file="",
        helo="client.example.com",
        breaker=BreakerPolicy.scaled(0.1),
    )
    return replace(settings, **changes)


def email_settings(smtp: SmtpSettings, mail: MailSettings = MAIL, keys: KeyRing = NO_KEYS) -> EmailSettings:
    """Return complete settings with those of SMTP."""
    common = CommonSettings(
        redis_url="redis://127.0.0.1:1/0",
        host="127.0.0.1",
        port=0,
        env="development",
        log_level="info",
        log_dir=Path("/nonexistent"),
        data_dir=Path("/nonexistent"),
        grace_s=2.0,
        time_scale=0.1,
    )
    return EmailSettings(common, SETTINGS, smtp, mail, Identity(smtp.helo, "", ("example.com",), keys))


def make_blast(blast_id: str = "b1", **changes: Any) -> Blast:
    """Return a blast of one email, of the template above by default."""
    blast = Blast(blast_id, TEMPLATE, ["email"], "normal", 0, {"email": 1}, 1)
    return msgspec.structs.replace(blast, **changes)


def make_job(address: str = "ana@example.com", name: str = "Ana", index: int = 0, **changes: Any) -> Job:
    """Return a job of the blast."""
    job = Job("b1", index, "email", "normal", Recipient(address, name), 0)
    return msgspec.structs.replace(job, **changes)


def make_mail(address: str = "ana@example.com", name: str = "Ana", **changes: Any) -> Mail:
    """Return one message of the blast above."""
    return Frame(make_blast(**changes), MAIL).fill(make_job(address, name))


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a message; `name` is the recipient's."""

    subject: str = "s"
    name: str = "Ana"
    text: str = "t"
    html: str | None = None
    attachments: Sequence[Attachment] = ()
    own_attachments: Sequence[Attachment] = ()


def fill(content: Content) -> Mail:
    """Return a message with exactly this content: each part of the template is a variable."""
    template = Template(
        id="t",
        name="T",
        channels=["email"],
        subject="{{ s }}",
        text="{{ t }}",
        html="" if content.html is None else "{{ h | safe }}",
    )
    variables = {"s": content.subject, "t": content.text, "h": content.html}
    recipient = Recipient("ana@example.com", content.name, variables, "", list(content.own_attachments))
    blast = make_blast(template=template, attachments=list(content.attachments))
    return Frame(blast, MAIL).fill(make_job(recipient=recipient))
