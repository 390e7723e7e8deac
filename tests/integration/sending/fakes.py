"""A provider made of a function, the WhatsApp channel on the tests' queue, and an observer that records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.whatsapp_sender.channel import WhatsAppChannel
from services.whatsapp_sender.payload import WhatsAppMessage
from shared.blasts import Blast
from shared.jobs import Job
from shared.sending.provider import (
    Capacity,
    Changed,
    ProviderStatus,
    Receipt,
    RenderedMessage,
    Start,
    at_once,
    ignore_change,
)

Behaviour = Callable[[RenderedMessage], Awaitable[Receipt]]


async def accept(message: RenderedMessage) -> Receipt:
    """Accept any message immediately."""
    return Receipt(f"<{message.job_id}>", "250 ok")


async def be_prepared(message: RenderedMessage) -> None:
    """Need no preparation."""
    del message


@dataclass
class FakeProvider:
    """Sends with `prepare`, then `behaviour`; records when each job was handed over (monotonic seconds)."""

    behaviour: Behaviour = accept
    is_available: bool = True
    calls: list[tuple[str, float]] = field(default_factory=list)
    channel: str = "email"
    prepare: Callable[[RenderedMessage], Awaitable[None]] = be_prepared
    offers: Capacity = field(default_factory=Capacity)
    changed: Changed = ignore_change
    wanted: int = 0

    async def open(self, changed: Changed = ignore_change) -> None:
        self.changed = changed

    async def close(self) -> None:
        return

    def render(self, job: Job, blast: Blast) -> RenderedMessage:
        return RenderedMessage(job.job_id, blast.template.subject)

    async def send(self, message: RenderedMessage, start: Start = at_once) -> Receipt:
        await self.prepare(message)
        await start()
        self.calls.append((message.job_id, asyncio.get_running_loop().time()))
        return await self.behaviour(message)

    def capacity(self, wanted: int = 0) -> Capacity:
        self.wanted = wanted
        return self.offers

    def available(self) -> bool:
        return self.is_available

    async def status(self) -> ProviderStatus:
        return ProviderStatus(self.is_available, self.is_available)


class WhatsAppAsEmail(WhatsAppChannel):
    """The WhatsApp channel, on the queue of the tests' world; a message says only which job it is of."""

    channel = "email"

    def render(self, job: Job, _blast: Blast) -> WhatsAppMessage:
        return WhatsAppMessage(job.job_id, "", "6281234567890", b'{"job":"%b"}' % job.job_id.encode())


@dataclass
class RememberedAttempts:
    """Records what a metrics module would count."""

    attempts: list[tuple[str, str]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def attempt(self, channel: str, outcome: str, error_class: str, duration_s: float) -> None:  # noqa: ARG002 -- the protocol's shape
        self.attempts.append((outcome, error_class))

    def queue_latency(self, channel: str, lane: str, seconds: float) -> None:  # noqa: ARG002 -- the protocol's shape
        self.latencies.append(seconds)

    def housekeeping_failed(self, channel: str, task: str) -> None:  # noqa: ARG002 -- the protocol's shape
        self.surprises.append(task)
