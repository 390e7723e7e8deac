"""Files of jobs: kept once a blast and channel, apart from the jobs that need them (`C:file:<blast>:<digest>`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from redis.asyncio import Redis

from shared.queue.connection import translated
from shared.queue.keys import ChannelKeys
from shared.queue.scripts import Argument, call_script

# a file whose chunk never came, since its ingest died, expires after this time
UNUSED_MS = 3600 * 1000
_BYTES_A_CALL = 1024 * 1024
_LETTERS_A_CALL = 200


class FileStore:
    """Writes and reads the files of jobs. Its calls raise QueueUnavailableError and are safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, channel: str, blast_id: str, contents: Mapping[str, bytes]) -> None:
        """Keep files, by digest, for jobs that are enqueued next; raises QueueFullError too."""
        tag, args, size = ChannelKeys(channel).tag, list[Argument](), 0
        for digest, content in contents.items():
            if args and size + len(content) > _BYTES_A_CALL:
                await call_script(self._redis, "put_files", tag, (blast_id, UNUSED_MS, *args))
                args, size = [], 0
            args += (digest, content)
            size += len(content)
        if args:
            await call_script(self._redis, "put_files", tag, (blast_id, UNUSED_MS, *args))

    async def get(self, channel: str, blast_id: str, digest: str) -> bytes | None:
        """Return a file, None where it is gone."""
        with translated("load file"):
            content: Any = await self._redis.get(ChannelKeys(channel).file(blast_id, digest))
        return content if content is None else bytes(content)

    async def forget(self, channel: str, letters: Iterable[tuple[str, int]]) -> None:
        """Let go of what dead letters, by job id and run, had kept: the log has it now."""
        flat: list[Argument] = [part for letter in letters for part in letter]
        for first in range(0, len(flat), 2 * _LETTERS_A_CALL):
            some = flat[first : first + 2 * _LETTERS_A_CALL]
            await call_script(self._redis, "forget_files", ChannelKeys(channel).tag, some)
