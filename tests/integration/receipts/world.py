"""A stream of receipts with its consumers, and the events that they emit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from services.receipts.consumer import ReceiptConsumer, Source
from services.receipts.providers import CHANNEL_OF, READERS
from services.receipts.state import ReceiptsState
from shared.errors import QueueUnavailableError
from shared.events import EventBatch, Receipts, unpack_batch
from shared.lifecycle import Stop
from shared.queue.connection import connect
from shared.queue.keys import PartitionKeys
from shared.queue.receipts import ReceiptEntry, ReceiptInbox
from shared.receipts import Receipt
from shared.web import Health
from tests.servers import PATIENCE_S, wait_for

# a hundredth of the time constants: an entry of a dead consumer is taken after 0.3 s
TIME_SCALE = 0.01
SOURCES: Mapping[str, Source] = {name: Source(read, CHANNEL_OF[name]) for name, read in READERS.items()}
AT = "1790000000"


def statuses(*ids: str, status: str = "delivered") -> bytes:
    """Return a webhook of Meta with a status of each message."""
    told = [{"id": one, "status": status, "timestamp": AT, "recipient_id": "62812"} for one in ids]
    return json.dumps({"object": "x", "entry": [{"id": "1", "changes": [{"value": {"statuses": told}}]}]}).encode()


class World:
    """One server with an inbox to add to, and consumers to run on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis: Redis = connect(url)
        self.inbox = ReceiptInbox(self.redis, "ingest")
        self._opened: list[Redis] = [self.redis]

    def consumer(
        self,
        name: str,
        sources: Mapping[str, Source] = SOURCES,
        inbox: type[ReceiptInbox] = ReceiptInbox,
        time_scale: float = TIME_SCALE,
    ) -> One:
        """Return a consumer with its own connections."""
        redis = connect(self.url, max_connections=20)
        self._opened.append(redis)
        return One(inbox(redis, name), sources, time_scale)

    async def batches(self, channel: str = "whatsapp") -> list[EventBatch]:
        """Return the batches in the channel's stream of events."""
        rows: Any = await self.redis.xrange(PartitionKeys(channel).events)
        return [unpack_batch(fields[b"d"]) for _, fields in rows]

    async def receipts(self, channel: str = "whatsapp") -> list[Receipt]:
        """Return the receipts in the channel's stream of events."""
        events = [event for batch in await self.batches(channel) for event in batch.events]
        return [one for event in events if isinstance(event, Receipts) for one in event.items]

    async def is_empty(self) -> bool:
        """Return whether no entry waits or is held."""
        return (await self.inbox.counts()).waiting == 0

    async def emptied(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until no entry waits or is held."""
        await wait_for(self.is_empty, timeout_s, "an empty stream of receipts")

    async def aclose(self) -> None:
        """Close all connections."""
        for redis in self._opened:
            await redis.aclose()


class One:
    """A consumer, and what it has counted and reported."""

    def __init__(self, inbox: ReceiptInbox, sources: Mapping[str, Source], time_scale: float) -> None:
        self.inbox = inbox
        self.health = Health("receipts")
        self.state = ReceiptsState()
        self.consumer = ReceiptConsumer(inbox, sources, self.health, self.state, time_scale)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run it while the block runs, then stop it."""
        stop = Stop()
        task = asyncio.create_task(self.consumer.run(stop))
        try:
            yield task
        finally:
            stop.set()
            await task


class NeverDone(ReceiptInbox):
    """An inbox whose process hangs after the events are emitted and before their entries are deleted."""

    reached: asyncio.Event

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reached = asyncio.Event()

    async def done(self, entries: Sequence[ReceiptEntry]) -> None:
        """Never return."""
        assert entries
        self.reached.set()
        await asyncio.Event().wait()


class LosesAnswers(ReceiptInbox):
    """An inbox whose every second answer is lost after the call had its effect."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calls = 0

    async def _lossy(self, call: Awaitable[None]) -> None:
        await call
        self._calls += 1
        if self._calls % 2:
            raise QueueUnavailableError("the answer was lost")

    async def emit(self, channel: str, read: Sequence[tuple[ReceiptEntry, Sequence[Receipt]]]) -> None:
        """Emit, and lose the answer."""
        await self._lossy(super().emit(channel, read))

    async def done(self, entries: Sequence[ReceiptEntry]) -> None:
        """Delete, and lose the answer."""
        await self._lossy(super().done(entries))

    async def set_aside(self, entry: ReceiptEntry, why: str) -> None:
        """Set aside, and lose the answer."""
        await self._lossy(super().set_aside(entry, why))


class Fails(ReceiptInbox):
    """An inbox that cannot emit the receipts of the message `wamid.BAD`."""

    async def emit(self, channel: str, read: Sequence[tuple[ReceiptEntry, Sequence[Receipt]]]) -> None:
        """Emit, or raise an error that nobody expects."""
        if any(one.provider_id == "wamid.BAD" for _, receipts in read for one in receipts):
            raise RuntimeError("it cannot be emitted")
        await super().emit(channel, read)
