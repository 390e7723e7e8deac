"""A sender whose provider does nothing, to measure only the queue: `python -m benchmarks.idle_sender`.

It runs the sending loop of every channel, with real settings, logs and events; only the provider is a stub.
"""

from __future__ import annotations

import os

from shared.blasts import Blast
from shared.channels import EMAIL
from shared.jobs import Job
from shared.lifecycle import Stop, run_service
from shared.logs import configure_logging
from shared.queue.connection import connect
from shared.sending.loop import SendingLoop
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
from shared.sending.settings import read_sending_settings
from shared.settings import EnvReader, read_common


class NoProvider:
    """A provider that accepts everything without doing anything."""

    channel = "email"

    async def open(self, changed: Changed = ignore_change) -> None:
        """Do nothing."""
        del changed

    async def close(self) -> None:
        """Do nothing."""

    def render(self, job: Job, blast: Blast) -> RenderedMessage:
        """Render nothing."""
        return RenderedMessage(job.job_id, blast.template.subject)

    async def send(self, message: RenderedMessage, start: Start = at_once) -> Receipt:
        """Accept a message."""
        await start()
        return Receipt(message.job_id, "250 2.0.0 Ok")

    def capacity(self, wanted: int = 0) -> Capacity:
        """Return unlimited capacity."""
        del wanted
        return Capacity()

    def available(self) -> bool:
        """Return True."""
        return True

    async def status(self) -> ProviderStatus:
        """Return that it is reachable."""
        return ProviderStatus(reachable=True, authenticated=True)


class NoObserver:
    """Metrics that are discarded."""

    def attempt(self, channel: str, outcome: str, error_class: str, duration_s: float) -> None:
        """Count nothing."""

    def queue_latency(self, channel: str, lane: str, seconds: float) -> None:
        """Observe nothing."""

    def housekeeping_failed(self, channel: str, task: str) -> None:
        """Count nothing."""


async def main(stop: Stop) -> None:
    """Send to the stub until stopped."""
    env = EnvReader(os.environ)
    common = read_common(env, 0)
    settings = read_sending_settings(env, EMAIL, common)
    env.finish()
    configure_logging("idle_sender", common)
    redis = connect(common.redis_url)
    try:
        await SendingLoop(redis, NoProvider(), settings, NoObserver()).run(stop)
    finally:
        await redis.aclose()


if __name__ == "__main__":
    run_service("idle_sender", main)
