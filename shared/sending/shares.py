"""A sender's shares: what it has in each partition of its channel's queue.

In each partition a sender has a lease with a heartbeat, a settler, housekeeping, and a wait for wake-ups. Everything
else (the buffer, the jobs in flight, the workers, the provider) belongs to the sender as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from shared.clock import Clock
from shared.errors import QueueUnavailableError
from shared.lifecycle import TaskGroup
from shared.queue.consumer import BeginPolicy, Consumer, WakeUps
from shared.queue.consumers import Consumers
from shared.queue.leases import Lease, Move
from shared.queue.partitions import Partition
from shared.queue.reaper import Reaper
from shared.sending.holdings import BegunJob, Holdings
from shared.sending.keeper import Keeper
from shared.sending.settings import SendingSettings
from shared.sending.settler import Settler

WAKE_UP_BLOCK_MS = 1000
RETRY_S = 0.5

Prepare = Callable[[Partition], Awaitable[None]]
Supervise = Callable[[str, Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]]
"""Runs a housekeeping task by its name, and restarts it after errors."""


@dataclass(slots=True)
class Share:
    """A sender's part in one partition; `joined` is whether it has had the lease there, `away` why it has not."""

    consumer: Consumer
    settler: Settler
    reaper: Reaper
    keeper: Keeper
    wake_ups: WakeUps
    joined: bool = False
    away: QueueUnavailableError | None = None

    def lease_fresh(self, clock: Clock) -> bool:
        """Return whether the lease was renewed recently enough to begin jobs."""
        return self.keeper.is_fresh(clock.monotonic())


class Shares:
    """A sender's shares, one for each partition."""

    def __init__(
        self,
        partitions: Sequence[Partition],
        settings: SendingSettings,
        policy: BeginPolicy,
        holdings: Holdings,
        heartbeat_state: Callable[[], dict[str, object]],
    ) -> None:
        self.each = [_share(one, settings, policy, holdings, heartbeat_state) for one in partitions]
        for share in self.each if len(self.each) > 1 else ():
            share.settler.one_of_several = True
        self._several = Consumers([one.consumer for one in self.each]) if len(self.each) > 1 else None
        self.consumer: Consumer | Consumers = self._several or self.each[0].consumer
        self.settler: Settler | Settlers = Settlers(self) if self._several else self.each[0].settler
        self._wake_sender: Callable[[], None] = lambda: None
        self._join: Callable[[Share], Awaitable[None]]

    def of(self, lease: Lease) -> Share:
        """Return the share in the partition of a job."""
        return self.each[self._several.place_of(lease)] if self._several else self.each[0]

    def attach(self, clock: Clock, wake: Callable[[], None], on_error: Callable[[str, Exception], None]) -> None:
        """Call `wake` when there may be work, and `on_error` after an error of a keeper.

        Fetch from a partition only while the lease there is fresh.
        """
        self._wake_sender = wake
        if self._several is not None:
            self._several.on_late_answer = wake
        for place, share in enumerate(self.each):
            share.keeper.on_error = on_error
            if self._several is not None:
                self._several.watch_lease(place, partial(share.lease_fresh, clock))

    def lease_fresh(self, now: float) -> bool:
        """Return whether the lease is fresh in any partition, at this moment on the monotonic clock."""
        if self._several is None:
            return self.each[0].keeper.is_fresh(now)
        return any(one.keeper.is_fresh(now) for one in self.each)

    def lease_held(self, begun: BegunJob, now: float) -> bool:
        """Return whether a begun job may still be sent, at this moment on the monotonic clock.

        The lease in the job's partition must be fresh, and must have held since the job was asked for.
        """
        share = self.each[0] if self._several is None else self.of(begun.lease)
        return share.keeper.holds(begun.asked_at, now)

    async def take_leases(self, clock: Clock, prepare: Prepare) -> QueueUnavailableError | None:
        """Take the lease in every partition, once that is prepared; return why Redis does not serve, None if it does.

        A partition that is away while others are not is joined once it answers.
        """
        self._join = partial(_join, clock, prepare)
        await asyncio.gather(*(self._join(share) for share in self.each))
        away = [share.away for share in self.each if not share.joined]
        return away[0] if len(away) == len(self.each) else None

    async def close(self) -> None:
        """End the calls that partitions have not answered."""
        if self._several is not None:
            await self._several.close()

    def start(self, group: TaskGroup, clock: Clock, supervise: Supervise) -> list[asyncio.Task[None]]:
        """Start the tasks of every partition: the settler, the heartbeat, the checks, and the wait for wake-ups."""
        tasks: list[asyncio.Task[None]] = []
        for place, share in enumerate(self.each):
            tasks.append(group.create_task(share.settler.run()))
            housekeeping = {
                "bell": partial(self._wait_for_work, place, share, clock),  # the metric's name for it
                "heartbeat": partial(self._run_heartbeat, share, clock),
                "keeper": partial(share.keeper.run_checks, clock),
            }
            tasks += [group.create_task(supervise(name, run)) for name, run in housekeeping.items()]
        return tasks

    async def _run_heartbeat(self, share: Share, clock: Clock) -> None:
        while not share.joined:
            await clock.sleep(RETRY_S)
            await self._join(share)
        await share.keeper.run_heartbeat(clock)

    async def _wait_for_work(self, place: int, share: Share, clock: Clock) -> None:
        """Wait for wake-ups. A lost connection counts as one, since one may have been missed."""
        while True:
            try:
                woken = await share.wake_ups.wait(WAKE_UP_BLOCK_MS)
            except QueueUnavailableError:
                self._wake(place)
                await clock.sleep(RETRY_S)
                continue
            if woken:
                self._wake(place)
                await asyncio.sleep(0)  # the fetch is sent first, then the next wait

    def _wake(self, place: int) -> None:
        if self._several is not None:
            self._several.wake(place)
        self._wake_sender()


class Settlers:
    """Passes each move to the settler of its partition, so that one that is away holds up no other."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares

    def add(self, move: Move) -> None:
        """Add a move; it is carried out after the call under way in its partition."""
        self._shares.of(move.lease).settler.add(move)

    async def drained(self) -> None:
        """Wait until no added move is waiting in any partition; those set aside after an error do not count."""
        await asyncio.gather(*(one.settler.drained() for one in self._shares.each))


async def _join(clock: Clock, prepare: Prepare, share: Share) -> None:
    """Take the lease in a partition, unless that is away."""
    try:
        await prepare(share.consumer.partition)
        share.joined = await share.keeper.first_heartbeat(clock)
        share.away = share.keeper.away
    except QueueUnavailableError as error:
        share.away = error


def _share(
    partition: Partition,
    settings: SendingSettings,
    policy: BeginPolicy,
    holdings: Holdings,
    heartbeat_state: Callable[[], dict[str, object]],
) -> Share:
    consumer = Consumer(partition, settings.sender_id, settings.timing, policy)
    reaper = Reaper(partition, settings.sender_id, settings.timing)
    keeper = Keeper(consumer, reaper, holdings, settings, heartbeat_state)
    return Share(consumer, Settler(consumer, holdings), reaper, keeper, WakeUps(partition))
