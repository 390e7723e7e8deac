"""A feeder on a real server and a real file, with the events that it hands out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from services.logger.sqlite_store import SqliteStore
from services.logger.webhooks.changing import change_endpoint
from services.logger.webhooks.endpoints import Row, create, read_rows
from services.logger.webhooks.feeder import Feeder
from services.logger.webhooks.sync import EndpointSync
from services.logger.writing import EventWriter
from shared.events import Event, EventBatch, Sent
from shared.jobs import Job, unpack_job
from shared.queue.connection import connect
from shared.queue.event_log import EventEntry
from shared.queue.keys import PartitionKeys
from shared.queue.webhook_queues import WebhookQueues
from shared.sealing import Seal
from tests.servers import INTERNAL_SECRET
from tests.unit.logger.database import START_MS, accepted, blast, queued, sent

SEAL = Seal(INTERNAL_SECRET)
FILL = """
INSERT INTO webhook_events (type, subject, mark, channel, at_ms, kept_at_ms, data)
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i < ? - 1)
SELECT 'message.sent', 'f:' || i || ':email', '1', 'email', 1790000000000, 1790000000000, '{"run":1,"attempts":1}'
FROM numbers
"""


class Feeding:
    """A store, the queues of webhooks, and a feeder, which a test can let take turns."""

    def __init__(self, url: str, folder: Path, queues: type[WebhookQueues] = WebhookQueues) -> None:
        self.redis: Redis = connect(url)
        self.store = SqliteStore(folder / "logs.db", readers=2)
        self._name = folder.name
        self.queues = queues(self.redis, self._name)
        self.feeder = Feeder(self.store, self.queues)
        self.followed: list[int] = []
        self.sync = EndpointSync(self.store, self.queues, self._follow, self.feeder.wake)
        self._writer = EventWriter()
        self._numbers = 0

    def _follow(self, numbers: Iterable[int]) -> None:
        self.followed = list(numbers)

    async def open(self) -> None:
        """Open the file, which knows the blasts of all messages."""
        await self.store.open()
        await self.apply(accepted(blast("b")), accepted(blast("f")))

    async def open_again(self) -> None:
        """Open the file again after it was closed, as a new process does."""
        await self.use(SqliteStore(self.store.path, readers=2))

    async def use(self, store: Any) -> None:
        """Open a store and use it from now on."""
        await store.open()
        self.store = store
        self._writer = EventWriter()
        self.feeder = Feeder(self.store, self.queues)
        self.sync = EndpointSync(self.store, self.queues, self._follow, self.feeder.wake)

    async def patch(self, row: Row, **wanted: Any) -> None:
        """Change an endpoint as its client does, and make it known."""
        await self.store.write(lambda connection: change_endpoint(connection, row.endpoint_id, wanted, START_MS + 100))
        assert await self.sync.sync()

    async def close(self) -> None:
        """Close everything."""
        await self.store.close()
        await self.redis.aclose()

    async def add(self, **config: Any) -> Row:
        """Add an endpoint and make it known."""
        wanted = {"url": "https://example.com/hook", "events": ["*"], **config}
        row, _ = await self.store.write(lambda connection: create(connection, wanted, SEAL, START_MS))
        await self.settle()
        return row

    async def settle(self) -> None:
        """Make all changes known to Redis; what is deleted there takes a second look."""
        if not await self.sync.sync():
            assert await self.sync.sync()

    async def rows(self) -> dict[int, Row]:
        """Return the endpoints by number."""
        return {row.number: row for row in await self.store.read(read_rows)}

    async def apply(self, *events: Event, stream: str = "{email}:events", entry_id: str = "1-0") -> None:
        """Apply a batch, as the recorder does."""
        self._numbers += 1
        entry = EventEntry(stream, entry_id, EventBatch(self._name, self._numbers, list(events)))
        await self.store.write(lambda connection: self._writer.apply(connection, [entry]))

    async def send(self, *indexes: int) -> None:
        """Let messages be sent."""
        await self.apply(queued(indexes), *(sent(index) for index in indexes))

    async def fill(self, count: int) -> None:
        """Write many events to the journal."""
        await self.store.write(lambda connection: connection.execute(FILL, (count,)).rowcount)

    async def feed(self) -> None:
        """Take turns until there is nothing more to do at once."""
        while not await self.feeder.turn():
            continue

    async def jobs(self, number: int) -> list[Job]:
        """Return the jobs that wait for an endpoint, in the order of their stream."""
        entries: Any = await self.redis.xrange(PartitionKeys("webhook", number).lane("normal"))
        return [unpack_job(fields[b"d"]) for _, fields in entries]

    async def deliver(self, row: Row, count: int = 1000) -> list[Job]:
        """Deliver the first waiting jobs, as a sender does; return them."""
        keys = PartitionKeys("webhook", row.number)
        entries: Any = await self.redis.xrange(keys.lane("normal"), count=count)
        jobs = [unpack_job(fields[b"d"]) for _, fields in entries]
        if entries:
            await self.redis.xdel(keys.lane("normal"), *(entry for entry, _ in entries))
            ends = [Sent(START_MS + 9, job.job_id, 1, 1, "", "204", 5) for job in jobs]
            entry: Any = await self.redis.xadd(keys.events, {"d": b"a report"})
            await self.apply(*ends, stream=keys.events, entry_id=entry.decode())
            await self.redis.xdel(keys.events, entry)
        return jobs


def events_in(jobs: Iterable[Job]) -> list[str]:
    """Return what the events of deliveries are about, in order."""
    found: list[str] = []
    for job in jobs:
        body = orjson.loads(job.recipient.variables["body"])
        items = body["data"] if body["type"] == "batch" else [body]
        found += [item["data"]["jobId"] for item in items]
    return found
