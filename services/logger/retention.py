"""Retention: deletes rows past the retention period, in chunks so small that no writer waits for long.

Each chunk is a transaction on the writer's thread. Its size depends on how long the last one took, and the write-ahead
log is checkpointed after it. Only messages in a terminal state are deleted: the next event of another would bring back
an incomplete row. A blast keeps its counts until it is deleted itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.logger.blast_rows import ENDED_STATES
from services.logger.database import Database, Work
from services.logger.early_receipts import EarlyExpiry
from services.logger.row_writing import OldJob
from services.logger.sqlite_rows import rows_of
from services.logger.store import Store
from services.logger.webhooks.expiring import expire_deliveries, expire_events
from shared.clock import Clock, SystemClock, rfc3339
from shared.jobs import TERMINAL

DAY_MS = 86_400_000
# events are acknowledged within seconds; two days also cover a Redis that lost its last writes or was restored
APPLIED_DAYS = 2
_TARGET_S = 0.005
_FIRST_ROWS, _MOST_ROWS = 20, 2000
# the most a chunk deletes of snapshots and dead letters, whose attachments take many pages each
_MOST_BYTES = 1_000_000
# rest between chunks, as a multiple of their time: retention uses at most a fifth of the writer's and the disk's time
_REST = 4.0
_ENDED = ", ".join(f"'{status}'" for status in TERMINAL)
_ENDED_BLASTS = ", ".join(f"'{state}'" for state in sorted(ENDED_STATES))

OLD_MESSAGES = f"""
SELECT id, job_id, channel, status, created_at < ?2 AND updated_at < ?2 AND status IN ({_ENDED}),
    coalesce((SELECT length(job) FROM dead_letters d WHERE d.job_id = m.job_id), 0), delivery
FROM message_logs m WHERE id > ?1
ORDER BY id LIMIT ?3
"""  # noqa: S608 -- this module's own words
OLD_ROWS = "SELECT id FROM {table} INDEXED BY {index} WHERE created_at < ? ORDER BY created_at LIMIT ?"
OLD_BLASTS = f"""
SELECT blast_id, coalesce(length(snapshot), 0) FROM blasts INDEXED BY idx_blasts_created
WHERE created_at_ms < ?1 AND ended_at_ms < ?1 AND state IN ({_ENDED_BLASTS}) ORDER BY created_at_ms LIMIT ?2
"""  # noqa: S608 -- this module's own words
OLD_APPLIED = """
SELECT sequence, applied_at FROM applied_events WHERE producer = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3
"""
UNUSED_TEMPLATES = """
DELETE FROM blast_templates WHERE hash IN (SELECT hash FROM blast_templates t
    WHERE NOT EXISTS (SELECT 1 FROM blasts b WHERE b.template_hash = t.hash))
"""
UNUSED_FILES = """
SELECT blast_id, digest, length(content) FROM letter_files f
WHERE kept_at_ms < ?1 AND (blast_id, digest) > (?2, ?3)
    AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.blast_id = f.blast_id)
    AND NOT EXISTS (SELECT 1 FROM retry_outbox o WHERE o.blast_id = f.blast_id)
