"""The loops of a webhook sender inside a test, with channels made of a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from services.webhook_sender.endpoints import EndpointSenders
from shared.channels import WEBHOOK
from shared.lifecycle import Stop
from shared.sender_metrics import SenderMetrics
from shared.sender_service import Surroundings
from shared.sending.settings import REPEAT, SendingSettings
from shared.web import Health
from shared.webhooks import Endpoint
from tests.integration.sending.fakes import FakeProvider
from tests.integration.sending.running import SETTINGS as USUAL

SCALE = 0.1
SETTINGS = replace(
    USUAL,
    sender_id="webhook-test",
    on_uncertain=REPEAT,
    time_scale=SCALE,
    waits_s=(1.0, 2.0),
    max_attempts=3,
    dead_letters=False,
)


class FakeEndpoint(FakeProvider):
    """The provider of one endpoint, made of a function; records the URL of each attempt."""

    channel = WEBHOOK.name

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(channel=WEBHOOK.name)
        self.endpoint = endpoint
        self.closed = False

    def update(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def close(self) -> None:
        self.closed = True


@dataclass
class Receivers:
    """Makes the channels of endpoints, and remembers all of them by number."""

    prepare: Callable[[FakeEndpoint], None] = lambda _channel: None
    made: dict[int, list[FakeEndpoint]] = field(default_factory=dict)

    def make(self, endpoint: Endpoint) -> Any:
        channel = FakeEndpoint(endpoint)
        self.made.setdefault(endpoint.number, []).append(channel)
        self.prepare(channel)
        return channel

    def has(self, number: int, count: int) -> bool:
        """Return whether an endpoint was handed that many deliveries."""
        return len(self.received(number)) >= count

    def received(self, number: int) -> list[str]:
        """Return the ids of the deliveries that were handed to an endpoint, in order."""
        return [job_id for channel in self.made.get(number, []) for job_id, _ in channel.calls]


@dataclass
class Running:
    """A webhook sender that runs in a test."""

    senders: EndpointSenders
    health: Health
    task: asyncio.Task[None]


@asynccontextmanager
async def running(redis: Any, receivers: Receivers, settings: SendingSettings = SETTINGS) -> AsyncIterator[Running]:
    """Run one webhook sender while the block runs, then stop it and wait for its end."""
    health, stop = Health("webhook_sender"), Stop()
    around = Surroundings(redis, SenderMetrics("webhook_sender"), health)
    senders = EndpointSenders(around, settings, receivers.make)
    task = asyncio.create_task(senders.run(stop))
    try:
        yield Running(senders, health, task)
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task
