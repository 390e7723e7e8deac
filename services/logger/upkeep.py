"""Upkeep: moves the write-ahead log into the database file as it grows, beside reading and writing."""

from __future__ import annotations

import asyncio

from services.logger.store import QueryTooSlowError, StorageError, Store
from shared.lifecycle import Stop
from shared.logs import get_logger

log = get_logger()
_CHECKPOINT_EVERY_S = 1.0


class Upkeep:
    """Keeps the files of the store in shape."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self, stop: Stop) -> None:
        """Look once a second until stopped."""
        while not stop.is_set():
            try:
                await self._store.checkpoint()
            except (StorageError, QueryTooSlowError) as error:
                log.warning("the write-ahead log could not be moved; trying again", reason=str(error))
            try:
                await asyncio.wait_for(stop.wait(), _CHECKPOINT_EVERY_S)
            except TimeoutError:
                continue
