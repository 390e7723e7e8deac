"""The files that a sender attaches: loaded when a message is rendered, and cached for other messages."""

from __future__ import annotations

import asyncio

from cachetools import LRUCache

from shared.errors import PermanentError, QueueUnavailableError
from shared.jobs import Job, with_contents
from shared.queue.files import FileStore

_AWAY_POLL_S = 0.25
_KEPT_BYTES = 32 * 1024 * 1024


class FileCache:
    """The most recently used files, up to `kept_bytes`; a larger file is loaded each time."""

    def __init__(self, store: FileStore, kept_bytes: int = _KEPT_BYTES) -> None:
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
                content = await self._store.get(job.channel, job.blast_id, digest)
            except QueueUnavailableError:
                await asyncio.sleep(_AWAY_POLL_S)
                continue
            if content is None:
                return None
            if len(content) <= self._most:
                self._kept[key] = content
        return content
