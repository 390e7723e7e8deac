"""A sender whose provider does nothing, so that what is measured is the queue: `python -m benchmarks.idle_sender`.

It is the sending loop of every channel, with its real settings, logs and events; only the provider is empty.
"""

from __future__ import annotations

import os

from shared.blasts import Blast
from shared.jobs import Job
from shared.lifecycle import Stop, run_service
from shared.logs import configure_logging
from shared.queue.connection import connect
from shared.sending.loop import SendingLoop
from shared.sending.provider import ProviderStatus, Receipt, RenderedMessage, Room, Start, at_once
from shared.sending.settings import read_sending_settings
from shared.settings import EnvReader, read_common


class NoProvider:
    """A provider that accepts everything without doing anything."""

    channel = "email"

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    def render(self, job: Job, blast: Blast) -> RenderedMessage:
        """Render nothing."""
        return RenderedMessage(job.job_id, blast.template.subject)

    async def send(self, message: RenderedMessage, start: Start = at_once) -> Receipt:
        """Accept a message."""
        await start()
        return Receipt(message.job_id, "250 2.0.0 Ok")

    def room(self) -> Room:
        """It takes any number."""
        return Room()

    def available(self) -> bool:
        """It is always there."""
        return True

    async def status(self) -> ProviderStatus:
        """It is always there."""
        return ProviderStatus(reachable=True, authenticated=True)


class NoObserver:
    """Metrics that nobody reads."""

    def attempt(self, channel: str, outcome: str, error_class: str, duration_s: float) -> None:
        """Count nothing."""

    def queue_latency(self, channel: str, lane: str, seconds: float) -> None:
        """Observe nothing."""

    def housekeeping_failed(self, channel: str, task: str) -> None:
        """Count nothing."""


async def main(stop: Stop) -> None:
    """Send into nothing until stopped."""
    env = EnvReader(os.environ)
    common = read_common(env, 0)
    settings = read_sending_settings(env, "email", common)
    env.finish()
    configure_logging("idle_sender", common)
    redis = connect(common.redis_url)
    try:
        await SendingLoop(redis, NoProvider(), settings, NoObserver()).run(stop)
    finally:
        await redis.aclose()


if __name__ == "__main__":
    run_service("idle_sender", main)
