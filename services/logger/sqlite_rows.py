"""The statements on the path of every event in SQLite: few and prepared, since all services share the machine."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, cast

import orjson

from services.logger.database import Database, Rows
from services.logger.folding import JobChange
from services.logger.merging import Known, Merged, Tally
from services.logger.row_writing import (
    Alike,
    BringsRows,
    Deliveries,
    OldJob,
    RowWriter,
    Together,
    first_and_last,
    metadata_of,
)
from services.logger.sqlite_messages import insert_messages, update_messages
from shared.clock import rfc3339
from shared.events import ApiRequest, EventBatch, SystemEvent

_IDS_A_QUERY = 500
# rows that differ only in their message and are fewer are written one by one
_FEWEST_ALIKE = 4

_APPLIED = "INSERT OR IGNORE INTO applied_events VALUES (?, ?, ?)"
_KNOWN = (
    "SELECT message_logs.id, job_id, status, state_rank, run, attempts, created_at, template_name"
    " FROM json_each(?) CROSS JOIN message_logs ON job_id = value"
)
# `+`: of the two indexes that could be used, that of statuses has nearly all rows
_END_TOGETHER = """
UPDATE message_logs SET status = ?1, error_message = ?2, message_id = NULL, updated_at = ?3, error_class = ?4,
    error_code = '', response = NULL, duration_ms = 0, next_at = NULL, state_rank = ?5
WHERE job_id IN (SELECT value FROM json_each(?6)) AND +status = ?7 AND run = ?8 AND state_rank < ?5
    AND template_name <> '' AND created_at <= ?3
"""
_COMPLETE = """
UPDATE message_logs SET recipient_email = coalesce(recipient_email, ?1),
    recipient_phone = coalesce(recipient_phone, ?2),
    recipient_name = CASE recipient_name WHEN '' THEN ?3 ELSE recipient_name END,
    template_id = CASE template_id WHEN '' THEN ?4 ELSE template_id END,
    template_name = coalesce(template_name, ?5), reference = coalesce(reference, ?6),
    created_at = min(created_at, ?7), recipient_identity = coalesce(recipient_identity, ?8)
WHERE id = ?9
"""
# of two reports of one attempt the later one wins, in any order of arrival
_ATTEMPT = """
INSERT INTO message_attempts (job_id, run, attempt, deferral, outcome, error_class, error_code, error_message,
    duration_ms, at_ms, next_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job_id, run, attempt, deferral) DO UPDATE SET outcome = excluded.outcome,
    error_class = excluded.error_class, error_code = excluded.error_code, error_message = excluded.error_message,
    duration_ms = excluded.duration_ms, at_ms = excluded.at_ms, next_at_ms = excluded.next_at_ms
WHERE (excluded.at_ms, excluded.outcome) > (at_ms, outcome)
"""
_LETTER = """
INSERT INTO dead_letters (job_id, blast_id, channel, run, error_class, job, failed_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job_id) DO UPDATE SET run = excluded.run, error_class = excluded.error_class, job = excluded.job,
    failed_at_ms = excluded.failed_at_ms
