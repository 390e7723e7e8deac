"""The gateway: the parts that answering a request needs, wired once by `main`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.ingest.api_keys import Keyring
from services.ingest.console.files import ConsoleFiles
from services.ingest.hooks.checking import Hooks
from services.ingest.http.event_feed import EventFeed
from services.ingest.http.request_log import RequestLog
from services.ingest.http.upstreams import Upstream
from services.ingest.metrics import IngestMetrics
from services.ingest.settings import IngestSettings
from services.ingest.storage.availability import BacklogRoom, RedisWatch
from services.ingest.storage.idempotency import IdempotencyStore
from services.ingest.storage.request_limits import RequestLimits
from services.ingest.storage.running_blasts import BlastRates, OpenBlasts
from services.ingest.storage.sessions import Session, Sessions
from services.ingest.storage.templates import TemplateLibrary
from shared.clock import Clock
from shared.queue.acceptance import Acceptance
from shared.queue.blasts import BlastStore
from shared.queue.control import Control
from shared.queue.producer import Producer
from shared.queue.receipts import ReceiptInbox
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
    room: BacklogRoom
    receipts: ReceiptInbox
    acceptance: Acceptance


@dataclass(frozen=True, slots=True)
class Records:
    """What ingest keeps in Redis for itself; `limits` None means that requests are not limited."""

    idempotency: IdempotencyStore
    open_blasts: OpenBlasts
    limits: RequestLimits | None
    watch: RedisWatch
    sessions: Sessions

    async def find_session(self, token: str) -> Session | None:
        """Return the session of a token, without waiting for a Redis that is away if this process knows it."""
        return await self.sessions.find(token, is_away=not self.watch.available)


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
    hooks: Hooks
    console: ConsoleFiles
    feed: EventFeed
    logger: Upstream
    senders: Mapping[str, Upstream]
    request_log: RequestLog
    rates: BlastRates
    metrics: IngestMetrics
    health: Health
