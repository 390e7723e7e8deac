"""Signatures of providers, each over the raw body as it arrived: JSON that was read and written again differs.

Sources: Meta's "Webhooks from Meta", Twilio's "Event Webhook Security Features", Mailgun's "Securing Webhooks",
Brevo's "Secure webhook calls", Svix's "Verifying Webhooks Manually" (Resend). For Qiscus there is no documentation of
receipts; its other webhooks are signed so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from shared.errors import KurirError
from shared.queue.receipts import TOKEN_VALID_S, Once

STANDARD_TOLERANCE_S = 300
_SENDGRID = "X-Twilio-Email-Event-Webhook-"
# what Mailgun sent before its webhooks were JSON, until 2023, and still sends for inbound mail
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Delivery(msgspec.Struct, frozen=True):
    """A provider's request: its headers (names in any case), its body as it arrived, and when, in Unix seconds."""

    headers: Mapping[str, str]
    body: bytes
    now_s: float


class SignatureError(KurirError):
    """A request is not signed as its provider signs; the message says what is wrong and quotes none of it.

    `basic` is whether the provider should log in with user and password.
    """

    def __init__(self, why: str, *, basic: bool = False) -> None:
        super().__init__(why)
        self.basic = basic


def check_meta(secret: str, delivery: Delivery) -> None:
    """Check `X-Hub-Signature-256: sha256=<hex>`; raises SignatureError."""
    wanted = "sha256=" + hmac.digest(secret.encode(), delivery.body, "sha256").hex()
    _compare(wanted, _header(delivery, "X-Hub-Signature-256").lower(), "KURIR_META_APP_SECRET")


def check_qiscus(secret: str, delivery: Delivery) -> None:
    """Check `Qiscus-Signature-Key: <base64>`; raises SignatureError."""
    wanted = base64.b64encode(hmac.digest(secret.encode(), delivery.body, "sha256")).decode()
    _compare(wanted, _header(delivery, "Qiscus-Signature-Key"), "KURIR_QISCUS_HOOK_SECRET")


def check_sendgrid(key: EllipticCurvePublicKey, delivery: Delivery) -> None:
    """Check the ECDSA signature over timestamp and body; raises SignatureError.

    The age of the timestamp is not limited: SendGrid retries for a day, and a repeated event has no effect.
    """
    signature = _base64(_header(delivery, f"{_SENDGRID}Signature"))
    timestamp = _header(delivery, f"{_SENDGRID}Timestamp")
    try:
        key.verify(signature, _bytes(timestamp) + delivery.body, ECDSA(SHA256()))
    except InvalidSignature:
        raise _wrong("KURIR_SENDGRID_HOOK_KEY") from None


class _MailgunSignature(msgspec.Struct, frozen=True, rename={"parent": "parent-signature"}):
    """The signature in the body; `parent` is the main account's, where a subaccount sent the message."""

    timestamp: str | int
    token: str
    signature: str
    parent: str = ""


class _MailgunBody(msgspec.Struct, frozen=True):
    signature: _MailgunSignature


_mailgun = msgspec.json.Decoder(_MailgunBody)


def check_mailgun(key: str, delivery: Delivery) -> Once:
    """Check the signature in the body; return its token, which may be accepted once; raises SignatureError.

    Mailgun signs a timestamp and a token, and nothing else of the body, so anyone who has seen one request could send
    any other with the same signature.
    """
    try:
        given = _mailgun.decode(delivery.body).signature
        signed_at_s = int(given.timestamp)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise SignatureError(_no_signature(delivery)) from None
    wanted = hmac.digest(key.encode(), f"{given.timestamp}{given.token}".encode(), "sha256").hex()
    if not (_same(wanted, given.signature) or _same(wanted, given.parent)):
        raise _wrong("KURIR_MAILGUN_HOOK_KEY")
    if abs(int(delivery.now_s) - signed_at_s) >= TOKEN_VALID_S:
        raise SignatureError("it was signed more than a day ago, or this machine's clock is wrong")
    return Once(given.token, signed_at_s)


def _no_signature(delivery: Delivery) -> str:
    if delivery.headers.get("Content-Type", "").strip().lower().startswith(_FORMS):
        return "it is a form, from a route or a legacy webhook: add the URL under Sending → Webhooks instead"
    return "the body has no `signature` with `timestamp`, `token` and `signature`"


def check_login(login: str, name: str, delivery: Delivery) -> None:
    """Check HTTP's Basic authentication against `user:password`, the setting `name`; raises SignatureError."""
    scheme, _, encoded = delivery.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        raise SignatureError(f"it has no user and password: add those of {name} to the URL", basic=True)
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        given = b""
    if not hmac.compare_digest(_digest(login.encode()), _digest(given)):
        raise SignatureError(f"its user and password are not those of {name}", basic=True)


def check_standard(secret: bytes, delivery: Delivery) -> None:
    """Check a signature of Standard Webhooks, under Svix's header names; raises SignatureError.

    The header has a signature for each secret in use, of which one must match. Its timestamp is that of the attempt.
    """
    timestamp = _header(delivery, "Svix-Timestamp")
    signed = b".".join((_bytes(_header(delivery, "Svix-Id")), _bytes(timestamp), delivery.body))
    wanted = "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    if not any(_same(wanted, one) for one in _header(delivery, "Svix-Signature").split(" ")):
        raise _wrong("KURIR_RESEND_HOOK_SECRET")
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(delivery.now_s - int(timestamp)) > STANDARD_TOLERANCE_S:
        raise SignatureError("it was signed more than five minutes ago, or this machine's clock is wrong")


def same_secret(wanted: str, given: str) -> bool:
    """Return whether two texts are equal, in a time that depends on neither."""
    return hmac.compare_digest(_digest_of_setting(wanted), _digest(_bytes(given)))


@lru_cache(8)
def _digest_of_setting(text: str) -> bytes:
    return _digest(_bytes(text))


def _bytes(text: str) -> bytes:
    # a header's bytes that are not UTF-8 arrive as surrogates
    return text.encode("utf-8", "surrogateescape")


def _digest(text: bytes) -> bytes:
    # texts of different lengths would be compared in different times
    return hashlib.sha256(text).digest()


def _same(wanted: str, given: str) -> bool:
    return hmac.compare_digest(_bytes(wanted), _bytes(given))


def _compare(wanted: str, given: str, setting: str) -> None:
    if not _same(wanted, given):
        raise _wrong(setting)


def _wrong(setting: str) -> SignatureError:
    return SignatureError(f"its signature is wrong; check {setting}")


def _header(delivery: Delivery, name: str) -> str:
    value = delivery.headers.get(name, "").strip()
    if not value:
        raise SignatureError(f"it has no header {name}")
    return value


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
