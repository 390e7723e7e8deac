"""The sending loop of one sender: its tasks, its lease, and how it starts and stops.

The package's docstring lists the tasks.

On stop, the sender fetches nothing more, gives back its buffer, finishes the jobs in flight within the grace time,
settles their outcomes, and leaves the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic

from shared.blasts import Blast
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError, StopBlastError, StopChannelError
from shared.jobs import Job
from shared.lifecycle import Stop, TaskGroup, end_tasks
from shared.logs import get_logger
from shared.queue.blasts import BlastStore
from shared.queue.connection import Connection
from shared.queue.consumer import BeginPolicy, Consumer, WakeUps
from shared.queue.control import LOG_BEHIND, Control, gap_us, rate_text
from shared.queue.files import FileStore
from shared.queue.leases import Lease
from shared.queue.partitions import partition_at
from shared.queue.reaper import Reaper
from shared.queue.refusals import Refusals
from shared.queue.suppressions import Suppressions
from shared.retry import RetryPolicy
from shared.sealing import Seal, SealError
from shared.sending.caches import FileCache, SnapshotCache
from shared.sending.dispatcher import Dispatcher, Gates
from shared.sending.holdings import Holdings
from shared.sending.keeper import Keeper, StuckError
from shared.sending.outcomes import OutcomePolicy, untouched
from shared.sending.provider import ChainingProvider, MessageT, PreparingProvider, Provider
from shared.sending.settings import SendingSettings
from shared.sending.settler import Settlement, Settler
from shared.sending.verdicts import Verdicts, patience_s, suppression_reason
from shared.sending.worker import SendObserver, Worker, WorkerParts, conclude
from shared.suppressions import HARD_BOUNCE, Source, Suppression, scope_of

WAKE_UP_BLOCK_MS = 1000
RETRY_S = 0.5
_LONGEST_WORDS = 1000

Report = Callable[[str, str | None], None]


def _report_nothing(_part: str, _reason: str | None) -> None:
    return


class SendingLoop(Generic[MessageT]):
    """One sender of a partition; it calls `report` with a part and the reason it does not work, or None if it does."""

    def __init__(
        self,
        redis: Connection,
        provider: Provider[MessageT],
        settings: SendingSettings,
        observer: SendObserver,
        report: Report = _report_nothing,
    ) -> None:
        self._clock: Clock = SystemClock()
        self._provider = provider
        self._settings = settings
        self._seal = Seal(settings.internal_secret)
        self._control = Control(redis, settings.sender_id, settings.timing)
        self._suppressions = Suppressions(redis)
        # checked once: a check against a protocol takes microseconds
        self._preparing = provider if isinstance(provider, PreparingProvider) else None
        self._holdings = Holdings(on_remove=self._forget if self._preparing is not None else None)
        policy = BeginPolicy(
            gap_us(settings.rate),
            settings.rate.count if settings.rate else 1,
            settings.on_uncertain,
            settings.concurrency * settings.window,
        )
        self._partition = partition_at(redis, provider.channel, settings.partition)
        self._consumer = Consumer(self._partition, settings.sender_id, settings.timing, policy)
        self._settler = Settler(self._consumer, self._holdings)
        self._wake_ups = WakeUps(self._partition)
        self._snapshots = SnapshotCache(BlastStore(redis, settings.sender_id, settings.timing))
        chains = isinstance(provider, ChainingProvider)
        gates = Gates(
            self.lease_fresh, provider.available, provider.capacity, self.stop_channel, self._prepare, chains=chains
        )
        self._dispatcher = Dispatcher(self._consumer, self._holdings, self._settler, settings, gates)
        reaper = Reaper(self._partition, settings.sender_id, settings.timing)
        self._keeper = Keeper(self._consumer, reaper, self._holdings, settings, self._heartbeat_state)
        self._keeper.on_error = self._report_error
        self._report = report
        refusals = Refusals(self._partition, settings.sender_id)
        self._verdicts = Verdicts(refusals, self._holdings, self._clock, patience_s(settings))
        self._parts = WorkerParts(
            provider=provider,
            snapshots=self._snapshots,
            files=FileCache(FileStore(redis)),
            settler=self._settler,
            holdings=self._holdings,
            policy=OutcomePolicy(
                _retry_policy(settings),
                settings.on_uncertain,
                settings.timing.park_ms,
                settings.dead_letters,
            ),
            observer=observer,
            consequences=self,
            clock=self._clock,
            verdicts=self._verdicts,
            seal=self._seal,
        )
        self._conclude = partial(conclude, self._parts)
        self._failures_in_a_row = 0

    async def run(self, stop: Stop) -> None:
        """Send until `stop`, then drain within the grace time."""
        await self._provider.open(self._holdings.wake.set)
        try:
            await self._take_lease(stop)
            if not stop.is_set():
                await self._work(stop)
        finally:
            await self._snapshots.close()
            await self._provider.close()

    def _prepare(self, leases: Sequence[Lease]) -> None:
        """Load the snapshots of upcoming jobs; let the provider prepare the jobs whose snapshots are loaded."""
        jobs: list[tuple[Job, Blast]] = []
        for lease in leases:
            job = lease.job
            blast = self._snapshots.kept(job.blast_id)
            if blast is None:
                self._snapshots.expect(job.blast_id)
            elif self._preparing is not None and not job.recipient.files:
                with suppress(SealError):  # the job's own attempt will fail the same way and report it
                    jobs.append((self._seal.opened_job(job), self._seal.opened_blast(blast)))
        if jobs and self._preparing is not None:
            self._preparing.work_ahead(jobs)

    def _forget(self, lease: Lease) -> None:
        if self._preparing is not None:
            self._preparing.forget(lease.job)

    async def _take_lease(self, stop: Stop) -> None:
        """Take the lease; retry for as long as Redis is away."""
        while not stop.is_set():
            if await self._convert_suppressions() and await self._keeper.first_heartbeat(self._clock):
                self._report("redis", None)
                return
            self._report("redis", "cannot be reached")
            await self._clock.sleep(RETRY_S)

    async def _convert_suppressions(self) -> bool:
        """Convert suppressions to the form that `begin` reads; False if Redis is away."""
        try:
            await self._suppressions.rekey(self._partition)
        except QueueUnavailableError:
            return False
        return True

    async def _work(self, stop: Stop) -> None:
        workers: list[asyncio.Task[None]] = []
        async with TaskGroup() as group:
            background = [
                group.create_task(self._settler.run()),
                group.create_task(self._supervise("bell", self._wait_for_work)),  # the metric's name for it
                group.create_task(self._supervise("heartbeat", partial(self._keeper.run_heartbeat, self._clock))),
                group.create_task(self._supervise("keeper", partial(self._keeper.run_checks, self._clock))),
                group.create_task(self._supervise("health", self._report_health)),
                group.create_task(self._supervise("verdicts", partial(self._verdicts.run, self._conclude))),
            ]
            workers += [group.create_task(Worker(self._parts).run()) for _ in range(self._settings.concurrency)]
            dispatching = group.create_task(self._dispatcher.run(self._clock, stop.is_set))
            await stop.wait()
            self._holdings.wake.set()
            await self._drain(dispatching, workers)
            await end_tasks(background)
        await self._leave()

    async def _supervise(self, task: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a housekeeping task until cancelled; restart it after errors. Only StuckError ends the sender."""
        while True:
            try:
                return await run()
            except StuckError:
                raise
            except Exception as error:
                self._report_error(task, error)
            await self._clock.sleep(RETRY_S)

    def _report_error(self, task: str, error: Exception) -> None:
        self._parts.observer.housekeeping_failed(self._provider.channel, task)
        get_logger().error("housekeeping_error", channel=self._partition.name, task=task, exc_info=error)

    async def _drain(self, dispatching: asyncio.Task[None], workers: list[asyncio.Task[None]]) -> None:
        log = get_logger()
        try:
            async with asyncio.timeout(self._settings.grace_s):
                await self._verdicts.close(self._conclude)
                await dispatching
                while self._holdings.in_flight:
                    self._holdings.wake.clear()
                    await self._holdings.wake.wait()
        except TimeoutError:
            log.warning("grace_time_exceeded", in_flight=len(self._holdings.in_flight))
        await end_tasks([dispatching, *workers])
        while not self._holdings.ready.empty():
            begun = self._holdings.ready.get_nowait()
            move = untouched(begun.lease, self._clock.now_ms(), "its sender stopped")
            self._settler.add(Settlement(move))
        try:
            async with asyncio.timeout(1.0):
                await self._settler.drained()
        except TimeoutError:
            log.warning("jobs_left_unsettled", in_flight=len(self._holdings.in_flight))

    async def _leave(self) -> None:
        try:
            left = await self._consumer.leave()
        except QueueUnavailableError as error:
            get_logger().warning("leave_failed", reason=str(error))
            return
        get_logger().info("sender_left", channel=self._partition.name, still_held=left)

    async def _wait_for_work(self) -> None:
        """Wait for wake-ups. A lost connection counts as one, since one may have been missed."""
        while True:
            try:
                if await self._wake_ups.wait(WAKE_UP_BLOCK_MS):
                    self._dispatcher.wake()
            except QueueUnavailableError:
                self._dispatcher.wake()
                await self._clock.sleep(RETRY_S)

    async def _report_health(self) -> None:
        while True:
            gates = self._dispatcher.gates
            self._report("redis", "cannot be reached" if gates.redis_away else None)
            self._report("provider", "no server can be reached" if gates.probing else None)
            self._report("lease", None if self.lease_fresh() else "not renewed in time")
            await self._clock.sleep(RETRY_S)

    def _heartbeat_state(self) -> dict[str, object]:
        gates = self._dispatcher.gates
        return {
            "host": self._settings.host,
            "concurrency": self._settings.concurrency,
            "available": not gates.probing,
            "reason": "provider unavailable" if gates.probing else LOG_BEHIND if gates.log_behind else "",
            "rate": rate_text(self._settings.rate),
        }

    def lease_fresh(self) -> bool:
        """Return whether the lease was renewed recently enough to begin jobs."""
        return self._keeper.renewed_within(self._clock, self._settings.timing.begin_within_ms / 1000)

    def lease_held_since(self, moment: float) -> bool:
        """Return whether a job granted at a moment may still be sent: the lease is fresh and has not lapsed since."""
        return self.lease_fresh() and self._keeper.held_since(moment)

    async def stop_channel(self, error: StopChannelError) -> None:
        """Pause this loop's partition of the channel with the provider's reason."""
        get_logger().error("channel_stopped", channel=self._partition.name, code=error.code)
        reason = f"{error.message} {error.reply}".strip()
        await self._until_answered(lambda: self._control.pause_partition(self._partition, reason))

    async def stop_blast(self, blast_id: str, error: StopBlastError) -> None:
        """Pause a blast with the provider's reason, such as a template that the provider rejects."""
        get_logger().error("blast_stopped", blast_id=blast_id, code=error.code)
        await self._until_answered(lambda: self._control.pause_blast(blast_id, error.reply or error.message))

    async def suppress(self, job: Job, reason: str, words: str) -> None:
        """Suppress a job's address: for all messages after a hard bounce, only for marketing after an opt-out."""
        written = suppression_reason(reason)
        source: Source = "bounce" if written.startswith(HARD_BOUNCE) else "opt_out"
        found = Suppression(
            scope_of(source), source, written, self._clock.now_ms(), job_id=job.job_id, words=words[:_LONGEST_WORDS]
        )
        await self._until_answered(lambda: self._suppressions.add(job.channel, job.recipient.address, found))

    def provider_failed(self) -> None:
        """Pause dispatching briefly, longer with each failure in a row, at most 2 s; the breakers do the rest."""
        self._failures_in_a_row += 1
        pause_s = min(0.1 * 2 ** min(self._failures_in_a_row - 1, 5), 2.0) * self._settings.time_scale
        self._dispatcher.gates.backoff_until = self._clock.monotonic() + pause_s

    def provider_worked(self) -> None:
        """Note that the provider works: stop probing and resume dispatching."""
        self._failures_in_a_row = 0
        if self._dispatcher.gates.probing:
            get_logger().info("provider_available", channel=self._partition.name)
            self._dispatcher.gates.probing = False
            self._dispatcher.wake()

    async def _until_answered(self, action: Callable[[], Awaitable[object]]) -> None:
        """Repeat an idempotent action until Redis answers it."""
        while True:
            try:
                await action()
            except QueueUnavailableError:
                await self._clock.sleep(RETRY_S)
                continue
            return


def _retry_policy(settings: SendingSettings) -> RetryPolicy:
    return RetryPolicy(
        settings.max_attempts, settings.time_scale, settings.give_up_after_s, settings.waits_s, settings.jitter
    )
