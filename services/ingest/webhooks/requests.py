"""A webhook as a client writes it, and what else is asked of one."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.ingest.http.requests import ChannelName, Instant, Reference, Request
from shared.webhooks import MOST_BATCH, SUBSCRIBABLE, Batch, EndpointConfig

_LONGEST_WAIT_MS = 60_000

WebhookUrl = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2000,
        description="https, on port 443 or 8443, of a host with a public address. KURIR_WEBHOOK_ALLOW opens others.",
        examples=["https://shop.example.com/kurir"],
    ),
]
EventType = Annotated[str, Meta(max_length=100, examples=["message.sent"])]
EventTypes = Annotated[
    list[EventType],
    Meta(min_length=1, max_length=2 * len(SUBSCRIBABLE), description='The types to be sent; "*" is every type.'),
]
Channels = Annotated[list[ChannelName], Meta(max_length=16, description="Only events of these channels.")]
Filter = Annotated[Reference, Meta(description="Only events of messages and blasts with this reference.")]
Description = Annotated[str, Meta(max_length=500, description="For people.")]
Secret = Annotated[
    str, Meta(max_length=200, description="`whsec_` and base64 of 24 to 64 bytes; by default Kurir makes one.")
]


class BatchRequest(Request, kw_only=True, frozen=True):
    """How events are batched: a request has up to `max` of them, and waits up to `withinMs` for the last."""

    max: Annotated[int, Meta(ge=1, le=MOST_BATCH)]
    within_ms: Annotated[int, Meta(ge=0, le=_LONGEST_WAIT_MS)] = 1000


class WebhookRequest(Request, kw_only=True, frozen=True):
    """A webhook to be added; without filters it gets every event of its types."""

    url: WebhookUrl
    events: EventTypes
    channels: Channels = msgspec.field(default_factory=list)
    reference: Filter = ""
    description: Description = ""
    batch: BatchRequest | None = None
    enabled: bool = True
    secret: Secret | None = None

    def config(self) -> EndpointConfig:
        """Return what the logger stores, without the secret."""
        batch = Batch(self.batch.max, self.batch.within_ms) if self.batch else None
        events, channels = _each_once(self.events), _each_once(self.channels)
        return EndpointConfig(self.url, events, channels, self.reference, self.description, batch, self.enabled)


class WebhookPatch(Request, kw_only=True, frozen=True):
    """The fields of a webhook to change; `batch: null` sends each event alone. Another secret is made by `rotate`."""

    url: WebhookUrl | UnsetType = UNSET
    events: EventTypes | UnsetType = UNSET
    channels: Channels | UnsetType = UNSET
    reference: Filter | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    batch: BatchRequest | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET

    def changes(self) -> dict[str, Any]:
        """Return the fields that were given, as the logger stores them."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields | {name: _each_once(fields[name]) for name in ("events", "channels") if name in fields}


class RotateRequest(Request, kw_only=True, frozen=True):
    """A new secret of the client's own; by default Kurir makes one."""

    secret: Secret | None = None


class ReplayRequest(Request, kw_only=True, frozen=True):
    """Which events to send again: those recorded from `from` on, and before `to` (by default now)."""

    from_: Instant = msgspec.field(name="from")
    to: Instant | None = None


def _each_once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))
