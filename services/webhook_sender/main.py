"""Composes the webhook sender from the environment's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

from services.webhook_sender.channel import WebhookChannel
from services.webhook_sender.endpoints import EndpointSenders
from services.webhook_sender.metrics import EndpointMetrics
from services.webhook_sender.settings import WebhookSettings, read_settings
from shared.clock import SystemClock
from shared.sealing import Seal
from shared.sender_service import REDIS_CONNECTIONS, SenderProcess, Sending, Surroundings, run_sender
from shared.webhooks import MOST_ENDPOINTS, Endpoint

# a blocking read, a call of the loop, and one of its housekeeping
_REDIS_CONNECTIONS_OF_A_LOOP = 3


def run() -> NoReturn:
    """Run the webhook sender until SIGTERM, then exit the process."""
    run_sender("webhook_sender", dict(os.environ), compose)


def compose(env: Mapping[str, str]) -> SenderProcess:
    """Compose one webhook sender; raises SettingsError."""
    return compose_from(read_settings(env))


def compose_from(settings: WebhookSettings) -> SenderProcess:
    """Compose one webhook sender from its settings."""
    return SenderProcess(
        settings.common,
        settings.sending,
        partial(_start, settings),
        redis_connections=REDIS_CONNECTIONS + _REDIS_CONNECTIONS_OF_A_LOOP * MOST_ENDPOINTS,
    )


def _start(settings: WebhookSettings, around: Surroundings) -> Sending:
    clock, seal = SystemClock(), Seal(settings.sending.internal_secret)

    def make(endpoint: Endpoint) -> WebhookChannel:
        return WebhookChannel(endpoint, settings.connection, clock, seal)

    senders = EndpointSenders(around, settings.sending, make)
    around.metrics.registry.register(EndpointMetrics(senders.states))
    return senders
