"""The logger's process: wires Redis, the database, the recorder and HTTP together, and stops in order."""

from __future__ import annotations

import asyncio
import os
import socket

from services.logger.app import Logger, build_app
from services.logger.blast_views import Pace
from services.logger.metrics import LoggerMetrics
from services.logger.recorder import Recorder
from services.logger.redelivery import Outbox
from services.logger.settings import LoggerSettings, read_settings
from services.logger.store import Store
from services.logger.upkeep import Upkeep
from services.logger.watch import Watch
from services.logger.writing import Written
from shared.clock import SystemClock
from shared.lifecycle import Stop, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.batches import boot_name
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.event_log import EventLog
from shared.queue.producer import Producer
from shared.web import Health, serving

log = get_logger()


def run() -> None:
    """Run the logger until it is told to stop."""
    run_service("logger", main)


async def main(stop: Stop) -> None:
    """Run the logger; raises SettingsError where the environment cannot work."""
    settings = read_settings(os.environ)
    configure_logging("logger", settings.common)
    store = Store(settings.database, settings.readers)
    await store.open()
    try:
        await _serve(settings, store, stop)
    finally:
        await store.close()


async def _serve(settings: LoggerSettings, store: Store, stop: Stop) -> None:
    name = boot_name("logger", socket.gethostname())
    health, pace, clock = Health("logger"), Pace(), SystemClock()
    redis = connect(settings.common.redis_url)
    blasts = BlastStore(redis, name)
    outbox = Outbox(store, Producer(redis, name), blasts)
    # reading blocks, so it has a connection of its own
    reading = connect(settings.common.redis_url, max_connections=2)

    async def on_written(written: Written) -> None:
        pace.note(written.ended_jobs)
        for blast_id in written.ended_blasts:
            await blasts.expire(blast_id)

    recorder = Recorder(EventLog(reading), store, health, on_written)
    watch = Watch(Control(redis, name), EventLog(redis), store, settings.common.log_dir)
    metrics = LoggerMetrics(lambda: watch.last, recorder.state)
    app = build_app(Logger(store, watch, outbox, pace, clock), health, metrics.exposition)
    await watch.try_look()
    async with serving(app, settings.common.host, settings.common.port) as port:
        log.info("logger listens", port=port, database=str(settings.database))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run(stop))
            tasks.create_task(outbox.run(stop))
            tasks.create_task(watch.run(stop))
            tasks.create_task(Upkeep(store).run(stop))
    await reading.aclose()
    await redis.aclose()
    log.info("logger stopped")
