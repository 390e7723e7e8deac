"""The settings of hooks: the token of their URLs, and what each provider signs or logs in with."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from shared.settings import EnvReader

TOKEN = "KURIR_HOOK_TOKEN"  # noqa: S105 -- the name of the variable, not its value
# longer than the segments of a path that a log shows (`http/masking.py`)
_SHORTEST_TOKEN = 24
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
# Amazon Resource Names of topics, in all partitions (aws, aws-cn, aws-us-gov)
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}")
_PEM_LINES = re.compile(r"-----[A-Z ]+-----|\s+")


@dataclass(frozen=True, slots=True)
class HookSettings:
    """What hooks are checked with; without a `token` no URL is right.

    An empty secret means that only the secret URL is checked, except for SES: a request is accepted only from one of
    `ses_topics`.
    """

    token: str = field(default="", repr=False)
    meta_app_secret: str = field(default="", repr=False)
    meta_verify_token: str = field(default="", repr=False)
    qiscus_secret: str = field(default="", repr=False)
    ses_topics: frozenset[str] = frozenset()
    sendgrid_key: EllipticCurvePublicKey | None = None
    mailgun_key: str = field(default="", repr=False)
    postmark_login: str = field(default="", repr=False)
    brevo_login: str = field(default="", repr=False)
    resend_secret: bytes = field(default=b"", repr=False)


def read_hook_settings(reader: EnvReader) -> HookSettings:
    """Read the settings; the reader's `finish` raises the problems, which quote no secret."""
    token = reader.text(TOKEN, "")
    settings = HookSettings(
        token=token,
        meta_app_secret=reader.text("KURIR_META_APP_SECRET", ""),
        meta_verify_token=reader.text("KURIR_META_VERIFY_TOKEN", ""),
        qiscus_secret=reader.text("KURIR_QISCUS_HOOK_SECRET", ""),
        ses_topics=_topics(reader),
        sendgrid_key=_public_key(reader),
        mailgun_key=reader.text("KURIR_MAILGUN_HOOK_KEY", ""),
        postmark_login=_login(reader, "KURIR_POSTMARK_HOOK_LOGIN"),
        brevo_login=_login(reader, "KURIR_BREVO_HOOK_LOGIN"),
        resend_secret=_standard_secret(reader),
    )
    for name in [] if token else _of_hooks(settings):
        reader.problem(f"{name} is set, but {TOKEN} is not: without it there are no hooks")
    if token and len(token) < _SHORTEST_TOKEN:
        reader.problem(f"{TOKEN} is shorter than {_SHORTEST_TOKEN} characters: anyone who guesses it can send receipts")
    elif token and not _TOKEN.fullmatch(token):
        reader.problem(f"{TOKEN} is a part of URLs, so use only letters, digits and . _ ~ -")
    return settings


def _of_hooks(settings: HookSettings) -> list[str]:
    """Return the settings that are set and serve hooks alone, as KURIR_META_APP_SECRET may not."""
    found = {
        "KURIR_META_VERIFY_TOKEN": settings.meta_verify_token,
        "KURIR_QISCUS_HOOK_SECRET": settings.qiscus_secret,
        "KURIR_SES_TOPIC_ARNS": settings.ses_topics,
        "KURIR_SENDGRID_HOOK_KEY": settings.sendgrid_key,
        "KURIR_MAILGUN_HOOK_KEY": settings.mailgun_key,
        "KURIR_POSTMARK_HOOK_LOGIN": settings.postmark_login,
        "KURIR_BREVO_HOOK_LOGIN": settings.brevo_login,
        "KURIR_RESEND_HOOK_SECRET": settings.resend_secret,
    }
    return [name for name, value in found.items() if value]


def _topics(reader: EnvReader) -> frozenset[str]:
    topics = reader.items("KURIR_SES_TOPIC_ARNS")
    for topic in topics:
        if not _TOPIC.fullmatch(topic):
            example = "arn:aws:sns:eu-west-1:123456789012:bounces"
            reader.problem(f"KURIR_SES_TOPIC_ARNS: {topic[:300]!r} is not the ARN of a topic such as {example}")
    return frozenset(topics)


def _public_key(reader: EnvReader) -> EllipticCurvePublicKey | None:
    text = _PEM_LINES.sub("", reader.text("KURIR_SENDGRID_HOOK_KEY", ""))
    if not text:
        return None
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey):
        reader.problem(
            "KURIR_SENDGRID_HOOK_KEY is not a public key for elliptic curves: copy SendGrid's Verification Key"
        )
        return None
    return key


def _login(reader: EnvReader, name: str) -> str:
    login = reader.text(name, "")
    user, colon, password = login.partition(":")
    if login and not (user and colon and password):
        reader.problem(f"{name} must be written as user:password")
    return login


def _standard_secret(reader: EnvReader) -> bytes:
    """Return the secret of Standard Webhooks: base64 after `whsec_`."""
    name = "KURIR_RESEND_HOOK_SECRET"
    text = reader.text(name, "")
    if not text:
        return b""
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        reader.problem(f"{name} is not a signing secret: whsec_ and base64")
    return secret
