"""Upkeep: the database's maintenance: checkpoints, retention, and one integrity check."""

from __future__ import annotations

import asyncio

from services.logger.retention import Retention
from services.logger.store import QueryTooSlowError, StorageError, Store
from shared.lifecycle import Stop, TaskGroup
from shared.logs import get_logger
from shared.web import Health

log = get_logger()
_CHECKPOINT_EVERY_S = 1.0
_FIRST_PURGE_S, _PURGE_EVERY_S = 60.0, 86_400.0


class Upkeep:
    """Runs the maintenance of the store; its failures never stop the service."""

    def __init__(self, store: Store, retention: Retention, health: Health) -> None:
        self._store = store
        self._retention = retention
        self._health = health

    async def run(self, stop: Stop) -> None:
        """Run due maintenance until stopped."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._checkpoint(stop))
            verifying = tasks.create_task(self._verify())
            await stop.wait()
            verifying.cancel()

    async def _checkpoint(self, stop: Stop) -> None:
        while not await _stopped_within(stop, _CHECKPOINT_EVERY_S):
            try:
                await self._store.checkpoint()
            except (StorageError, QueryTooSlowError) as error:
                log.warning("checkpoint of the write-ahead log failed; trying again", reason=str(error))

    async def purge(self, stop: Stop) -> None:
        """Delete old rows, a minute from now and then once a day, until stopped."""
        pause_s = _FIRST_PURGE_S
        while not await _stopped_within(stop, pause_s):
            pause_s = _PURGE_EVERY_S
            try:
                purged = await self._retention.purge(stop.is_set)
            except (StorageError, QueryTooSlowError) as error:
                log.warning("deleting old rows failed; trying again", reason=str(error))
                pause_s = _FIRST_PURGE_S
                continue
            longest_ms = round(purged.longest_s * 1000, 1)
            log.info("old rows deleted", **purged.rows, chunks=purged.chunks, longest_pause_ms=longest_ms)

    async def _verify(self) -> None:
        """Check a large file in the background; a small one was checked when it was opened."""
        if self._store.verified:
            return
        try:
            found = await self._store.verify()
        except StorageError as error:
            log.warning("checking the database failed", reason=str(error))
            return
        if found:
            self._health.report("database_file", f"the database is damaged: {'; '.join(found)}")
            log.error("database damaged; restore a backup", found=found)


async def _stopped_within(stop: Stop, seconds: float) -> bool:
    """Wait up to `seconds`; return True as soon as the service is stopped, else False."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
