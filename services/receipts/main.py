"""The process of the receipts service: connects Redis, the consumer and HTTP, and stops them in order."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from aiohttp import web

from services.receipts.consumer import ReceiptConsumer, Source
from services.receipts.mail.bounce_intake import BounceIntake
from services.receipts.mail.intake import SOURCE
from services.receipts.mail.reading import read_mail
from services.receipts.metrics import ReceiptsMetrics
from services.receipts.providers import CHANNEL_OF, READERS
from services.receipts.settings import ReceiptsSettings, read_settings
from services.receipts.state import ReceiptsState
from services.receipts.watch import StreamWatch
from shared.channels import CHANNELS, EMAIL
from shared.lifecycle import Stop, TaskGroup, end_tasks, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.batches import boot_name
from shared.queue.connection import Connection, connect
from shared.queue.mailbox_lease import MailboxLease
from shared.queue.producer import Producer
from shared.queue.receipts import ReceiptInbox
from shared.queue.system_log import SystemLog
from shared.redis_safety import RedisSafety
from shared.web import Health, operations_routes, serving

log = get_logger()


def run() -> NoReturn:
    """Run the service until it is asked to stop, then exit the process."""
    run_service("receipts", lambda stop: main(os.environ, stop))


async def main(env: Mapping[str, str], stop: Stop) -> None:
    """Run the service until `stop` is set; raises SettingsError if the environment is not usable."""
    settings = read_settings(env)
    name = boot_name("receipts", socket.gethostname())
    redis = connect(settings.common.redis_url)
    # waiting for entries blocks a connection, and so may a call for each channel
    reading = connect(settings.common.redis_url, max_connections=2 + len(CHANNELS))
    system_log = SystemLog(Producer(redis, f"{name}/system"))
    configure_logging("receipts", settings.common, system_log.ship)
    try:
        await _serve(_Parts(settings, ReceiptInbox(reading, name), system_log, redis, name), stop)
    finally:
        await reading.aclose()
        await redis.aclose()
    log.info("receipts stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the service."""

    settings: ReceiptsSettings
    inbox: ReceiptInbox
    system_log: SystemLog
    redis: Connection
    name: str


async def _serve(parts: _Parts, stop: Stop) -> None:
    health, state, common = Health("receipts"), ReceiptsState(), parts.settings.common
    sources = _sources(parts.settings.bounces.secret)
    metrics = ReceiptsMetrics(state, tuple(sources))
    safety = RedisSafety(parts.redis, health, common.time_scale, says_why=True)
    metrics.registry.register(safety)
    consumer = ReceiptConsumer(parts.inbox, sources, health, state, common.time_scale)
    watch = StreamWatch(ReceiptInbox(parts.redis), state, common.time_scale)
    app = web.Application()
    app.add_routes(operations_routes(health, metrics.exposition))
    intake = _intake(parts, state)
    state.mailbox_failing_s = intake.mailbox_failing_s
    await intake.open()
    try:
        async with serving(app, common.host, common.port) as port:
            log.info("receipts started", port=port)
            async with TaskGroup() as tasks:
                shipping = tasks.create_task(parts.system_log.run())
                async with TaskGroup() as working:
                    working.create_task(consumer.run(stop))
                    working.create_task(watch.run(stop))
                    working.create_task(intake.run(stop))
                    working.create_task(safety.run(stop))
                await end_tasks([shipping])
    finally:
        await intake.close()


def _intake(parts: _Parts, state: ReceiptsState) -> BounceIntake:
    """Return the ways in for bounce mail."""
    lease = partial(MailboxLease, parts.redis, holder=parts.name)
    inbox, host = ReceiptInbox(parts.redis), parts.settings.common.host
    return BounceIntake(parts.settings.bounces, inbox, host, lease, state.count_mail)


def _sources(secret: str) -> dict[str, Source]:
    """Return what writes entries, by its name there."""
    found = {name: Source(read, CHANNEL_OF[name]) for name, read in READERS.items()}
    return found | {SOURCE: Source(partial(read_mail, secret=secret), EMAIL.name)}
