"""The start of one job: waits for the moment that was granted, and says whether the job may still be handed over.

It is asked for by the channel when a connection is open (`shared.sending.provider`): what comes before, a look-up of a
name, handshakes, a log-in, may last longer than the rate or the lease allows a start to be late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.clock import Clock
from shared.sending.holdings import Flight
from shared.sending.pace import Pace
from shared.sending.provider import NotStartedError, acceptance_noted_by

Started = Callable[[Flight], None]


class GrantedStart:
    """Implements `Start` for one flight; `waited_s` is the time that it has waited, which is none of the provider's.

    `asked` tells whether the channel was asked to send; `started` is called once the job is about to be handed over.
    `acceptance` is the provider's yes (the message's id, and its words), None until it was heard.
    """

    def __init__(
        self, flight: Flight, clock: Clock, pace: Pace, lease_held_since: Callable[[float], bool], started: Started
    ) -> None:
        self._flight = flight
        self._clock = clock
        self._pace = pace
        self._lease_held_since = lease_held_since
        self._started = started
        self.asked = False
        self.acceptance: tuple[str, str] | None = None
        self.waited_s = 0.0

    def accepted(self, message_id: str, words: str) -> None:
        """Note the provider's yes; from here on the message counts as sent."""
        self.acceptance = (message_id, words)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Note that the channel is asked to send, until it has, and what it notes of the provider's yes."""
        self.asked = True
        self._flight.taken_at = self._clock.monotonic()
        try:
            with acceptance_noted_by(self.accepted):
                yield
        finally:
            self._flight.taken_at = math.inf

    async def __call__(self) -> None:
        """Wait until the job may be handed over, and note that it is; raises NotStartedError where it must not be."""
        if self.acceptance is not None:
            raise NotStartedError("it was accepted already")
        flight = self._flight
        wait_s = flight.starts_at - self._clock.monotonic()
        if wait_s > 0:
            await self._clock.sleep(wait_s)
            self.waited_s += wait_s
        if not self._lease_held_since(flight.asked_at):
            # Frozen or cut off past its lease: another may have been given the job.
            raise NotStartedError("its sender's lease was not renewed in time")
        now = self._clock.monotonic()
        if flight.granted_for < math.inf:
            self._pace.started(now - flight.granted_for)
        if now > flight.latest_start:
            raise NotStartedError("its start came too late for the rate limit")
        if not flight.sending:
            flight.sending = True
            self._started(flight)