WHERE excluded.run >= run
"""
# the first and last id of a minute's rows
_WIDEN = """
ON CONFLICT (minute) DO UPDATE SET first_id = min(first_id, excluded.first_id), last_id = max(last_id, excluded.last_id)
"""
_CREATED = f"""
INSERT INTO created_minutes (minute, first_id, last_id)
SELECT ?1, id, id FROM message_logs WHERE job_id = ?2 {_WIDEN}
"""  # noqa: S608 -- this module's own words
_BOUND = f"INSERT INTO {{table}} (minute, first_id, last_id) VALUES (?1, ?2, ?2) {_WIDEN}"  # noqa: S608 -- own words
_ADD = "INSERT INTO {table} ({keys}, n) VALUES ({marks}, ?) ON CONFLICT ({keys}) DO UPDATE SET n = n + excluded.n"
_MINUTE = """
INSERT INTO message_minutes (minute, channel, queued, sent, failed, retried, other, duration_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (minute, channel) DO UPDATE SET queued = queued + excluded.queued, sent = sent + excluded.sent,
    failed = failed + excluded.failed, retried = retried + excluded.retried, other = other + excluded.other,
    duration_ms = duration_ms + excluded.duration_ms
"""
_RECEIPT = """
INSERT INTO message_receipts (job_id, kind, at_ms, source, run, severity, code, words, trusted, evidence)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_RECEIPTS = """
INSERT OR FAIL INTO message_receipts (job_id, kind, at_ms, source, run, severity, code, words, trusted, evidence)
SELECT value, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM json_each(?)
"""
_DELIVERIES = """
UPDATE message_logs SET delivery = ?, delivery_at = ? WHERE id IN (SELECT value FROM json_each(?))
"""
_DELIVERY = "UPDATE message_logs SET delivery = ?, delivery_at = ? WHERE id = ?"
_DROP = "DELETE FROM message_logs WHERE id IN (SELECT value FROM json_each(?))"
_DROP_OF_JOB = (
    "DELETE FROM message_attempts WHERE job_id = ?",
    "DELETE FROM dead_letters WHERE job_id = ?",
    "DELETE FROM message_receipts WHERE job_id = ?",
)
_COUNT_DOWN = "UPDATE message_counts SET n = n - ? WHERE channel = ? AND status = ?"
_COUNT_DELIVERIES_DOWN = "UPDATE delivery_counts SET n = n - ? WHERE channel = ? AND delivery = ?"
_REQUEST = """
INSERT INTO api_logs (endpoint, method, ip_address, request_body, response_status, response_time_ms, error_message,
    created_at, request_id, api_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_API_MINUTE = """
INSERT INTO api_minutes (minute, requests, client_errors, server_errors, time_ms, slowest_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (minute) DO UPDATE SET requests = requests + excluded.requests,
    client_errors = client_errors + excluded.client_errors, server_errors = server_errors + excluded.server_errors,
    time_ms = time_ms + excluded.time_ms, slowest_ms = max(slowest_ms, excluded.slowest_ms)
"""
_SYSTEM = "INSERT INTO system_logs (level, message, metadata, created_at, service) VALUES (?, ?, ?, ?, ?)"


def _adding(table: str, *keys: str) -> str:
    return _ADD.format(table=table, keys=", ".join(keys), marks=", ".join("?" * len(keys)))


_BOUND_CREATED = _BOUND.format(table="created_minutes")
_BOUND_REQUESTS = _BOUND.format(table="request_minutes")
_BOUND_SYSTEM = _BOUND.format(table="system_minutes")
_ADD_ROWS = _adding("message_counts", "channel", "status")
_ADD_DELIVERIES = _adding("delivery_counts", "channel", "delivery")
_ADD_OF_BLASTS = _adding("blast_deliveries", "blast_id", "channel", "delivery")
_ADD_TOTALS = _adding("message_totals", "channel", "status")
_ADD_BLASTS = _adding("blast_counts", "blast_id", "channel", "status")
_ADD_ERRORS = _adding("error_days", "day", "channel", "error_class")


class SqliteRows:
    """The row writer of SQLite."""

    def note_batches(
        self, connection: Database, batches: Sequence[EventBatch], now_s: int, producers: dict[str, int]
    ) -> list[bool]:
        """Record batches as applied; return for each whether it is new."""
        new = []
        for batch in batches:
            producer = producers.get(batch.producer) or _producer(connection, batch.producer, producers)
            row = (producer, batch.sequence, now_s)
            new.append(connection.execute(_APPLIED, row).rowcount == 1)
        return new

    def find_known(self, connection: Database, job_ids: Sequence[str]) -> Iterator[Known]:
        """Yield the existing rows of jobs."""
        for start in range(0, len(job_ids), _IDS_A_QUERY):
            some = job_ids[start : start + _IDS_A_QUERY]
            yield from starmap(Known, connection.execute(_KNOWN, (orjson.dumps(some).decode(),)))

    def parts(self, changes: Sequence[JobChange]) -> Sequence[Sequence[JobChange]]:
        """Return all changes as one part."""
        return [changes]

    def write_jobs(self, connection: Database, merged: Merged) -> None:
        """Write the rows of jobs, their dead letters, and the bounds of the ids of each minute."""
        insert_messages(connection, merged.inserts)
        update_messages(connection, merged.updates)
        connection.executemany(_COMPLETE, merged.completions)
        connection.executemany("UPDATE message_logs SET attempts = ? WHERE id = ?", merged.attempts)
        connection.executemany("DELETE FROM dead_letters WHERE job_id = ?", merged.settled)
        connection.executemany(_LETTER, merged.letters)
        connection.executemany(_CREATED, first_and_last(merged.created))
        connection.executemany(_BOUND_CREATED, merged.predated)

    def end_together(self, connection: Database, together: Together, was: str) -> int:
        """End the messages that have this status in this run; return how many."""
        _, job_ids, status, error_class, message, run, at, rank = together
        values = (status, message, at, error_class, rank, orjson.dumps(job_ids).decode(), was, run)
        return connection.execute(_END_TOGETHER, values).rowcount

    def write_tally(self, connection: Database, tally: Tally) -> None:
        """Change the counts."""
        connection.executemany(_ADD_ROWS, ((*key, n) for key, n in tally.rows.items() if n))
        connection.executemany(_ADD_TOTALS, ((*key, n) for key, n in tally.totals.items()))
        connection.executemany(_ADD_BLASTS, ((*key, n) for key, n in tally.blasts.items() if n))
        connection.executemany(_MINUTE, ((*key, *counts) for key, counts in tally.minutes.items()))

    def write_attempts(
        self, connection: Database, attempts: Iterable[tuple[Any, ...]], errors: Mapping[tuple[int, str, str], int]
    ) -> None:
        """Write attempts, and count errors by day, channel and class."""
        connection.executemany(_ATTEMPT, attempts)
        connection.executemany(_ADD_ERRORS, ((*key, n) for key, n in errors.items()))

    def write_receipts(self, connection: Database, alike: Mapping[Alike, Sequence[str]]) -> None:
        """Add the rows of new receipts: of each the jobs that it is about."""
        single: list[tuple[object, ...]] = []
        for (_, *like), jobs in alike.items():
            if len(jobs) < _FEWEST_ALIKE:
                single += [(job_id, *like) for job_id in jobs]
            else:
                connection.execute(_RECEIPTS, (*like, orjson.dumps(jobs).decode()))
        connection.executemany(_RECEIPT, single)

    def write_deliveries(self, connection: Database, deliveries: Deliveries) -> None:
        """Write the deliveries of messages, and change their counts."""
        rows: Counter[tuple[str, str]] = Counter()
        for (_, channel, delivery), n in deliveries.counts.items():
            rows[channel, delivery] += n
        single: list[tuple[str, str, int]] = []
        for (kind, at), ids in deliveries.updates.items():
            if len(ids) < _FEWEST_ALIKE:
                single += [(kind, at, row_id) for row_id in ids]
            else:
                connection.execute(_DELIVERIES, (kind, at, orjson.dumps(ids).decode()))
        connection.executemany(_DELIVERY, single)
        connection.executemany(_ADD_DELIVERIES, ((*key, n) for key, n in rows.items() if n))
        connection.executemany(_ADD_OF_BLASTS, ((*key, n) for key, n in deliveries.counts.items() if n))

    def drop_jobs(self, connection: Database, jobs: Sequence[OldJob]) -> None:
        """Delete the rows of messages and what belongs to them, and change the counts."""
        connection.execute(_DROP, (orjson.dumps([job.row_id for job in jobs]).decode(),))
        for statement in _DROP_OF_JOB:
            connection.executemany(statement, ((job.job_id,) for job in jobs))
        gone = Counter((job.channel, job.status) for job in jobs)
        connection.executemany(_COUNT_DOWN, ((n, *key) for key, n in gone.items()))
        reported = Counter((job.channel, job.delivery) for job in jobs if job.delivery)
        connection.executemany(_COUNT_DELIVERIES_DOWN, ((n, *key) for key, n in reported.items()))

    def write_requests(self, connection: Database, requests: Iterable[ApiRequest]) -> None:
        """Add requests to the API."""
        inserted: list[tuple[int, int]] = []
        by_minute: dict[int, list[ApiRequest]] = {}
        for one in requests:
            cursor = connection.execute(
                _REQUEST,
                (one.endpoint, one.method, one.ip_address, one.body, one.status, one.duration_ms, one.error or None,
                 rfc3339(one.at_ms), one.request_id, one.api_key),
            )  # fmt: skip
            minute = one.at_ms // 60_000
            by_minute.setdefault(minute, []).append(one)
            inserted.append((minute, _id_of(cursor)))
        connection.executemany(_API_MINUTE, starmap(_api_minute, by_minute.items()))
        connection.executemany(_BOUND_REQUESTS, first_and_last(inserted))

    def write_system(self, connection: Database, events: Iterable[SystemEvent]) -> None:
        """Add events of services."""
        inserted: list[tuple[int, int]] = []
        for one in events:
            row = (one.level, one.message, metadata_of(one), rfc3339(one.at_ms), one.service)
            inserted.append((one.at_ms // 60_000, _id_of(connection.execute(_SYSTEM, row))))
        connection.executemany(_BOUND_SYSTEM, first_and_last(inserted))


_OWN = SqliteRows()


def rows_of(connection: Database) -> RowWriter:
    """Return a database's row writer: its own, or that of SQLite."""
    if isinstance(connection, sqlite3.Connection):
        return _OWN  # first, because the check of a protocol takes 20 µs
    return connection.rows if isinstance(connection, BringsRows) else _OWN


def _api_minute(minute: int, requests: Sequence[ApiRequest]) -> tuple[int, ...]:
    """Return the row that these requests of a minute add to its counts."""
    times = [one.duration_ms for one in requests]
    client = sum(400 <= one.status < 500 for one in requests)
    server = sum(one.status >= 500 for one in requests)
    return minute, len(requests), client, server, sum(times), max(times)


def _producer(connection: Database, name: str, producers: dict[str, int]) -> int:
    connection.execute("INSERT INTO event_producers (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    found = connection.execute("SELECT id FROM event_producers WHERE name = ?", (name,)).fetchone()
    producers[name] = number = int(found[0])
    return number


def _id_of(inserted: Rows) -> int:
    return cast("sqlite3.Cursor", inserted).lastrowid or 0
