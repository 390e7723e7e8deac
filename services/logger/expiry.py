"""Expiry: sets an expiry on the snapshots of ended blasts in Redis; the database keeps them.

A call that fails is tried again later. At the start the blasts that ended in the last days are handled once more, so
that no snapshot stays in Redis forever. With several loggers this is also done where one may have died, or may have
written without learning of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice

from services.logger.blast_rows import ENDED_STATES
from services.logger.database import Database
from services.logger.store import QueryTooSlowError, StorageError, Store
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.blasts import BlastStore
from shared.queue.timing import UNSCALED, Timing

log = get_logger()
_RETRY_S = 5.0
_AT_ONCE = 100
# reading them again takes a moment, and a call to Redis for each
_RECALL_APART_S = 30.0
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
        self._alone: set[str] = set()
        self._wake = asyncio.Event()
        self._unsure = True
        self._recall_at_s = float("-inf")

    def recall(self) -> None:
        """Look soon for blasts of which `ended` was not called: a logger died, or a commit's answer was lost."""
        self._unsure = True
        self._wake.set()

    def ended(self, blast_ids: Iterable[str], alone: Iterable[str] = ()) -> None:
        """Add blasts that have just ended; of those `alone`, all jobs were in one partition."""
        self._waiting.update(dict.fromkeys(blast_ids, self._keep_ms))
        self._alone.update(alone)
        if self._waiting:
            self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Set expiries until stopped, beginning with the blasts that ended before this start."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                waking = asyncio.create_task(self._wake.wait())
                await self._recall_if_due()
                timeout_s = None if await self.flush() and not self._unsure else _RETRY_S
                await asyncio.wait({waking, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
        finally:
            stopping.cancel()

    async def flush(self) -> bool:
        """Set the expiry of all collected blasts; return False, and keep the rest for later, if Redis is away."""
        try:
            while alone := list(islice(self._alone, _AT_ONCE)):
                await self._blasts.expire_alone(alone, self._keep_ms)
                self._alone.difference_update(alone)
                for blast_id in alone:
                    self._waiting.pop(blast_id, None)
            for blast_id, after_ms in list(self._waiting.items()):
                await self._blasts.expire(blast_id, after_ms)
                self._waiting.pop(blast_id, None)
        except QueueUnavailableError as error:
            log.debug("expiry of ended blasts delayed", reason=str(error))
            return False
        return True

    async def _recall_if_due(self) -> None:
        now_s = self._clock.monotonic()
        if self._unsure and now_s >= self._recall_at_s:
            self._recall_at_s = now_s + _RECALL_APART_S
            self._unsure = False
            if not await self._recall():
                self._unsure = True

    async def _recall(self) -> bool:
        """Add the blasts that ended in the last days; return False if they cannot be read."""
        now_ms = self._clock.now_ms()
        try:
            rows = await self._store.read(lambda connection: _recently_ended(connection, now_ms - _LATE_MS))
        except (StorageError, QueryTooSlowError) as error:
            log.warning("reading ended blasts failed; trying again", reason=str(error))
            return False
        for blast_id, ended_at_ms in rows:
            self._waiting[blast_id] = max(1000, ended_at_ms + self._keep_ms - now_ms)
        return True


def _recently_ended(connection: Database, since_ms: int) -> list[tuple[str, int]]:
    return connection.execute(RECENTLY_ENDED, (since_ms, _MOST)).fetchall()
