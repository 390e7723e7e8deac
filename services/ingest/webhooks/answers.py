"""Answers about webhooks. The logger writes them; a field that it leaves out has its default here."""

from __future__ import annotations

from typing import Literal

import msgspec

from services.ingest.http.responses import Answer

DeliveryStatus = Literal["waiting", "retrying", "delivered", "failed"]


class BatchView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """How events are batched."""

    max: int
    within_ms: int


class WebhookView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A webhook; its secret is never shown again.

    `disabledReason` says why it is disabled, null while it is enabled. `failingSince` is the time of the first failure
    after the last success. `waiting` counts the events that it has not been sent yet, an estimate if they are many.
    """

    id: str
    url: str
    events: list[str]
    channels: list[str] = []
    reference: str = ""
    description: str = ""
    batch: BatchView | None = None
    enabled: bool
    disabled_reason: str | None = None
    failing_since: str | None = None
    created_at: str
    updated_at: str
    waiting: int = 0
    last_delivered_at: str | None = None


class DeliveryView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A delivery: one request, repeated until the endpoint accepts it; `id` is its `webhook-id`.

    `type` is that of its event, or `batch`; `events` is how many it has. `responseStatus` is null if the endpoint did
    not answer. `durationMs` is that of the last attempt.
    """

    id: str
    type: str
    events: int
    status: DeliveryStatus
    attempts: int = 0
    created_at: str
    last_attempt_at: str | None = None
    next_attempt_at: str | None = None
    response_status: int | None = None
    error: str | None = None
    duration_ms: int | None = None


class WebhooksAnswer(Answer, kw_only=True, frozen=True):
    """All webhooks, in the order in which they were added."""

    webhooks: list[WebhookView]


class WebhookAnswer(Answer, kw_only=True, frozen=True):
    """One webhook."""

    webhook: WebhookView


class NewWebhookAnswer(Answer, kw_only=True, frozen=True):
    """A webhook that was added, with the secret that signs its requests. It is shown only here."""

    webhook: WebhookView
    secret: str


class RotationAnswer(Answer, kw_only=True, frozen=True):
    """The new secret, shown only here. The old one signs as well until `oldSecretEndsAt`."""

    secret: str
    old_secret_ends_at: str


class WebhookTestAnswer(Answer, kw_only=True, frozen=True):
    """The `webhook-id` of a test event on its way; the list of deliveries shows its outcome."""

    delivery_id: str


class ReplayAnswer(Answer, kw_only=True, frozen=True):
    """A replay that has begun, and how many events it has, an estimate if they are many.

    A filter by reference may leave out some. Events that the webhook was not sent yet are not among them: they arrive
    anyway.
    """

    replay_id: str
    events: int


class DeliveriesAnswer(Answer, kw_only=True, frozen=True):
    """A page of deliveries, the latest first; `nextCursor` is null on the last."""

    deliveries: list[DeliveryView]
    next_cursor: str | None = None
