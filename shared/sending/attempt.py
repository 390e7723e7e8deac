"""One attempt of a job: wait for the granted moment, and check that the job may still be handed over.

A channel awaits its `start` once a connection is open (`shared.sending.provider`). A DNS lookup, handshakes and a login
may take longer than the rate or the lease allows a start to be late.
"""

from __future__ import annotations

import math
from contextvars import Token
from typing import Generic

import msgspec

from shared.queue.leases import Lease
from shared.sending.holdings import BegunJob
from shared.sending.parts import WorkerParts
from shared.sending.provider import NOTED, MessageT, Noted, NotStartedError


class Attempt(msgspec.Struct, Generic[MessageT], eq=False):
    """An attempt of a begun job that a worker has taken; `lease` is that of the job.

    From `begin` to `end` the job is marked as with the channel, and an acceptance that the channel notes is recorded.
    `started_at` is when rendering ended, until then the attempt's start (monotonic clock); `waited_s` of the time since
    was spent waiting for the granted moment. `asked` is whether the channel was asked to send. `acceptance` is the
    provider's acceptance (message id, reply text), None until it is noted.
    """

    parts: WorkerParts[MessageT]
    begun: BegunJob
    lease: Lease
    message: MessageT | None = None
    started_at: float = 0.0
    waited_s: float = 0.0
    asked: bool = False
    settled: bool = False
    acceptance: tuple[str, str] | None = None
    _noting: Token[Noted | None] | None = None

    def accepted(self, message_id: str, words: str) -> None:
        """Note the provider's acceptance; from here on the message counts as sent."""
        self.acceptance = (message_id, words)

    def begin(self, now: float) -> None:
        """Note that the channel is asked to send the job."""
        self.asked = True
        self.started_at = self.begun.taken_at = now
        self._noting = NOTED.set(self.accepted)

    def end(self) -> None:
        """Note that the channel has answered, or was cut off; must be called in the task that called `begin`."""
        if self._noting is not None:
            NOTED.reset(self._noting)
            self._noting = None
        self.begun.taken_at = math.inf

    def lasted_s(self) -> float:
        """Return for how long the channel has had the message, without the wait for the granted moment."""
        return self.parts.clock.monotonic() - self.started_at - self.waited_s

    async def start(self) -> None:
        """Wait until the job may be handed over and mark it as sending; raises NotStartedError if it must not be."""
        if self.acceptance is not None:
            raise NotStartedError("the message was already accepted")
        begun, parts = self.begun, self.parts
        now = parts.clock.monotonic()
        wait_s = begun.starts_at - now
        if wait_s > 0:
            await parts.clock.sleep(wait_s)
            self.waited_s += wait_s
            now = parts.clock.monotonic()
        if not parts.shares.lease_held(begun, now):
            # Frozen or cut off past its lease: another sender may have taken the job.
            raise NotStartedError("its sender's lease was not renewed in time")
        if begun.latest_start < math.inf:
            parts.holdings.pace.started(now - begun.granted_for)
            if now > begun.latest_start:
                raise NotStartedError("its start came too late for the rate limit")
        if not begun.sending:
            begun.sending = True
            self._note_start()

    def _note_start(self) -> None:
        parts, lease = self.parts, self.lease
        if self.begun.latest_start < math.inf and parts.holdings.is_low():
            parts.holdings.wake.set()  # the provider may be able to start another
        if lease.attempt == 1:
            job = lease.job
            latency_s = max(0.0, (parts.clock.now_ms() - job.enqueued_at_ms) / 1000)
            parts.observer.queue_latency(job.channel, job.lane, latency_s)
