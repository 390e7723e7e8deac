"""The snapshots that a sender renders from: loaded while their first job is being begun, and cached."""

from __future__ import annotations

import asyncio

from cachetools import LRUCache

from shared.blasts import Blast, pack_blast
from shared.errors import QueueUnavailableError
from shared.lifecycle import end_tasks
from shared.queue.blasts import BlastStore

_AWAY_POLL_S = 0.25
_MOST_AT_ONCE = 8
_KEPT_BYTES = 64 * 1024 * 1024
_LEAST_BYTES = 4_000


class SnapshotCache:
    """The most recently used snapshots, up to `kept_bytes` of packed size; a snapshot never changes."""

    def __init__(self, blasts: BlastStore, kept_bytes: int = _KEPT_BYTES) -> None:
        self._blasts = blasts
        self._kept: LRUCache[str, Blast] = LRUCache(
            kept_bytes, lambda blast: min(_LEAST_BYTES + len(pack_blast(blast)), kept_bytes)
        )
        self._loading: dict[str, asyncio.Task[Blast | None]] = {}

    def kept(self, blast_id: str) -> Blast | None:
        """Return a blast's snapshot if it is loaded, else None."""
        return self._kept.get(blast_id)

    def expect(self, blast_id: str) -> None:
        """Start to load a snapshot that will be needed soon, unless several are being loaded."""
        if blast_id not in self._kept and len(self._loading) < _MOST_AT_ONCE:
            self._load(blast_id)

    async def get(self, blast_id: str) -> Blast | None:
        """Return a blast's snapshot, waiting while Redis is away; None if Redis no longer has it."""
        blast = self._kept.get(blast_id)
        if blast is not None:
            return blast
        # shielded: another worker may be waiting for the same load
        return await asyncio.shield(self._load(blast_id))

    async def close(self) -> None:
        """Stop loading, which would otherwise retry for as long as Redis is away."""
        await end_tasks(list(self._loading.values()))

    def _load(self, blast_id: str) -> asyncio.Task[Blast | None]:
        task = self._loading.get(blast_id)
        if task is None:
            task = self._loading[blast_id] = asyncio.create_task(self._loaded(blast_id))
            task.add_done_callback(lambda done: self._forget(blast_id, done))
        return task

    def _forget(self, blast_id: str, task: asyncio.Task[Blast | None]) -> None:
        del self._loading[blast_id]
        if not task.cancelled():
            task.exception()  # retrieved here, since no task may be waiting for it

    async def _loaded(self, blast_id: str) -> Blast | None:
        while True:
            try:
                blast = await self._blasts.load(blast_id)
            except QueueUnavailableError:
                await asyncio.sleep(_AWAY_POLL_S)
                continue
            if blast is not None:
                self._kept[blast_id] = blast
            return blast
