"""The logger's process: connects Redis, the database, the recorder and HTTP, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from services.logger.app import Access, Logger, build_app
from services.logger.expiry import Expiry
from services.logger.metrics import LoggerMetrics
from services.logger.recent_ends import RecentEnds, follow_ends
from services.logger.recorder import Pace, Recorder
from services.logger.redelivery import Outbox
from services.logger.retention import Retention
from services.logger.settings import LoggerSettings, read_settings
from services.logger.sqlite_store import SqliteStore
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
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop, TaskGroup, end_tasks, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.batches import boot_name
from shared.queue.blasts import BlastStore
from shared.queue.connection import Connection, connect
from shared.queue.control import Control
from shared.queue.event_log import CONSUMER, EventLog
from shared.queue.producer import Producer
from shared.queue.suppressions import Suppressions
from shared.queue.system_log import SystemLog
from shared.queue.timing import Timing
from shared.queue.webhook_queues import WebhookQueues
from shared.redis_safety import RedisSafety
from shared.sealing import Seal
from shared.settings import MOST_PARTITIONS
from shared.web import Health, serving

log = get_logger()


def run() -> NoReturn:
    """Run the logger until it is asked to stop, then exit the process."""
    run_service("logger", lambda stop: main(os.environ, stop))


async def main(env: Mapping[str, str], stop: Stop) -> None:
    """Run the logger until `stop` is set; raises SettingsError if the environment is not usable."""
    settings = read_settings(env)
    name = boot_name("logger", socket.gethostname())
    redis = connect(settings.common.redis_url, partitions=settings.common.partitions)
    redis.replicas = settings.common.replicas
    # reading events blocks, so it uses its own connections: on a cluster one for each stream, perhaps all on one node;
    # there may be streams of partitions that are no longer served
    reading = connect(
        settings.common.redis_url, max_connections=2 + 2 * MOST_PARTITIONS, partitions=settings.common.partitions
    )
    system_log = SystemLog(Producer(redis, f"{name}/system"))
    configure_logging("logger", settings.common, system_log.ship)
    store = _store_of(settings)
    # loggers that share a database read each under a name of its own
    events = EventLog(reading, consumer=name if store.shared else CONSUMER)
    try:
        if not await _open(store, stop):
            return
        timing = Timing.scaled(settings.common.time_scale)
        blasts = BlastStore(redis, name, timing)
        lag = EventLog(redis)
        with suppress(QueueUnavailableError):  # Redis may not be there yet
            await events.find_former()
            await lag.find_former()
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
        await events.close()
        await reading.aclose()
        await redis.aclose()
        await store.close()
    log.info("logger stopped")


async def _open(store: Store, stop: Stop) -> bool:
    """Open the store, which may wait for its server; return False if the service was stopped meanwhile."""
    stopping = asyncio.create_task(stop.wait())
    try:
        return await _before(store.open(), stopping)
    finally:
        await end_tasks([stopping])


def _store_of(settings: LoggerSettings) -> Store:
    if not settings.database_url:
        return SqliteStore(settings.database, settings.readers)
    # its driver is an extra
    from services.logger.postgres.store import PostgresStore  # noqa: PLC0415

    return PostgresStore(settings.database_url, settings.readers, settings.common.time_scale)


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
        if not parts.store.shared:
            recent_ends.note(written.ended_jobs)
        parts.expiry.ended(written.ended_blasts, written.ended_alone)
        # repeated: another logger may have died before it called `ended`, or this one did not learn of a commit
        if parts.store.shared and written.repeated:
            parts.expiry.recall()
        metrics.receipts(written.delays)
        if written.suppressions:
            parts.suppressing.wake()
        if written.webhooks:
            parts.webhooks.feeder.wake()
        if written.endpoints:
            parts.webhooks.sync.wake()

    recorder = Recorder(parts.events, parts.store, health, on_written, Pace(common.grace_s / 2, common.time_scale))
    recorder.writer = EventWriter(fails_for_ms=round(FAILS_FOR_MS * common.time_scale))
    retention = Retention(parts.store, parts.settings.retention_days, recorder.writer.forget)
    upkeep = Upkeep(parts.store, retention, health)
    metrics = LoggerMetrics(lambda: parts.watch.last, recorder.state, lambda: parts.store.leads)
    safety = RedisSafety(parts.redis, health, common.time_scale, says_why=True)
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
        log.info("logger started", port=port, database=parts.store.where)
        async with TaskGroup() as tasks:
            shipping = tasks.create_task(parts.system_log.run())
            async with TaskGroup() as working:
                working.create_task(recorder.run(stop))
                working.create_task(parts.expiry.run(stop))
                working.create_task(parts.watch.run(stop))
                working.create_task(safety.run(stop))
                working.create_task(upkeep.run(stop))
                if parts.store.shared:
                    working.create_task(follow_ends(recent_ends, parts.store, stop))
                working.create_task(_lead(parts, upkeep, stop))
            await end_tasks([shipping])


async def _lead(parts: _Parts, upkeep: Upkeep, stop: Stop) -> None:
    """Do what only one logger of a database may do, whenever it is this one."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await _lead_until(parts, upkeep, stopping)
    finally:
        await end_tasks([stopping])


async def _lead_until(parts: _Parts, upkeep: Upkeep, stopping: asyncio.Task[None]) -> None:
    while await _before(parts.store.lead(), stopping):
        turn = Stop()
        if parts.store.shared:
            parts.expiry.recall()  # the former leader may have died
        async with TaskGroup() as leading:
            leading.create_task(parts.outbox.run(turn))
            leading.create_task(parts.suppressing.run(turn))
            leading.create_task(parts.webhooks.sync.run(turn))
            leading.create_task(_feed(parts.webhooks, turn))
            leading.create_task(upkeep.purge(turn))
            await _before(parts.store.lost(), stopping)
            turn.set()


async def _before(work: Coroutine[Any, Any, None], stopping: asyncio.Task[None]) -> bool:
    """Return whether work ended before the service was stopped; otherwise it is cancelled."""
    task = asyncio.create_task(work)
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if task.done() and not stopping.done():
        task.result()
        return True
    await end_tasks([task])
    return False


async def _feed(webhooks: Webhooks, stop: Stop) -> None:
    """Feed webhooks once it is known whose numbers Redis has."""
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(webhooks.sync.met.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await webhooks.feeder.run(stop)
