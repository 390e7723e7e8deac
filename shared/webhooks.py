"""Webhooks to the client: the types of events, an endpoint's settings, its secrets, and signatures.

Follows Standard Webhooks 1.0 (https://github.com/standard-webhooks/standard-webhooks): a secret is `whsec_` and base64,
and a signature is an HMAC-SHA256 over `id.timestamp.body`. The logger owns the endpoints; what a sender has to know of
one is an `Endpoint`, in Redis, where its secrets are sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence

import msgspec

from shared.errors import DecodeError
from shared.sealing import SEALED, Seal, SealError

MESSAGE_EVENTS = (
    "message.sent",
    "message.failed",
    "message.delivered",
    "message.read",
    "message.bounced",
    "message.undelivered",
    "message.complained",
    "message.suppressed",
    "message.expired",
    "message.cancelled",
)
BLAST_EVENTS = ("blast.completed", "blast.paused", "blast.incomplete")
WEBHOOK_TEST = "webhook.test"
WEBHOOK_DISABLED = "webhook.disabled"
EVENT_TYPES: tuple[str, ...] = (
    *MESSAGE_EVENTS,
    *BLAST_EVENTS,
    "channel.paused",
    "channel.resumed",
    "suppression.added",
    WEBHOOK_DISABLED,
    WEBHOOK_TEST,
)
"""The types of events. Every endpoint may be sent `webhook.test`, so none subscribes to it."""
ALL_EVENTS = "*"
SUBSCRIBABLE: tuple[str, ...] = (*(one for one in EVENT_TYPES if one != WEBHOOK_TEST), ALL_EVENTS)

MOST_ENDPOINTS = 100
MOST_BATCH = 500
SECRET_PREFIX = "whsec_"  # noqa: S105 -- how every secret begins
_MADE_BYTES = 32
# Standard Webhooks, "Signature scheme": "between 24 bytes (192 bits) and 64 bytes (512 bits)"
_FEWEST_BYTES, _MOST_BYTES = 24, 64
_OF_REFERENCES = frozenset((*MESSAGE_EVENTS, *BLAST_EVENTS))


class Batch(msgspec.Struct, frozen=True, rename="camel"):
    """How events are batched: a batch is sent with `max` events, or `within_ms` after its first one."""

    max: int
    within_ms: int


class EndpointConfig(msgspec.Struct, frozen=True, rename="camel"):
    """An endpoint as the client configures it; empty `channels` and `reference` do not filter."""

    url: str
    events: list[str]
    channels: list[str] = []
    reference: str = ""
    description: str = ""
    batch: Batch | None = None
    enabled: bool = True


class Endpoint(msgspec.Struct, frozen=True):
    """What a sender knows of an endpoint; `number` is the index of its partition, from 1, and is never reused.

    `secrets` are sealed, the newest first. Beside each, `secret_ends_ms` has the time until which it signs, 0 for no
    end.
    """

    endpoint_id: str
    number: int
    url: str
    enabled: bool
    secrets: list[str]
    secret_ends_ms: list[int]

    def open_secrets(self, seal: Seal, now_ms: int) -> list[str]:
        """Return the secrets that sign now, opened, the newest first.

        One that cannot be opened is left out if another can: so a rotation helps after KURIR_INTERNAL_SECRET has
        changed. Raises SealError if none can be opened.
        """
        pairs = zip(self.secrets, self.secret_ends_ms, strict=True)
        opened, failure = [], None
        for sealed in [sealed for sealed, ends_ms in pairs if not ends_ms or now_ms < ends_ms]:
            try:
                opened.append(open_secret(sealed, seal))
            except SealError as error:
                failure = error
        if failure is not None and not opened:
            raise failure
        return opened


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Endpoint)


def pack_endpoint(endpoint: Endpoint) -> bytes:
    """Pack an endpoint for Redis (msgpack)."""
    return _encoder.encode(endpoint)


def unpack_endpoint(raw: bytes) -> Endpoint:
    """Unpack an endpoint; raises DecodeError."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DecodeError("webhook endpoint", raw) from error


def matches(config: EndpointConfig, event_type: str, channel: str, references: Collection[str]) -> bool:
    """Return whether an endpoint subscribes to an event.

    `channel` is "" for an event that has none; it passes every filter by channel. `references` are those of the message
    and of its blast. Events of channels, suppressions and webhooks have none, and pass every filter by reference.
    """
    if event_type not in config.events and ALL_EVENTS not in config.events:
        return False
    if config.channels and channel and channel not in config.channels:
        return False
    return not config.reference or event_type not in _OF_REFERENCES or config.reference in references


def make_secret() -> str:
    """Return a new secret of 256 random bits."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_MADE_BYTES)).decode()


def check_secret(text: str) -> str | None:
    """Return why a text cannot be a secret, None if it can; the text is not quoted."""
    key = _key(text)
    if key is None:
        return f"a secret is {SECRET_PREFIX} followed by base64"
    if not _FEWEST_BYTES <= len(key) <= _MOST_BYTES:
        return f"a secret has from {_FEWEST_BYTES} to {_MOST_BYTES} bytes, this one has {len(key)}"
    return None


def sign(opened: Sequence[str], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the header `webhook-signature`: a signature by each opened secret, separated by spaces."""
    content = b"%s.%d.%s" % (webhook_id.encode(), timestamp_s, body)
    return " ".join(f"v1,{_signature(_key(secret) or b'', content)}" for secret in opened)


def seal_secret(secret: str, seal: Seal) -> str:
    """Return a secret sealed, as text."""
    return base64.b64encode(seal.closed({"secret": secret}, frozenset({"secret"}))[SEALED]).decode()


def open_secret(sealed: str, seal: Seal) -> str:
    """Return a sealed secret opened; raises SealError."""
    try:
        return str(seal.opened({SEALED: base64.b64decode(sealed)})["secret"])
    except (ValueError, KeyError) as error:
        raise SealError("a webhook's secret is not a sealed value") from error


def _signature(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def _key(secret: str) -> bytes | None:
    if not secret.startswith(SECRET_PREFIX):
        return None
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # ValueError: it is not ASCII
        return None
