"""The doctor's check of the files of jobs: it finds files that nothing needs, and files that are missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from shared.queue.connection import translated
from shared.queue.files import FileStore
from shared.queue.partitions import Partition

PAGE = 100

JobIds = Callable[[], AsyncIterator[str]]


@dataclass(slots=True)
class FilesChecked:
    """The inconsistencies of the files of a channel's jobs.

    `of_lost_jobs` counts jobs that are no longer in Redis but have files, `unneeded` files that no job or dead letter
    needs, `expiring` files that jobs need and that would expire, `gone` files that jobs need and that have expired.
    """

    of_lost_jobs: int = 0
    unneeded: int = 0
    expiring: int = 0
    gone: int = 0


class FileCheck:
    """Checks one partition; with `repair` it releases unneeded files, and keeps needed ones that would expire.

    A file that is gone cannot be restored: the messages that need it fail as `file_gone`.
    """

    def __init__(self, partition: Partition, *, repair: bool) -> None:
        self._partition = partition
        self._channel = partition.channel
        self._repair = repair
        self._store = FileStore(partition.redis)

    async def run(self, job_ids: JobIds) -> FilesChecked:
        """Check every file; `job_ids` lists the jobs in Redis. Raises QueueUnavailableError."""
        found = FilesChecked()
        open_jobs: dict[str, int] = {}
        async for blast_id in self._names("files:"):
            await self._check_blast(blast_id, found, open_jobs)
        found.of_lost_jobs += await self._free_lost(open_jobs, job_ids)
        page: list[str] = []
        async for name in self._names("file:"):
            page.append(name)
            if len(page) == PAGE:
                found.unneeded += await self._check_unneeded(page)
                page.clear()
        found.unneeded += await self._check_unneeded(page)
        return found

    async def _names(self, kind: str) -> AsyncIterator[str]:
        prefix = self._partition.keys.key(kind)
        server = await self._partition.server()
        with translated("doctor"):
            async for key in server.scan_iter(f"{prefix}*", count=1000):
                yield key.decode().removeprefix(prefix)

    async def _check_blast(self, blast_id: str, found: FilesChecked, open_jobs: dict[str, int]) -> None:
        cursor = "0"
        while True:
            args = (blast_id, int(self._repair), cursor, PAGE)
            reply: Any = await self._partition.call("check_files", args)
            following, lost, gone, expiring, *noted = reply
            found.of_lost_jobs += lost
            found.gone += gone
            found.expiring += expiring
            for index, run in zip(noted[::2], noted[1::2], strict=True):
                open_jobs[f"{blast_id}:{index.decode()}:{self._channel}"] = int(run)
            cursor = following.decode()
            if cursor == "0":
                return

    async def _free_lost(self, open_jobs: dict[str, int], job_ids: JobIds) -> int:
        """Release the files of jobs that no longer exist; return the number of these jobs."""
        for _ in range(2):  # a job may move from one place to the next while the search passes between them
            if open_jobs:
                async for job_id in job_ids():
                    open_jobs.pop(job_id, None)
        if self._repair:
            await self._store.forget_lost(self._channel, open_jobs.items())
        return len(open_jobs)

    async def _check_unneeded(self, names: list[str]) -> int:
        if not names:
            return 0
        wrong, _ = await self._partition.call("check_index", ("file", int(self._repair), *names))
        return int(wrong)