ORDER BY blast_id, digest LIMIT ?4
"""
# (table, column, unit in ms): small tables, by their own first column
_TALLIES = (
    ("message_minutes", "minute", 60_000), ("api_minutes", "minute", 60_000), ("request_minutes", "minute", 60_000),
    ("system_minutes", "minute", 60_000), ("receipt_minutes", "minute", 60_000), ("error_days", "day", DAY_MS),
)  # fmt: skip


@dataclass(slots=True)
class Purged:
    """The result of a purge: deleted rows by table, chunks, and the longest time that one held the writer."""

    rows: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    longest_s: float = 0.0

    def held(self, seconds: float) -> None:
        """Add a transaction that held the writer for `seconds`."""
        self.chunks += 1
        self.longest_s = max(self.longest_s, seconds)


class Retention:
    """Deletes rows older than `days`."""

    def __init__(
        self, store: Store, days: int, forget_producers: Callable[[], None], clock: Clock | None = None
    ) -> None:
        self._store = store
        self._days = days
        self._forget_producers = forget_producers
        self._clock = clock or SystemClock()

    async def purge(self, stopped: Callable[[], bool] = lambda: False) -> Purged:
        """Delete old rows in chunks until none is left or `stopped` returns True; raises StorageError."""
        purged = Purged()
        cutoff_ms = self._clock.now_ms() - self._days * DAY_MS
        applied_before = self._clock.now_ms() // 1000 - APPLIED_DAYS * 86_400
        purged.rows["message_logs"] += await self._store.drop_days(cutoff_ms, stopped)
        works: list[tuple[str, Chunked]] = [
            ("message_logs", _messages(cutoff_ms)),
            ("api_logs", _by_creation("api_logs", "idx_api_created_at", cutoff_ms)),
            ("system_logs", _by_creation("system_logs", "idx_system_created_at", cutoff_ms)),
            ("blasts", _blasts(cutoff_ms)),
            ("letter_files", _letter_files(self._clock.now_ms() - DAY_MS)),
            ("early_receipts", EarlyExpiry(cutoff_ms, self._clock.now_ms())),
        ]
        numbers = await self._store.read(_webhooks)
        works += [("webhook_deliveries", expire_deliveries(number, cutoff_ms)) for number in numbers]
        works.append(("webhook_events", expire_events(cutoff_ms)))
        producers = await self._store.read(_producers)
        works += [("applied_events", _applied(producer, applied_before)) for producer in producers]
        for table, chunk in works:
            await self._in_chunks(table, chunk, purged, stopped)
        if not stopped():
            _, spent_s = await self._store.tidy(lambda connection: self._sweep_up(connection, cutoff_ms))
            purged.held(spent_s)
        return purged

    async def _in_chunks(self, table: str, chunk: Chunked, purged: Purged, stopped: Callable[[], bool]) -> None:
        size = _FIRST_ROWS
        while not stopped():
            (deleted, more), spent_s = await self._store.tidy(_of_size(chunk, size))
            purged.rows[table] += deleted
            purged.held(spent_s)
            if deleted:
                # checkpoint after each chunk: with a large log the next commits would wait for the disk
                began = time.perf_counter()
                await self._store.flush()
                rest_s = (spent_s + time.perf_counter() - began) * _REST
            else:
                rest_s = spent_s * _REST
            if not more:
                return
            # at most double the size: the next rows may be slower, on pages that are not in memory
            size = max(1, min(int(size * min(2.0, _TARGET_S / max(spent_s, 1e-4))), _MOST_ROWS))
            await asyncio.sleep(rest_s)

    def _sweep_up(self, connection: Database, cutoff_ms: int) -> None:
        """Delete unreferenced rows from the small tables."""
        for table, column, unit_ms in _TALLIES:
            connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (cutoff_ms // unit_ms,))  # noqa: S608 -- own names
        connection.execute(
            "DELETE FROM created_minutes WHERE minute < ?"
            " AND last_id < coalesce((SELECT min(id) FROM message_logs), 9223372036854775807)",
            (cutoff_ms // 60_000,),
        )
        connection.execute("DELETE FROM undecodable_events WHERE created_at < ?", (rfc3339(cutoff_ms),))
        connection.execute(UNUSED_TEMPLATES)
        connection.execute(
            "DELETE FROM event_producers WHERE NOT EXISTS"
            " (SELECT 1 FROM applied_events a WHERE a.producer = event_producers.id)"
        )
        # on the writer's thread, so no batch has looked up a producer's number and not yet used it
        self._forget_producers()


# deletes up to the given number of rows within a transaction; returns the number deleted and whether more may be left
Chunked = Callable[[Database, int], tuple[int, bool]]


def _of_size(chunk: Chunked, size: int) -> Work[tuple[int, bool]]:
    return lambda connection: chunk(connection, size)


def _messages(cutoff_ms: int) -> Chunked:
    """Delete messages in id order, up to the last one that was created before the cutoff.

    A message that ended long after it was created (a schedule, a retry) is kept until its end is before the cutoff too.
    """
    cutoff = rfc3339(cutoff_ms)
    last_id, bound = 0, -1

    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        nonlocal last_id, bound
        if bound < 0:
            query = "SELECT coalesce(max(last_id), 0) FROM created_minutes WHERE minute <= ?"
            bound = int(connection.execute(query, (cutoff_ms // 60_000,)).fetchone()[0])
        found = connection.execute(OLD_MESSAGES, (last_id, cutoff, size)).fetchall()
        rows = _within_bytes([row for row in found if row[0] <= bound], 5)
        if rows:
            last_id = rows[-1][0]
        old = [row for row in rows if row[4]]
        jobs = [OldJob(row[0], row[1], row[2], row[3], row[6]) for row in old]
        rows_of(connection).drop_jobs(connection, jobs)
        return len(old), len(rows) == size or (len(rows) < len(found) and found[len(rows)][0] <= bound)

    return chunk


def _within_bytes(rows: list[Any], column: int) -> list[Any]:
    """Keep the first rows whose bytes, counted by this column, fit one transaction; always at least one."""
    total = 0
    for place, row in enumerate(rows):
        total += row[column]
        if total > _MOST_BYTES and place:
            return rows[:place]
    return rows


def _by_creation(table: str, index: str, cutoff_ms: int) -> Chunked:
    query = OLD_ROWS.format(table=table, index=index)

    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        ids = [row[0] for row in connection.execute(query, (rfc3339(cutoff_ms), size))]
        _delete_ids(connection, table, ids)
        return len(ids), len(ids) == size

    return chunk


def _blasts(cutoff_ms: int) -> Chunked:
    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        found = connection.execute(OLD_BLASTS, (cutoff_ms, size)).fetchall()
        ids = [row[:1] for row in _within_bytes(found, 1)]
        connection.executemany("DELETE FROM blast_counts WHERE blast_id = ?", ids)
        connection.executemany("DELETE FROM blast_deliveries WHERE blast_id = ?", ids)
        connection.executemany("DELETE FROM blasts WHERE blast_id = ?", ids)
        return len(ids), len(ids) == size or len(ids) < len(found)

    return chunk


def _letter_files(before_ms: int) -> Chunked:
    """Delete the files of blasts without dead letters; recent files stay, since their letters may still follow."""
    last = ("", "")

    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        nonlocal last
        found = connection.execute(UNUSED_FILES, (before_ms, *last, size)).fetchall()
        rows = _within_bytes(found, 2)
        ids = [(row[0], row[1]) for row in rows]
        connection.executemany("DELETE FROM letter_files WHERE blast_id = ? AND digest = ?", ids)
        last = ids[-1] if ids else last
        return len(ids), len(found) == size or len(rows) < len(found)

    return chunk


def _applied(producer: int, before: int) -> Chunked:
    """Delete a producer's old applied batches, lowest sequence first, since sequences increase with time."""

    def chunk(connection: Database, size: int) -> tuple[int, bool]:
        rows = connection.execute(OLD_APPLIED, (producer, -1, size)).fetchall()
        old = [sequence for sequence, applied_at in rows if applied_at < before]
        if old:
            query = "DELETE FROM applied_events WHERE producer = ? AND sequence <= ?"
            connection.execute(query, (producer, old[-1]))
        return len(old), len(old) == size

    return chunk


def _producers(connection: Database) -> list[int]:
    return [row[0] for row in connection.execute("SELECT id FROM event_producers")]


def _webhooks(connection: Database) -> list[int]:
    return [row[0] for row in connection.execute("SELECT number FROM webhook_endpoints")]


def _delete_ids(connection: Database, table: str, ids: list[int]) -> None:
    query = f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 -- own names
    connection.execute(query, (orjson.dumps(ids).decode(),))
