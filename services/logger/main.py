"""The logger's process: connects Redis, the database, the recorder and HTTP, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from services.logger.app import Access, Logger, build_app
from services.logger.blast_views import RecentEnds
from services.logger.expiry import Expiry
from services.logger.metrics import LoggerMetrics
from services.logger.recorder import Recorder
from services.logger.redelivery import Outbox
from services.logger.retention import Retention
from services.logger.settings import LoggerSettings, read_settings
from services.logger.store import Store
from services.logger.suppression_outbox import SuppressionOutbox
from services.logger.upkeep import Upkeep
from services.logger.watch import Watch
from services.logger.webhooks.endpoints import KEEP_SECRET_MS
from services.logger.webhooks.feeder import Feeder
from services.logger.webhooks.results import FAILS_FOR_MS
from services.logger.webhooks.routes import Webhooks
from services.logger.webhooks.sync import EndpointSync
from services.logger.writing import EventWriter, Written
from shared.clock import SystemClock
from shared.lifecycle import Stop, TaskGroup, end_tasks, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.batches import boot_name
from shared.queue.blasts import BlastStore
from shared.queue.connection import Connection, connect
from shared.queue.control import Control
from shared.queue.event_log import EventLog
from shared.queue.producer import Producer
from shared.queue.suppressions import Suppressions
from shared.queue.system_log import SystemLog
from shared.queue.timing import Timing
from shared.queue.webhook_queues import WebhookQueues
from shared.redis_safety import RedisSafety
from shared.sealing import Seal
from shared.web import Health, serving

log = get_logger()


def run() -> NoReturn:
    """Run the logger until it is asked to stop, then exit the process."""
    run_service("logger", lambda stop: main(os.environ, stop))


async def main(env: Mapping[str, str], stop: Stop) -> None:
    """Run the logger until `stop` is set; raises SettingsError if the environment is not usable."""
    settings = read_settings(env)
    name = boot_name("logger", socket.gethostname())
    redis = connect(settings.common.redis_url)
    # reading events blocks, so it uses its own connections
    reading = connect(settings.common.redis_url, max_connections=2)
    system_log = SystemLog(Producer(redis, f"{name}/system"))
    configure_logging("logger", settings.common, system_log.ship)
    store = Store(settings.database, settings.readers)
    await store.open()
    try:
        timing = Timing.scaled(settings.common.time_scale)
        blasts = BlastStore(redis, name, timing)
        events, lag = EventLog(reading), EventLog(redis)
        parts = _Parts(
            settings=settings,
            store=store,
            events=events,
            watch=Watch(Control(redis, name, timing), lag, store, settings.common.log_dir),
            outbox=Outbox(store, Producer(redis, name, timing=timing), blasts),
            suppressing=SuppressionOutbox(store, Suppressions(redis)),
            expiry=Expiry(blasts, store, timing),
            webhooks=_webhooks(settings, store, WebhookQueues(redis, name, timing), (events, lag)),
            system_log=system_log,
            redis=redis,
        )
        await _serve(parts, stop)
    finally:
        await reading.aclose()
        await redis.aclose()
        await store.close()
    log.info("logger stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the service."""

    settings: LoggerSettings
    store: Store
    events: EventLog
    watch: Watch
    outbox: Outbox
    suppressing: SuppressionOutbox
    expiry: Expiry
    webhooks: Webhooks
    system_log: SystemLog
    redis: Connection


def _webhooks(settings: LoggerSettings, store: Store, queues: WebhookQueues, readers: Sequence[EventLog]) -> Webhooks:
    """Make the parts that deliver events to clients; the readers follow their endpoints."""
    scale = settings.common.time_scale

    def follow(numbers: Iterable[int]) -> None:
        followed = list(numbers)
        for reader in readers:
            reader.follow(followed)

    feeder = Feeder(store, queues, recipients=settings.webhook_recipients)
    sync = EndpointSync(store, queues, follow, feeder.wake)
    seal = Seal(settings.internal_secret)
    return Webhooks(store, sync, feeder, seal, SystemClock(), round(KEEP_SECRET_MS * scale))


async def _serve(parts: _Parts, stop: Stop) -> None:
    health, recent_ends, clock = Health("logger"), RecentEnds(), SystemClock()
    common = parts.settings.common

    def on_written(written: Written) -> None:
        recent_ends.note(written.ended_jobs)
        parts.expiry.ended(written.ended_blasts)
        metrics.receipts(written.delays)
        if written.suppressions:
            parts.suppressing.wake()
        if written.webhooks:
            parts.webhooks.feeder.wake()
        if written.endpoints:
            parts.webhooks.sync.wake()

    recorder = Recorder(parts.events, parts.store, health, on_written, common.grace_s / 2)
    recorder.writer = EventWriter(fails_for_ms=round(FAILS_FOR_MS * common.time_scale))
    retention = Retention(parts.store, parts.settings.retention_days, recorder.writer.forget)
    metrics = LoggerMetrics(lambda: parts.watch.last, recorder.state)
    safety = RedisSafety(parts.redis, health, common.time_scale)
    metrics.registry.register(safety)
    loopback = common.host in {"127.0.0.1", "::1", "localhost"}
    access = Access(parts.settings.internal_secret, parts.settings.backup_places, loopback)
    logger = Logger(
        store=parts.store,
        watch=parts.watch,
        outbox=parts.outbox,
        recent_ends=recent_ends,
        clock=clock,
        access=access,
        webhooks=parts.webhooks,
        region=parts.settings.region,
    )
    await parts.watch.try_sample()
    async with serving(build_app(logger, health, metrics.exposition), common.host, common.port) as port:
        log.info("logger started", port=port, database=str(parts.settings.database))
        async with TaskGroup() as tasks:
            shipping = tasks.create_task(parts.system_log.run())
            async with TaskGroup() as working:
                working.create_task(recorder.run(stop))
                working.create_task(parts.outbox.run(stop))
                working.create_task(parts.suppressing.run(stop))
                working.create_task(parts.expiry.run(stop))
                working.create_task(parts.webhooks.sync.run(stop))
                working.create_task(_feed(parts.webhooks, stop))
                working.create_task(parts.watch.run(stop))
                working.create_task(safety.run(stop))
                working.create_task(Upkeep(parts.store, retention, health).run(stop))
            await end_tasks([shipping])


async def _feed(webhooks: Webhooks, stop: Stop) -> None:
    """Feed webhooks once it is known whose numbers Redis has."""
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(webhooks.sync.met.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await webhooks.feeder.run(stop)
