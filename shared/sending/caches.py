"""What a sender loads to render messages, cached: the snapshots of blasts, and the files that it attaches.

A snapshot is loaded while the first job of its blast is being begun, a file when a message needs it. Neither ever
changes. While Redis is away, both wait for it; the wait for a snapshot can be limited.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cachetools import LRUCache

from shared.blasts import Blast, pack_blast, unpack_blast
from shared.errors import DecodeError, DeferredError, PermanentError, QueueUnavailableError
from shared.jobs import Job, with_contents
from shared.lifecycle import end_tasks
from shared.queue.blasts import BlastStore
from shared.queue.files import FileStore

_AWAY_POLL_S = 0.25
_AWAY_WAIT_S = 5.0
_MOST_LOADS = 8
_SNAPSHOT_BYTES = 64 * 1024 * 1024
_LEAST_SNAPSHOT_BYTES = 4_000
_FILE_BYTES = 32 * 1024 * 1024


class SnapshotCache:
    """The most recently used snapshots, up to `kept_bytes` of packed size.

    `patience_s` is how long to wait for one whose node of a cluster is away: other snapshots can be read meanwhile.
    """

    def __init__(self, blasts: BlastStore, kept_bytes: int = _SNAPSHOT_BYTES, patience_s: float | None = None) -> None:
        self._blasts = blasts
        self._patience_s = patience_s
        self._kept: LRUCache[str, Blast] = LRUCache(
            kept_bytes, lambda blast: min(_LEAST_SNAPSHOT_BYTES + len(pack_blast(blast)), kept_bytes)
        )
        self._loading: dict[str, asyncio.Task[Blast | None]] = {}
        # most jobs follow another of their blast, and each asks several times
        self._latest_id = ""
        self._latest: Blast | None = None

    def kept(self, blast_id: str) -> Blast | None:
        """Return a blast's snapshot if it is loaded, else None."""
        if blast_id != self._latest_id or self._latest is None:
            self._note_latest(blast_id, self._kept.get(blast_id))
        return self._latest

    def _note_latest(self, blast_id: str, blast: Blast | None) -> None:
        self._latest_id, self._latest = blast_id, blast

    def keep(self, blast_id: str, packed: bytes) -> None:
        """Keep a snapshot that came with its job; one that cannot be read is loaded by its job, which reports that."""
        with suppress(DecodeError):
            self._keep(blast_id, unpack_blast(packed))

    def _keep(self, blast_id: str, blast: Blast) -> None:
        self._kept[blast_id] = blast
        self._note_latest(blast_id, blast)  # what it may have displaced is not the latest any more

    def expect(self, blast_id: str) -> None:
        """Start to load a snapshot that will be needed soon, unless several are being loaded."""
        if blast_id not in self._kept and len(self._loading) < _MOST_LOADS:
            self._load(blast_id)

    async def get(self, blast_id: str) -> Blast | None:
        """Return a blast's snapshot, waiting while Redis is away; None if Redis no longer has it.

        Raises DeferredError if patience is limited, and over.
        """
        blast = self.kept(blast_id)
        if blast is not None:
            return blast
        # shielded: another worker may be waiting for the same load
        try:
            return await asyncio.shield(self._load(blast_id))
        except QueueUnavailableError as error:
            raise DeferredError("its blast is on a node of Redis that is away", wait_s=_AWAY_WAIT_S) from error

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
        try:
            async with asyncio.timeout(self._patience_s):
                blast = await self._load_once_there(blast_id)
        except TimeoutError:
            raise QueueUnavailableError(f"blast {blast_id} cannot be read") from None
        if blast is not None:
            self._keep(blast_id, blast)
        return blast

    async def _load_once_there(self, blast_id: str) -> Blast | None:
        while True:
            try:
                return await self._blasts.load(blast_id)
            except QueueUnavailableError:
                await asyncio.sleep(_AWAY_POLL_S)


class FileCache:
    """The most recently used files, up to `kept_bytes`; a larger file is loaded each time."""

    def __init__(self, store: FileStore, kept_bytes: int = _FILE_BYTES) -> None:
        self._store = store
        self._most = kept_bytes
        self._kept: LRUCache[tuple[str, str], bytes] = LRUCache(kept_bytes, len)

    async def whole(self, job: Job) -> Job:
        """Return the job with the contents of its files, waiting while Redis is away.

        Raises PermanentError if a file is gone: a message is never sent without its attachment.
        """
        if not job.recipient.files:
            return job
        contents: dict[str, bytes] = {}
        for one in job.recipient.files:
            content = await self._get(job, one.digest)
            if content is None:
                raise PermanentError(f"its attachment {one.filename!r} no longer exists", code="file_gone")
            contents[one.digest] = content
        return with_contents(job, contents)

    async def _get(self, job: Job, digest: str) -> bytes | None:
        key = (job.blast_id, digest)
        content = self._kept.get(key)
        while content is None:
            try:
                content = await self._store.get(job.channel, job.blast_id, digest, job.index)
            except QueueUnavailableError:
                await asyncio.sleep(_AWAY_POLL_S)
                continue
            if content is None:
                return None
            if len(content) <= self._most:
                self._kept[key] = content
        return content
