"""The start of one job: wait for the granted moment, then check that the job may still be handed over.

A channel awaits it once a connection is open (`shared.sending.provider`). A DNS lookup, handshakes and a login may
take longer than the rate or the lease allows a start to be late.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Token

import msgspec

from shared.clock import Clock
from shared.queue.leases import Lease
from shared.sending.holdings import BegunJob
from shared.sending.pace import Pace
from shared.sending.provider import NOTED, Noted, NotStartedError

Started = Callable[[BegunJob], None]


class GrantedStart(msgspec.Struct, eq=False):
    """Implements `Start` for one begun job; `waited_s` is the time spent waiting, which does not count as send time.

    From `begin` to `end` the job is marked as with the channel, and an acceptance that the channel notes is recorded.
    `asked` is whether the channel was asked to send; `started` is called just before the first hand-over.
    `acceptance` is the provider's acceptance (message id, reply text), None until it is noted.
    """

    _begun: BegunJob
    _clock: Clock
    _pace: Pace
    _lease_held_since: Callable[[float, Lease], bool]
    _started: Started
    asked: bool = False
    acceptance: tuple[str, str] | None = None
    waited_s: float = 0.0
    _noting: Token[Noted | None] | None = None

    def accepted(self, message_id: str, words: str) -> None:
        """Note the provider's acceptance; from here on the message counts as sent."""
        self.acceptance = (message_id, words)

    def begin(self, now: float) -> None:
        """Note that the channel is asked to send the job."""
        self.asked = True
        self._begun.taken_at = now
        self._noting = NOTED.set(self.accepted)

    def end(self) -> None:
        """Note that the channel has answered, or was cut off; must be called in the task that called `begin`."""
        if self._noting is not None:
            NOTED.reset(self._noting)
            self._noting = None
        self._begun.taken_at = math.inf

    async def __call__(self) -> None:
        """Wait until the job may be handed over and mark it as sending; raises NotStartedError if it must not be."""
        if self.acceptance is not None:
            raise NotStartedError("the message was already accepted")
        begun = self._begun
        wait_s = begun.starts_at - self._clock.monotonic()
        if wait_s > 0:
            await self._clock.sleep(wait_s)
            self.waited_s += wait_s
        if not self._lease_held_since(begun.asked_at, begun.lease):
            # Frozen or cut off past its lease: another sender may have taken the job.
            raise NotStartedError("its sender's lease was not renewed in time")
        if begun.latest_start < math.inf:
            now = self._clock.monotonic()
            self._pace.started(now - begun.granted_for)
            if now > begun.latest_start:
                raise NotStartedError("its start came too late for the rate limit")
        if not begun.sending:
            begun.sending = True
            self._started(begun)
