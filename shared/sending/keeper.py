"""Heartbeats and housekeeping: renew the lease, reap dead senders, and watch the entries that this sender holds.

Watching compares the entries that the queue lists for this sender with its `Holdings`. An entry that only the queue
lists was fetched or begun by a call whose reply was lost, or its task is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from shared.clock import Clock
from shared.errors import KurirError, QueueUnavailableError
from shared.logs import get_logger
from shared.queue.consumer import Consumer
from shared.queue.leases import HeldEntry
from shared.queue.reaper import Reaper
from shared.sending.holdings import Holdings
from shared.sending.settings import SendingSettings


class StuckError(KurirError):
    """A send has lasted longer than all time-outs together: the process must end itself."""


class Keeper:
    """The sender's housekeeping; `heartbeat_state` returns what the heartbeat publishes.

    An unexpected error ends one round, not the sender; `on_error` is called with the task and the error. `take_over`
    takes over from senders on this host that are gone, at each check. `away` is why the last renewal failed.
    """

    def __init__(
        self,
        consumer: Consumer,
        reaper: Reaper,
        holdings: Holdings,
        settings: SendingSettings,
        heartbeat_state: Callable[[], dict[str, object]],
    ) -> None:
        self._consumer = consumer
        self._reaper = reaper
        self._holdings = holdings
        self._settings = settings
        self._heartbeat_state = heartbeat_state
        self.on_error: Callable[[str, Exception], None] = lambda task, error: None  # noqa: ARG005 -- no observer
        self._begin_within_s = settings.timing.begin_within_ms / 1000
        self._renewed_at = float("-inf")
        self._lapsed_at = float("-inf")
        self._orphans: set[str] = set()
        self.take_over: Callable[[], Awaitable[None]] | None = None
        self.away: QueueUnavailableError | None = None

    def is_fresh(self, now: float) -> bool:
        """Return whether the lease was renewed recently enough to begin jobs."""
        return now - self._renewed_at < self._begin_within_s

    def held_since(self, moment: float) -> bool:
        """Return whether the lease has held without a gap since a moment on the monotonic clock."""
        return moment > self._lapsed_at

    def holds(self, granted_at: float, now: float) -> bool:
        """Return whether the lease is fresh, and has held without a gap since a job was granted."""
        return now - self._renewed_at < self._begin_within_s and granted_at > self._lapsed_at

    async def first_heartbeat(self, clock: Clock) -> bool:
        """Take the lease; False if Redis is away."""
        return await self._renew(clock, first=True)

    async def run_heartbeat(self, clock: Clock) -> None:
        """Renew the lease until cancelled."""
        every_s = self._settings.timing.heartbeat_every_ms / 1000
        while True:
            renewed = clock.monotonic() - self._renewed_at < every_s * 2
            await clock.sleep(every_s if renewed else every_s / 4)
            await self._renew(clock)

    async def _renew(self, clock: Clock, *, first: bool = False) -> bool:
        asked_at = clock.monotonic()
        try:
            held = await self._consumer.heartbeat(self._heartbeat_state(), first=first)
        except QueueUnavailableError as error:
            self.away = error
            self._reaper.forget()
            return False
        self.away = None
        # Counted from the request: the server may have renewed the lease at any moment since. The lease may have
        # lapsed even if the server says that it held: the reply to an earlier heartbeat that took it again may be lost.
        gap_s = clock.monotonic() - self._renewed_at
        self._renewed_at = asked_at
        if not held or (gap_s >= self._settings.timing.heartbeat_ttl_ms / 1000 and not first):
            self._lapsed_at = clock.monotonic()
            get_logger().warning("lease_lapsed", channel=self._consumer.partition.name)
            self._reaper.forget()
        return True

    async def run_checks(self, clock: Clock) -> None:
        """Reap and watch until cancelled; raises StuckError."""
        timing = self._settings.timing
        next_watch = clock.monotonic() + timing.watch_every_ms / 1000
        while True:
            await clock.sleep(timing.check_every_ms / 1000)
            if self.take_over is not None:
                await self._guarded("take over", self._take_over)
            await self._guarded("reap", self._reap)
            if clock.monotonic() >= next_watch:
                next_watch = clock.monotonic() + timing.watch_every_ms / 1000
                await self._guarded("watch", self._watch)
            self._check_stuck(clock)

    async def _guarded(self, task: str, check: Callable[[], Awaitable[None]]) -> None:
        try:
            await check()
        except QueueUnavailableError:
            self._reaper.forget()
        except Exception as error:
            self.on_error(task, error)

    async def _take_over(self) -> None:
        """Take over by journals; another partition that is away is no reason to forget what is missing in this one."""
        if self.take_over is not None:
            with suppress(QueueUnavailableError):
                await self.take_over()

    async def _reap(self) -> None:
        for taken in await self._reaper.reap_dead():
            get_logger().warning(
                "sender_reaped",
                channel=self._consumer.partition.name,
                sender=taken.sender_id,
                given_back=taken.from_buffer,
                uncertain=taken.in_flight,
            )
        self._consumer.fit_events(self._reaper.maxmemory)

    async def _watch(self) -> None:
        for lease in await self._consumer.load(self._holdings.unknown(await self._consumer.list_held("buf"))):
            self._holdings.buffer(lease)
        unheld = self._holdings.unknown(await self._consumer.list_held("tx"))
        if self._consumer.unanswered is not None:
            unheld = []  # they may be jobs that this call has begun
        twice = [entry for entry in unheld if entry.key in self._orphans]
        self._orphans = {entry.key for entry in unheld}
        if twice:
            await self._hand_back(twice)

    async def _hand_back(self, entries: list[HeldEntry]) -> None:
        in_flight = await self._reaper.give_up(entries)
        get_logger().error("entries_without_task", channel=self._consumer.partition.name, uncertain=in_flight)

    def _check_stuck(self, clock: Clock) -> None:
        stuck_after_s = self._settings.stuck_after_s
        now = clock.monotonic()
        stuck = [one for one in self._holdings.in_flight.values() if now - one.taken_at > stuck_after_s]
        if stuck:
            raise StuckError(f"{len(stuck)} sends have lasted for more than {stuck_after_s:g} s")
