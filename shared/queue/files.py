"""Files of jobs: kept once a blast and channel, apart from the jobs that need them (`C:file:<blast>:<digest>`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from redis.asyncio import Redis

from shared.queue.connection import translated
from shared.queue.partitions import Partition, partitions
from shared.queue.scripts import Argument

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
        partition, args, size = self._partition(channel), list[Argument](), 0
        for digest, content in contents.items():
            if args and size + len(content) > _BYTES_A_CALL:
                await partition.call("put_files", (blast_id, UNUSED_MS, *args))
                args, size = [], 0
            args += (digest, content)
            size += len(content)
        if args:
            await partition.call("put_files", (blast_id, UNUSED_MS, *args))

    async def get(self, channel: str, blast_id: str, digest: str) -> bytes | None:
        """Return a file, None where it is gone."""
        partition = self._partition(channel)
        with translated("load file"):
            content: Any = await partition.redis.get(partition.keys.file(blast_id, digest))
        return content if content is None else bytes(content)

    async def forget(self, channel: str, letters: Iterable[tuple[str, int]]) -> None:
        """Let go of what dead letters, by job id and run, had kept: the log has it now."""
        flat: list[Argument] = [part for letter in letters for part in letter]
        for first in range(0, len(flat), 2 * _LETTERS_A_CALL):
            some = flat[first : first + 2 * _LETTERS_A_CALL]
            for partition in partitions(self._redis, channel):
                await partition.call("forget_files", some)

    def _partition(self, channel: str) -> Partition:
        (only,) = partitions(self._redis, channel)
        return only
