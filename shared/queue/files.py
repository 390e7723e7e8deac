"""Files of jobs: stored once per blast and partition, separately from the jobs (`C:file:<blast>:<digest>`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from redis.asyncio import Redis

from shared.blasts import partition_of
from shared.queue.connection import translated
from shared.queue.partitions import Partition, count_partitions, partition_at, partitions
from shared.queue.scripts import Argument

# a file whose chunk was never enqueued, because ingest died, expires after this time
UNUSED_MS = 3600 * 1000
# a script spends microseconds on each file, and blocks Redis meanwhile
FILES_A_CALL = 250
_BYTES_A_CALL = 1024 * 1024
_JOBS_A_CALL = 50


class FileStore:
    """Writes and reads the files of jobs. Its calls raise QueueUnavailableError and are safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, partition: Partition, blast_id: str, contents: Mapping[str, bytes]) -> bool:
        """Store files, by digest, for the next jobs; raises QueueFullError too.

        Return False while a sender of an earlier version is alive: jobs must then contain their files.
        """
        for some in _calls(contents):
            if await partition.call("put_files", (blast_id, UNUSED_MS, *some)) < 0:
                return False
        return True

    async def get(self, channel: str, blast_id: str, digest: str, index: int = 0) -> bytes | None:
        """Return a file, None if it is gone; it is found soonest with the index of a recipient who has it.

        It may be in another partition than this recipient's job: the number of partitions may have been raised since.
        """
        count = count_partitions(self._redis)
        first = partition_of(blast_id, index, count)
        for place in range(first, first + count):
            partition = partition_at(self._redis, channel, place % count)
            with translated("load file"):
                content: Any = await partition.redis.get(partition.keys.file(blast_id, digest))
            if content is not None:
                return bytes(content)
        return None

    async def forget(self, channel: str, letters: Iterable[tuple[str, int]]) -> None:
        """Release the files of dead letters, by job id and run: the log has stored them."""
        await self._forget(channel, "letters", letters)

    async def forget_lost(self, channel: str, jobs: Iterable[tuple[str, int]]) -> None:
        """Release the files of jobs that are no longer in Redis, by job id and run."""
        await self._forget(channel, "jobs", jobs)

    async def _forget(self, channel: str, kind: str, which: Iterable[tuple[str, int]]) -> None:
        flat: list[Argument] = [part for one in which for part in one]
        for first in range(0, len(flat), 2 * _JOBS_A_CALL):
            some = flat[first : first + 2 * _JOBS_A_CALL]
            for partition in partitions(self._redis, channel):
                await partition.call("forget_files", (kind, *some))


def _calls(contents: Mapping[str, bytes]) -> Iterator[list[Argument]]:
    """Split files into the arguments of calls with about a megabyte and a bounded number of files each."""
    args, size = list[Argument](), 0
    for digest, content in contents.items():
        if args and (size + len(content) > _BYTES_A_CALL or len(args) == 2 * FILES_A_CALL):
            yield args
            args, size = [], 0
        args += (digest, content)
        size += len(content)
    if args:
        yield args
