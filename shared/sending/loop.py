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
from shared.channels import CHANNELS
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError, StopBlastError, StopChannelError
from shared.jobs import Job
from shared.lifecycle import Stop, TaskGroup, end_tasks
from shared.logs import get_logger
from shared.queue.blasts import BlastStore
from shared.queue.client import QueueRedis
from shared.queue.connection import Connection
from shared.queue.consumer import BeginPolicy, Consumer
from shared.queue.control import LOG_BEHIND, Control, gap_us, rate_text
from shared.queue.copies import Copies
from shared.queue.files import FileStore
from shared.queue.leases import Lease
from shared.queue.partitions import Partition, partition_at, partitions
from shared.queue.refusals import Refusals
from shared.queue.suppressions import Suppressions
from shared.retry import RetryPolicy
from shared.sealing import Seal, SealError
from shared.sending.caches import FileCache, SnapshotCache
from shared.sending.dispatcher import Dispatcher
from shared.sending.gates import Gates
from shared.sending.holdings import Holdings
from shared.sending.journal import Journal, Owner
from shared.sending.keeper import StuckError
from shared.sending.outcomes import OutcomePolicy, untouched
from shared.sending.parts import SendObserver, WorkerParts
from shared.sending.provider import ChainingProvider, MessageT, PreparingProvider, Provider
from shared.sending.settings import REPEAT, SendingSettings
from shared.sending.shares import RETRY_S, Shares
from shared.sending.takeover import Takeover
from shared.sending.verdicts import Verdicts, patience_s, suppression_reason
from shared.sending.worker import Worker, conclude
from shared.suppressions import HARD_BOUNCE, Source, Suppression, scope_of

_LONGEST_WORDS = 1000
_BLASTS_A_CHECK = 16
_HELD_REFUSALS = 500
_NODE_PATIENCE_S = 1.0

Report = Callable[[str, str | None], None]


def _snapshots(redis: Connection, channel: str, settings: SendingSettings) -> SnapshotCache:
    # a snapshot may be on another node than its jobs: that must not occupy every worker
    limited = _is_clustered(redis) and channel in CHANNELS
    blasts = BlastStore(redis, settings.sender_id, settings.timing)
    return SnapshotCache(blasts, patience_s=_NODE_PATIENCE_S if limited else None)


def _is_clustered(redis: Connection) -> bool:
    return isinstance(redis, QueueRedis) and redis.clustered


def _report_nothing(_part: str, _reason: str | None) -> None:
    return


