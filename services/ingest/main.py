"""Ingest's composition root: reads the environment, wires the parts, and serves until it is asked to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import aiohttp

from services.ingest.api.operations import OPERATIONS
from services.ingest.api_keys import Keyring
from services.ingest.blasts.abandoned import AbandonedWatch
from services.ingest.blasts.live import LiveWatch
from services.ingest.console.files import read_console_files
from services.ingest.hooks.certificates import AmazonFetch
from services.ingest.hooks.checking import Hooks
from services.ingest.http.app import build_app, malformed_response
from services.ingest.http.event_feed import EventFeed
from services.ingest.http.gateway import Gateway, Queue, Records
from services.ingest.http.request_log import RequestLog
from services.ingest.http.upstreams import Upstream, UpstreamAccess, open_session
from services.ingest.metrics import IngestMetrics
from services.ingest.settings import IngestSettings, read_settings
from services.ingest.storage.availability import BacklogRoom, RedisWatch
from services.ingest.storage.idempotency import LEASE_MS, IdempotencyStore
from services.ingest.storage.request_limits import RequestLimits
from services.ingest.storage.running_blasts import BlastRates, OpenBlasts
from services.ingest.storage.sessions import SESSION_MS, Sessions
from services.ingest.storage.templates import TemplateLibrary, TemplateStore
from services.ingest.templates.files import read_templates
from shared.clock import SystemClock
from shared.errors import SettingsError
from shared.lifecycle import Stop, TaskGroup, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.acceptance import Acceptance
from shared.queue.batches import boot_name
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.producer import BacklogLimits, Producer
from shared.queue.receipts import ReceiptInbox
from shared.queue.suppressions import Suppressions
from shared.queue.timing import Timing
from shared.redis_safety import RedisSafety
from shared.sealing import Seal
from shared.urls import without_password
from shared.web import Health, HttpOptions, serving

_CONNECTIONS = 32
_LAST_WORDS_S = 3.0

log = get_logger()


def run() -> NoReturn:
    """Run the service `python -m services.ingest`."""
    run_service("ingest", lambda stop: serve(stop, os.environ))


async def serve(stop: Stop, env: Mapping[str, str]) -> None:
    """Serve until stopped; raises SettingsError for invalid settings."""
    settings = read_settings(env)
    spool_folder = _spool_folder(settings)
    files = read_templates(Path(settings.templates_dir), settings.default_region)
    redis = connect(settings.common.redis_url, max_connections=_CONNECTIONS, partitions=settings.common.partitions)
    redis.replicas = settings.common.replicas
    name = boot_name("ingest", socket.gethostname())
    timing = Timing.scaled(settings.common.time_scale)
    producer = Producer(redis, name, BacklogLimits(jobs=settings.max_backlog), timing)
    request_log = RequestLog(lambda events: producer.emit(*events))
    configure_logging("ingest", settings.common, request_log.from_any_thread())
    try:
        async with open_session() as session:
            room = BacklogRoom(producer, SystemClock())
            blasts, control = BlastStore(redis, name, timing), Control(redis, name, timing)
            inbox, acceptance = ReceiptInbox(redis), Acceptance(redis, name)
            queue = Queue(producer, blasts, control, Suppressions(redis), room, inbox, acceptance)
            library = TemplateLibrary(TemplateStore(redis), files)
            health = Health("ingest")
            limits = RequestLimits(redis, settings.rate_limit) if settings.rate_limit is not None else None
            leases = IdempotencyStore(redis, int(LEASE_MS * settings.common.time_scale))
            keyring = Keyring(settings.keys)
            lifetime_ms = int(SESSION_MS * settings.common.time_scale)
            sessions = Sessions(redis, settings.internal_secret, keyring, SystemClock(), lifetime_ms)
            records = Records(leases, OpenBlasts(redis), limits, RedisWatch(redis, health), sessions)
            parts = _Parts(settings, session, queue, records, library, request_log, spool_folder, health, keyring)
            safety = RedisSafety(redis, health, settings.common.time_scale)
            await _serve(_gateway(parts, safety), safety, stop)
    finally:
        await redis.aclose()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts that the gateway is built from."""

    settings: IngestSettings
    session: aiohttp.ClientSession
    queue: Queue
    records: Records
    templates: TemplateLibrary
    request_log: RequestLog
    spool_folder: Path
    health: Health
    keyring: Keyring


def _gateway(parts: _Parts, safety: RedisSafety) -> Gateway:
    settings, clock, metrics = parts.settings, SystemClock(), IngestMetrics()
    access = UpstreamAccess(parts.session, settings.internal_secret)
    metrics.registry.register(safety)
    return Gateway(
        settings=settings,
        clock=clock,
        keyring=parts.keyring,
        templates=parts.templates,
        spool_folder=parts.spool_folder,
        queue=parts.queue,
        records=parts.records,
        seal=Seal(settings.internal_secret),
        hooks=Hooks(settings.hooks, AmazonFetch(parts.session)),
        console=read_console_files(),
        feed=EventFeed(secrets.token_hex(4)),
        logger=Upstream(access, settings.logger_url, "LOGGER_UNAVAILABLE"),
        senders={name: Upstream(access, url, "SENDER_UNAVAILABLE") for name, url in settings.sender_urls.items()},
        request_log=parts.request_log,
        rates=BlastRates(clock),
        metrics=metrics,
        health=parts.health,
    )


async def _serve(gateway: Gateway, safety: RedisSafety, stop: Stop) -> None:
    common = gateway.settings.common
    async with TaskGroup() as tasks:
        tasks.create_task(safety.run(stop))
        # the API log runs until the last request is answered
        served = Stop()
        watching = tasks.create_task(gateway.records.watch.run(stop))
        logging = tasks.create_task(gateway.request_log.run(served))
        after_s = gateway.settings.incomplete_after_s
        abandoned = AbandonedWatch(gateway.queue, gateway.records.open_blasts, gateway.clock, after_s)
        tasks.create_task(abandoned.run(stop))
        tasks.create_task(LiveWatch(gateway).run(stop))
        await gateway.records.watch.check()
        options = HttpOptions(
            gateway.settings.limits.header_s, lambda error: malformed_response(error, gateway.metrics), inflate=False
        )
        async with serving(build_app(gateway, OPERATIONS), common.host, common.port, options) as port:
            log.info(
                "ingest started", host=common.host, port=port, redis=without_password(common.redis_url),
                keys=len(gateway.settings.keys), channels=sorted(gateway.settings.configured_channels),
            )  # fmt: skip
            await stop.wait()
        served.set()
        await asyncio.wait({watching, logging}, timeout=_LAST_WORDS_S)


def _spool_folder(settings: IngestSettings) -> Path:
    """Create the folder for the spools between the two passes."""
    folder = settings.common.data_dir / "spool"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError([f"KURIR_DATA_DIR: {folder} cannot be written: {error.strerror}"]) from error
    return folder
