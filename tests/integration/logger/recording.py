"""A recorder on a real server and a real file, which a test can start, stop and disturb."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.logger.recorder import Recorder
from services.logger.sqlite_store import SqliteStore
from services.logger.writing import Written
from shared.events import Event, EventBatch, pack_batch
from shared.lifecycle import Stop
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys
from shared.web import Health

STREAM = PartitionKeys("email").events


class Recording:
    """A recorder, its store and its server."""

    def __init__(self, url: str, folder: Path, events: type[EventLog] = EventLog) -> None:
        self.redis: Redis = connect(url)
        self.reading: Redis = connect(url, max_connections=2)
        self.store = SqliteStore(folder / "logs.db", readers=1, busy_s=0.05)
        self.health = Health("logger")
        self.events = events(self.reading)
        self.recorder = Recorder(self.events, self.store, self.health, self._note)
        self.written: list[Written] = []
        self._stop = Stop()
        self._task: asyncio.Task[None] | None = None
        self._numbers = 0

    def _note(self, written: Written) -> None:
        self.written.append(written)

    async def start(self) -> None:
        """Open the file and start recording."""
        await self.store.open()
        self._task = asyncio.create_task(self.recorder.run(self._stop))

    async def close(self) -> None:
        """Stop and close everything; a second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._task is not None:
            await asyncio.wait_for(self._task, 20)
        await self.store.close()
        await self.redis.aclose()
        await self.reading.aclose()

    async def add(self, *events: Event) -> None:
        """Append a batch to the channel's stream, as a script does."""
        self._numbers += 1
        await self.redis.xadd(STREAM, {"d": pack_batch(EventBatch("test", self._numbers, list(events)))})

    async def is_drained(self) -> bool:
        """Return whether everything was written and acknowledged."""
        return await EventLog(self.redis).lag() == 0

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Query the file on a separate connection."""
        with closing(sqlite3.connect(self.store.path)) as connection:
            return connection.execute(query).fetchall()

    def statuses(self) -> dict[str, int]:
        """Return the number of messages by status."""
        return dict(self.rows("SELECT status, count(*) FROM message_logs GROUP BY status"))