class SendingLoop(Generic[MessageT]):
    """One sender of a channel, or of one partition of it.

    It calls `report` with a part and the reason it does not work, or None if it does.
    """

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
        self._redis = redis
        self._seal = Seal(settings.internal_secret)
        self._control = Control(redis, settings.sender_id, settings.timing)
        self._suppressions = Suppressions(redis)
        # checked once: a check against a protocol takes microseconds
        self._preparing = provider if isinstance(provider, PreparingProvider) and provider.prepares else None
        self._partitions = _partitions(redis, provider.channel, settings.partition)
        self._partition = self._partitions[0]
        self._copies = Copies(redis, provider.channel, settings.sender_id, settings.timing)
        self._holdings = Holdings(
            on_remove=self._forget if self._preparing is not None else None, journal=self._open_journal()
        )
        policy = _begin_policy(settings)
        self._shares = Shares(self._partitions, settings, policy, self._holdings, self._heartbeat_state)
        self._consumer, self._settler = self._shares.consumer, self._shares.settler
        self._snapshots = _snapshots(redis, provider.channel, settings)
        if isinstance(self._consumer, Consumer) and not _is_clustered(redis):
            self._consumer.keep_snapshot = self._snapshots.keep
        announces = isinstance(provider, ChainingProvider) and provider.announces
        gates = Gates(
            self.lease_fresh, provider.available, provider.capacity, self.stop_channel, self._prepare, announces
        )
        self._dispatcher = Dispatcher(self._consumer, self._holdings, self._settler, settings, gates)
        self._shares.attach(self._clock, self._dispatcher.wake, self._report_error)
        self._shares.each[0].keeper.take_over = self._takeover()
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
            shares=self._shares,
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
            if self._holdings.journal is not None:
                self._holdings.journal.close(keep=bool(self._holdings.in_flight))

    def _open_journal(self) -> Journal | None:
        """Open the journal of hand-overs; None if there is to be none, or none can be written."""
        settings = self._settings
        if settings.journal_dir is None:
            return None
        owner = Owner(settings.sender_id, self._partition.keys.tag)
        try:
            # more than the window: jobs whose refusal is held do not count against it
            return Journal(settings.journal_dir, owner, settings.concurrency * settings.window + _HELD_REFUSALS)
        except OSError as error:
            get_logger().warning("no_journal", folder=str(settings.journal_dir), reason=str(error))
            return None

    def _takeover(self) -> Callable[[], Awaitable[None]] | None:
        settings = self._settings
        if settings.journal_dir is None or settings.on_uncertain == REPEAT:
            return None
        # one keeper is enough for all partitions
        return Takeover(settings.journal_dir, [share.reaper for share in self._shares.each], self._clock).take_over

    def _prepare(self, leases: Sequence[Lease]) -> None:
        """Load the snapshots of upcoming jobs; let the provider prepare the jobs whose snapshots are loaded."""
        for blast_id in dict.fromkeys([lease.job.blast_id for lease in leases]):
            if self._snapshots.kept(blast_id) is None:
                self._snapshots.expect(blast_id)
        if self._preparing is None:
            return
        jobs: list[tuple[Job, Blast]] = []
        for job in [lease.job for lease in leases]:
            blast = self._snapshots.kept(job.blast_id)
            if blast is not None and not job.recipient.files:
                try:  # for each job: with `suppress` it would take twice as long
                    jobs.append((self._seal.opened_job(job), self._seal.opened_blast(blast)))
                except SealError:
                    continue  # the job's own attempt will fail the same way and report it
        if jobs:
            self._preparing.work_ahead(jobs)

    def _forget(self, lease: Lease) -> None:
        if self._preparing is not None:
            self._preparing.forget(lease.job)

    async def _take_lease(self, stop: Stop) -> None:
        """Take the lease; retry for as long as Redis is away."""
        logged = ""
        while not stop.is_set():
            away = await self._shares.take_leases(self._clock, self._prepare_partition)
            self._report("redis", away.why if away else None)
            if away is None:
                return
            if away.why != logged:
                logged = away.why
                get_logger().warning("redis_unavailable", reason=str(away))
            await self._clock.sleep(RETRY_S)

    async def _prepare_partition(self, partition: Partition) -> None:
        """Bring the suppressions and the pause of a partition to the state that `begin` needs."""
        await self._suppressions.rekey(partition)
        if len(self._partitions) > 1:
            await self._copies.correct(partition)

    async def _work(self, stop: Stop) -> None:
        workers: list[asyncio.Task[None]] = []
        async with TaskGroup() as group:
            background = [
                *self._shares.start(group, self._clock, self._supervise),
                group.create_task(self._supervise("health", self._report_health)),
                group.create_task(self._supervise("verdicts", partial(self._verdicts.run, self._conclude))),
            ]
            if len(self._partitions) > 1:
                background.append(group.create_task(self._supervise("copies", self._check_copies)))
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
        await self._shares.close()
        while not self._holdings.ready.empty():
            begun = self._holdings.ready.get_nowait()
            move = untouched(begun.lease, self._clock.now_ms(), "its sender stopped")
            self._settler.add(move)
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

    async def _check_copies(self) -> None:
        """Correct copies of the pause, the rate, suppressions, and the state of blasts whose jobs are held here."""
        copies = self._copies
        while True:
            await self._clock.sleep(self._settings.timing.check_every_ms / 1000)
            # each by itself: what one of them cannot reach now must not keep the others from what they can
            with suppress(QueueUnavailableError):
                await copies.check_pause()
            with suppress(QueueUnavailableError):
                await copies.check_rate()
            with suppress(QueueUnavailableError):
                if await copies.suppressions_differ():
                    await copies.check_suppressions()
            for blast_id in self._holdings.some_blasts(_BLASTS_A_CHECK):
                if (blast := self._snapshots.kept(blast_id)) is not None and blast.parts:
                    with suppress(QueueUnavailableError):
                        await copies.check_blast(blast)

    async def _report_health(self) -> None:
        while True:
            gates = self._dispatcher.gates
            self._report("redis", gates.redis_away or None)
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
        """Return whether the lease was renewed recently enough to begin jobs, in any partition."""
        return self._shares.lease_fresh(self._clock.monotonic())

    async def stop_channel(self, error: StopChannelError) -> None:
        """Pause the channel, or the one partition of it that this loop serves, with the provider's reason."""
        get_logger().error("channel_stopped", channel=self._partition.name, code=error.code)
        reason = f"{error.message} {error.reply}".strip()
        await self._until_answered(lambda: self._control.pause_partitions(self._partitions, reason))

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


def _partitions(redis: Connection, channel: str, index: int) -> tuple[Partition, ...]:
    """Return the partitions that one loop serves: all of a channel to recipients, one of any other."""
    return partitions(redis, channel) if channel in CHANNELS else (partition_at(redis, channel, index),)


def _begin_policy(settings: SendingSettings) -> BeginPolicy:
    return BeginPolicy(
        gap_us(settings.rate),
        settings.rate.count if settings.rate else 1,
        settings.on_uncertain,
        settings.concurrency * settings.window,
    )


def _retry_policy(settings: SendingSettings) -> RetryPolicy:
    return RetryPolicy(
        settings.max_attempts, settings.time_scale, settings.give_up_after_s, settings.waits_s, settings.jitter
    )
