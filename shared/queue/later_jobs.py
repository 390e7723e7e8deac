"""Reads `C:later:jobs`: the jobs that are due later or wait for the limit of their domain or recipient."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from shared.queue.connection import translated
from shared.queue.partitions import Partition

MOST_A_PAGE = 500
BYTES_A_PAGE = 1_000_000
_FIRST_PAGE = 10
_UNKNOWN_BYTES = 10_000


async def later_pages(partition: Partition, blast_id: str = "") -> AsyncIterator[dict[bytes, bytes]]:
    """Yield the stored jobs by job id, of all blasts or of one, in pages of about a megabyte.

    A job that is stored throughout is yielded at least once. The server answers with all values of a page, and blocks
    meanwhile, so the jobs of one page decide how many the next one has. Raises QueueUnavailableError.
    """
    redis: Any = partition.redis
    key, match = partition.keys.key("later:jobs"), f"{blast_id}:*" if blast_id else None
    cursor, count = 0, _FIRST_PAGE
    while True:
        with translated("jobs due later"):
            cursor, rows = await redis.hscan(key, cursor, match=match, count=count)
        if rows:
            yield rows
        if not cursor:
            return
        # the size of jobs of other blasts, which the server reads too, is not known
        size = sum(map(len, rows.values())) // len(rows) if rows else _UNKNOWN_BYTES
        count = max(1, min(MOST_A_PAGE, BYTES_A_PAGE // max(size, 1)))


def limit_of_later(kept: bytes) -> str:
    """Return the limit that a job waits for from its value in `later:jobs`, "" for none."""
    return kept.partition(b" ")[0][2:].decode() if kept[:1] == b"w" else ""


def packed_later(kept: bytes) -> bytes:
    """Return the packed job from its value in `later:jobs`, as `read_later` of `parts/limits.lua` does."""
    return kept.partition(b" ")[2] if kept[:1] == b"w" else kept[2:]
