"""The watch: samples queues, Redis, database and log files in the background, for metrics and the dashboard.

A scrape and the dashboard read the latest sample, so neither waits for Redis or the disk.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.logger.database import Database
from services.logger.machine import Machine, MachineSample
from services.logger.store import QueryTooSlowError, StorageError, Store
from services.logger.webhooks.counting import WebhookSample, sample_webhooks
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.control import ChannelStats, Control, ServerMemory
from shared.queue.event_log import EventLog

log = get_logger()
_EVERY_S = 2.0
_NO_MEMORY = ServerMemory(0, 0)
_NO_MACHINE = MachineSample()
_NO_WEBHOOKS = WebhookSample()
Counts = dict[tuple[str, str], int]
# by channel, source and kind
ReceiptCounts = dict[tuple[str, str, str], int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample; `queues` is empty and `redis_up` is False while Redis is away."""

    at_ms: int = 0
    redis_up: bool = False
    queues: dict[str, ChannelStats] = field(default_factory=dict)
    memory: ServerMemory = _NO_MEMORY
    events_lag: int = 0
    totals: Counts = field(default_factory=dict)
    rows: Counts = field(default_factory=dict)
    receipts: ReceiptCounts = field(default_factory=dict)
    early: Counts = field(default_factory=dict)
    webhooks: WebhookSample = _NO_WEBHOOKS
    database_bytes: int = 0
    log_bytes: int = 0
    machine: MachineSample = _NO_MACHINE


class Watch:
    """Keeps `last`, the latest sample, up to date."""

    def __init__(
        self, control: Control, events: EventLog, store: Store, log_dir: Path | None, clock: Clock | None = None
    ) -> None:
        self.last = Sample()
        self._control = control
        self._events = events
        self._store = store
        self._log_dir = log_dir
        self._machine = Machine()
        self._clock = clock or SystemClock()

    async def run(self, stop: Stop) -> None:
        """Take a sample every two seconds until stopped."""
        while not stop.is_set():
            await self.try_sample()
            try:
                await asyncio.wait_for(stop.wait(), _EVERY_S)
            except TimeoutError:
                continue

    async def try_sample(self) -> None:
        """Take a sample; log any error, since a failed sample must not end the service."""
        try:
            await self.sample()
        except Exception:
            log.exception("measuring the pipeline failed")

    async def sample(self) -> Sample:
        """Take one sample of everything and return it."""
        kept = await self._counts()
        # the totals first: Prometheus would take a counter that starts at 0 and then rises for a jump
        self.last = kept
        queues: dict[str, ChannelStats] = {}
        memory, lag, up = _NO_MEMORY, self.last.events_lag, False
        try:
            queues = await self._control.stats()
            memory = await self._control.server_memory()
            lag = await self._events.lag()
            up = True
        except QueueUnavailableError as error:
            log.debug("redis unavailable", reason=str(error))
        self.last = replace(
            kept,
            at_ms=self._clock.now_ms(),
            redis_up=up,
            queues=queues,
            memory=memory,
            events_lag=lag,
            database_bytes=self._store.size_bytes(),
            machine=self._machine.sample(),
            log_bytes=await asyncio.to_thread(_size_of, self._log_dir) if self._log_dir is not None else 0,
        )
        return self.last

    async def _counts(self) -> Sample:
        """Return the previous sample with the counts of the database, if it can be read."""
        last = self.last
        try:
            now_ms = self._clock.now_ms()
            return await self._store.read(lambda connection: _with_counts(connection, last, now_ms))
        except (StorageError, QueryTooSlowError) as error:
            log.debug("reading counts failed", reason=str(error))
            return last


def _with_counts(connection: Database, sample: Sample, now_ms: int) -> Sample:
    totals = connection.execute("SELECT channel, status, n FROM message_totals")
    rows = connection.execute("SELECT channel, status, n FROM message_counts")
    receipts = connection.execute("SELECT channel, source, kind, n FROM receipt_totals")
    early = connection.execute("SELECT channel, state, n FROM early_counts")
    return replace(
        sample,
        totals={(channel, status): n for channel, status, n in totals},
        rows={(channel, status): n for channel, status, n in rows},
        receipts={(channel, source, kind): n for channel, source, kind, n in receipts},
        early={(channel, state): n for channel, state, n in early},
        webhooks=sample_webhooks(connection, now_ms),
    )


def _size_of(folder: Path) -> int:
    """Return the total size in bytes of a folder's files, rotated ones included."""
    total = 0
    try:
        for path in folder.iterdir():
            total += path.stat().st_size if path.is_file() else 0
    except OSError as error:
        log.debug("measuring log files failed", reason=str(error))
    return total
