"""Open jobs: rows whose job has no terminal status yet, for `kurir doctor`, which checks them against Redis.

A dead letter that is sent again waits in the outbox while Redis is full or away. As long as the outbox has an entry for
a blast and channel, queued jobs of later runs there are not listed: finding out which of them are in the outbox would
mean unpacking it. A later check finds those that are really lost.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import Any

import orjson

from services.logger.database import Database
from services.logger.filters import STATUSES, Page, Span
from services.logger.queries import id_bounds
from services.logger.streams import IdStream
from shared.clock import rfc3339
from shared.jobs import TERMINAL

OPEN = tuple(status for status in STATUSES if status not in TERMINAL)
_SCAN_ROWS = 20_000
_CHUNK_ROWS = 1000
ROWS = """
SELECT id, job_id, run, status, attempts FROM message_logs
WHERE id IN (SELECT value FROM json_each(?)) AND updated_at <= ?
    AND NOT (run > 1 AND status = 'queued' AND (blast_id, channel) IN (SELECT blast_id, channel FROM retry_outbox))
ORDER BY id DESC
"""


def list_open(connection: Database, older_ms: int, page: Page) -> tuple[list[dict[str, Any]], int]:
    """Return a page of open jobs last changed before `older_ms`, the latest first, and the next cursor (0: none)."""
    low, high = id_bounds(connection, Span(to_ms=max(0, older_ms)))
    below = min(page.cursor or high + 1, high + 1)
    streams = [IdStream("message_logs", "idx_status", "status = ?", (status,)) for status in OPEN]
    ids = heapq.merge(*(stream.ids(connection, low, below) for stream in streams), reverse=True)
    found: list[tuple[Any, ...]] = []
    scanned, size = 0, page.limit + 1
    while chunk := list(islice(ids, size)):
        found += connection.execute(ROWS, (orjson.dumps(chunk).decode(), rfc3339(max(0, older_ms))))
        if len(found) > page.limit:
            return _jobs(found[: page.limit]), found[page.limit - 1][0]
        scanned += len(chunk)
        if scanned >= _SCAN_ROWS:
            return _jobs(found), chunk[-1]
        size = _CHUNK_ROWS
    return _jobs(found), 0


def _jobs(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(("jobId", "run", "status", "attempts"), row[1:], strict=True)) for row in rows]
