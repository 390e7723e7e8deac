"""The gateway: the parts that answering a request needs, wired once by `main`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.ingest.keys import Keyring
from services.ingest.metrics import IngestMetrics
from services.ingest.peers import Peer
from services.ingest.request_log import RequestLog
from services.ingest.room import Room
from services.ingest.settings import IngestSettings
from services.ingest.storage.idempotency import IdempotencyStore
from services.ingest.storage.open_blasts import OpenBlasts
from services.ingest.storage.request_limits import RequestLimits
from services.ingest.storage.watch import RedisWatch
from services.ingest.templates.library import TemplateLibrary
from services.ingest.views import BlastViews
from shared.clock import Clock
from shared.queue.blasts import BlastStore
from shared.queue.control import Control
from shared.queue.producer import Producer
from shared.queue.suppressions import Suppressions
from shared.sealing import Seal
from shared.web import Health


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue as ingest sees it."""

    producer: Producer
    blasts: BlastStore
    control: Control
    suppressions: Suppressions
    room: Room


@dataclass(frozen=True, slots=True)
class Records:
    """What ingest keeps in Redis for itself; no `limits` means that requests are not limited."""

    idempotency: IdempotencyStore
    open_blasts: OpenBlasts
    limits: RequestLimits | None
    watch: RedisWatch


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that a handler may use."""

    settings: IngestSettings
    clock: Clock
    keyring: Keyring
    templates: TemplateLibrary
    spool_folder: Path
    queue: Queue
    records: Records
    seal: Seal
    logger: Peer
    senders: Mapping[str, Peer]
    request_log: RequestLog
    views: BlastViews
    metrics: IngestMetrics
    health: Health
