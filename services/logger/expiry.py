"""Expiry: sets an expiry on the snapshots of ended blasts in Redis; the database keeps them.

A call that fails is tried again later. At the start the blasts that ended in the last days are handled once more, so
that no snapshot stays in Redis forever.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable

from services.logger.blast_rows import ENDED_STATES
from services.logger.store import QueryTooSlowError, StorageError, Store
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.blasts import BlastStore
from shared.queue.timing import UNSCALED, Timing

log = get_logger()
_RETRY_S = 5.0
_LATE_MS = 7 * 86_400_000
_MOST = 20_000
_ENDED = ", ".join(f"'{state}'" for state in sorted(ENDED_STATES))
RECENTLY_ENDED = f"""
SELECT blast_id, ended_at_ms FROM blasts INDEXED BY idx_blasts_created
WHERE created_at_ms > ? AND state IN ({_ENDED}) AND ended_at_ms > 0 ORDER BY created_at_ms DESC LIMIT ?
"""  # noqa: S608 -- this module's own words


class Expiry:
    """Collects the ids of ended blasts without waiting; `run` sets their expiry in Redis."""

    def __init__(self, blasts: BlastStore, store: Store, timing: Timing = UNSCALED, clock: Clock | None = None) -> None:
        self._blasts = blasts
        self._keep_ms = timing.keep_ended_ms
        self._store = store
        self._clock = clock or SystemClock()
        self._waiting: dict[str, int] = {}
        self._wake = asyncio.Event()

    def ended(self, blast_ids: Iterable[str]) -> None:
        """Add blasts that have just ended."""
        self._waiting.update(dict.fromkeys(blast_ids, self._keep_ms))
        if self._waiting:
            self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Set expiries until stopped, beginning with the blasts that ended before this start."""
        await self._recall()
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                waking = asyncio.create_task(self._wake.wait())
                timeout_s = None if await self.flush() else _RETRY_S
                await asyncio.wait({waking, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
        finally:
            stopping.cancel()

    async def flush(self) -> bool:
        """Set the expiry of all collected blasts; return False, and keep the rest for later, if Redis is away."""
        for blast_id, after_ms in list(self._waiting.items()):
            try:
                await self._blasts.expire(blast_id, after_ms)
            except QueueUnavailableError as error:
                log.debug("expiry of ended blasts delayed", reason=str(error))
                return False
            self._waiting.pop(blast_id, None)
        return True

    async def _recall(self) -> None:
        now_ms = self._clock.now_ms()
        try:
            rows = await self._store.read(lambda connection: _recently_ended(connection, now_ms - _LATE_MS))
        except (StorageError, QueryTooSlowError) as error:
            log.warning("reading ended blasts failed", reason=str(error))
            return
        for blast_id, ended_at_ms in rows:
            self._waiting[blast_id] = max(1000, ended_at_ms + self._keep_ms - now_ms)


def _recently_ended(connection: sqlite3.Connection, since_ms: int) -> list[tuple[str, int]]:
    return connection.execute(RECENTLY_ENDED, (since_ms, _MOST)).fetchall()
