"""Writing: turns a batch of event entries into rows, in the same transaction that records the entries as applied.

Each entry carries its producer and sequence number, so an entry that is delivered again changes nothing. Statements are
few and prepared, since the whole pipeline shares the machine with the senders.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import orjson

from services.logger.blast_rows import settle_states, write_blasts
from services.logger.early_receipts import Incoming, wake_early
from services.logger.folding import Folded, fold
from services.logger.merging import RETRIED, Known, Merged, Tally, merge
from services.logger.receipts import Delay, apply_receipts, incoming_of
from services.logger.webhooks.journal import Happened, write_journal
from services.logger.webhooks.results import FAILS_FOR_MS, Report, apply_reports, note_reported
from shared.channels import WEBHOOK
from shared.clock import Clock, SystemClock, rfc3339
from shared.errors import DecodeError
from shared.events import ApiRequest, Event, EventBatch, Receipts, SystemEvent, pack_batch
from shared.jobs import TERMINAL
from shared.queue.event_log import EventEntry

IdT = TypeVar("IdT")
_IDS_A_QUERY = 500

_KNOWN = (
    "SELECT id, job_id, status, state_rank, run, attempts, created_at, template_name FROM message_logs"
    " WHERE job_id IN ({})"
)
_COLUMNS = (
    "job_id", "channel", "recipient_email", "recipient_phone", "recipient_name", "template_id", "template_name",
    "subject", "status", "error_message", "message_id", "attempts", "created_at", "updated_at", "blast_id",
    "reference", "run", "error_class", "error_code", "response", "duration_ms", "next_at", "state_rank",
    "recipient_identity",
)  # fmt: skip
_ONE_ROW = f"({', '.join('?' * len(_COLUMNS))})"
_INSERT = f"INSERT INTO message_logs ({', '.join(_COLUMNS)}) VALUES {_ONE_ROW}"  # noqa: S608 -- this module's own names
# one statement for many rows takes half the time: AUTOINCREMENT updates its counter once per statement, not per row
_ROWS_A_STATEMENT = 40
_INSERT_MANY = _INSERT + f", {_ONE_ROW}" * (_ROWS_A_STATEMENT - 1)
_UPDATE = """
UPDATE message_logs SET status = ?, error_message = ?, message_id = ?, attempts = ?, updated_at = ?, run = ?,
    error_class = ?, error_code = ?, response = ?, duration_ms = ?, next_at = ?, state_rank = ?,
    subject = coalesce(?, subject)
WHERE id = ?
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
_REQUEST = """
INSERT INTO api_logs (endpoint, method, ip_address, request_body, response_status, response_time_ms, error_message,
    created_at, request_id, api_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_API_MINUTE = """
INSERT INTO api_minutes (minute, requests, client_errors, server_errors, time_ms, slowest_ms) VALUES (?, 1, ?, ?, ?, ?)
ON CONFLICT (minute) DO UPDATE SET requests = requests + 1, client_errors = client_errors + excluded.client_errors,
    server_errors = server_errors + excluded.server_errors, time_ms = time_ms + excluded.time_ms,
    slowest_ms = max(slowest_ms, excluded.slowest_ms)
"""
_SYSTEM = "INSERT INTO system_logs (level, message, metadata, created_at, service) VALUES (?, ?, ?, ?, ?)"
_UNDECODABLE = """
INSERT OR IGNORE INTO undecodable_events (stream, entry_id, error, raw, created_at) VALUES (?, ?, ?, ?, ?)
"""


def _adding(table: str, *keys: str) -> str:
    return _ADD.format(table=table, keys=", ".join(keys), marks=", ".join("?" * len(keys)))


_BOUND_CREATED = _BOUND.format(table="created_minutes")
_BOUND_REQUESTS = _BOUND.format(table="request_minutes")
_BOUND_SYSTEM = _BOUND.format(table="system_minutes")
_ADD_ROWS = _adding("message_counts", "channel", "status")
_ADD_TOTALS = _adding("message_totals", "channel", "status")
_ADD_BLASTS = _adding("blast_counts", "blast_id", "channel", "status")
_ADD_ERRORS = _adding("error_days", "day", "channel", "error_class")


@dataclass(slots=True)
class Written:
    """What a batch of events ended, the number of jobs by blast and the blasts, and what its receipts brought.

    `delays` are those of its new receipts, `suppressions` the changes that it added to the outbox. `webhooks` is
    whether it added events for the client's webhooks, or reports about their deliveries; `endpoints` whether one of
    them may have to be written to Redis.
    """

    ended_jobs: Counter[str] = field(default_factory=Counter)
    ended_blasts: list[str] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    suppressions: int = 0
    webhooks: bool = False
    endpoints: bool = False


@dataclass(slots=True)
class Applied:
    """The result of a batch: events applied, entries that had been applied before, and what ended."""

    events: int = 0
    repeated: int = 0
    written: Written = field(default_factory=Written)


class EventWriter:
    """Writes batches on the store's writing thread; call `forget` after a failed transaction.

    A webhook that has done nothing but fail for `fails_for_ms` is disabled.
    """

    def __init__(self, clock: Clock | None = None, fails_for_ms: int = FAILS_FOR_MS) -> None:
        self._clock = clock or SystemClock()
        self._fails_for_ms = fails_for_ms
        self._producers: dict[str, int] = {}

    def forget(self) -> None:
        """Forget the producer numbers cached so far: a rolled-back transaction may have created them."""
        self._producers.clear()

    def apply(self, connection: sqlite3.Connection, entries: Sequence[EventEntry]) -> Applied:
        """Apply entries, each exactly once; call it within a transaction."""
        applied = Applied()
        events: list[Event] = []
        receipts: list[Incoming] = []
        reports: list[Report] = []
        reported: dict[int, str] = {}
        now_ms = self._clock.now_ms()
        for entry in entries:
            batch = entry.batch
            if entry.channel == WEBHOOK.name:
                reported[entry.partition] = entry.entry_id
            if entry.unread is not None:
                self._keep_unread(connection, entry, str(entry.unread), entry.unread.raw)
            if isinstance(batch, DecodeError):
                self._keep_unread(connection, entry, str(batch), batch.raw)
            elif not self._is_new(connection, batch, now_ms):
                applied.repeated += 1
            elif entry.channel == WEBHOOK.name:
                reports += [Report(entry.partition, event) for event in batch.events]
            else:
                events += batch.events
                receipts += _receipts_of(entry.channel, batch, now_ms)
        applied.events = len(events) + len(reports)
        folded = fold(events)
        happened = Happened(notices=folded.notices)
        applied.written = _write(connection, folded, happened)
        woken = wake_early(connection, folded.jobs.values())
        noted = apply_receipts(connection, [*woken, *receipts], now_ms)
        applied.written.delays, applied.written.suppressions = noted.delays, noted.suppressions
        happened.receipts = noted.new
        journaled = write_journal(connection, happened, now_ms)
        applied.written.endpoints = apply_reports(connection, reports, self._fails_for_ms, now_ms)
        note_reported(connection, reported)
        applied.written.webhooks = journaled > 0 or bool(reports)
        return applied

    def set_aside(self, connection: sqlite3.Connection, entry: EventEntry, error: str) -> Applied:
        """Store an entry that cannot be applied in `undecodable_events`, so that it does not block the others."""
        batch = entry.unread or entry.batch
        raw = batch.raw if isinstance(batch, DecodeError) else pack_batch(batch)
        self._keep_unread(connection, entry, error, raw)
        if entry.channel == WEBHOOK.name:
            note_reported(connection, {entry.partition: entry.entry_id})
        return Applied()

    def _keep_unread(self, connection: sqlite3.Connection, entry: EventEntry, error: str, raw: bytes) -> None:
        row = (entry.stream, entry.entry_id, error, raw, rfc3339(self._clock.now_ms()))
        connection.execute(_UNDECODABLE, row)

    def _is_new(self, connection: sqlite3.Connection, batch: EventBatch, now_ms: int) -> bool:
        """Record a batch as applied; return False if it already was."""
        producer = self._producers.get(batch.producer) or self._producer(connection, batch.producer)
        row = (producer, batch.sequence, now_ms // 1000)
        return connection.execute("INSERT OR IGNORE INTO applied_events VALUES (?, ?, ?)", row).rowcount == 1

    def _producer(self, connection: sqlite3.Connection, name: str) -> int:
        connection.execute("INSERT OR IGNORE INTO event_producers (name) VALUES (?)", (name,))
        found = connection.execute("SELECT id FROM event_producers WHERE name = ?", (name,)).fetchone()
        self._producers[name] = number = int(found[0])
        return number


def _receipts_of(channel: str, batch: EventBatch, now_ms: int) -> Iterator[Incoming]:
    """Yield the receipts of a batch; `channel` is that of its stream."""
    for event in batch.events:
        if isinstance(event, Receipts):
            yield from incoming_of(channel, event.items, event.taken_at_ms, now_ms)


def write_events(connection: sqlite3.Connection, events: Iterable[Event]) -> Written:
    """Write events that have not been applied before and have no receipts among them."""
    return _write(connection, fold(events), Happened())


def _write(connection: sqlite3.Connection, folded: Folded, happened: Happened) -> Written:
    """Write what a batch changed, and add to `happened` what its clients may want to know."""
    written = Written()
    touched = write_blasts(connection, folded.blasts)
    if folded.jobs:
        known = {row.job_id: row for row in _known_rows(connection, list(folded.jobs))}
        merged = merge(folded.jobs.values(), known)
        _count_passed(merged.tally, folded)
        _write_jobs(connection, merged)
        _write_tally(connection, merged.tally)
        happened.messages = merged.ended
        for (blast_id, _, status), n in merged.tally.blasts.items():
            touched.add(blast_id)
            if status in TERMINAL:
                written.ended_jobs[blast_id] += n
    connection.executemany(_ATTEMPT, folded.attempts)
    connection.executemany(_ADD_ERRORS, ((*key, n) for key, n in folded.errors.items()))
    _write_requests(connection, folded.requests)
    _write_system(connection, folded.system)
    happened.blasts = settle_states(connection, touched)
    written.ended_blasts = [one.blast_id for one in happened.blasts if one.ended]
    return written


def _known_rows(connection: sqlite3.Connection, job_ids: list[str]) -> Iterator[Known]:
    """Yield the existing rows of jobs."""
    for start in range(0, len(job_ids), _IDS_A_QUERY):
        some = job_ids[start : start + _IDS_A_QUERY]
        for row in connection.execute(_KNOWN.format(",".join("?" * len(some))), some):
            yield Known(*row)


def _count_passed(tally: Tally, folded: Folded) -> None:
    for (channel, status, minute), n in folded.passed.items():
        tally.totals[channel, status] += n
        tally.minute(minute, channel)[RETRIED] += n


def _write_jobs(connection: sqlite3.Connection, merged: Merged) -> None:
    _insert(connection, merged.inserts)
    connection.executemany(_UPDATE, merged.updates)
    connection.executemany(_COMPLETE, merged.completions)
    connection.executemany("UPDATE message_logs SET attempts = ? WHERE id = ?", merged.attempts)
    connection.executemany("DELETE FROM dead_letters WHERE job_id = ?", merged.settled)
    connection.executemany(_LETTER, merged.letters)
    connection.executemany(_CREATED, _first_and_last(merged.created))
    connection.executemany(_BOUND_CREATED, merged.predated)


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    whole = len(rows) - len(rows) % _ROWS_A_STATEMENT
    for start in range(0, whole, _ROWS_A_STATEMENT):
        connection.execute(_INSERT_MANY, tuple(chain.from_iterable(rows[start : start + _ROWS_A_STATEMENT])))
    connection.executemany(_INSERT, rows[whole:])


def _first_and_last(rows: Iterable[tuple[int, IdT]]) -> Iterator[tuple[int, IdT]]:
    """Yield the first row of every minute, then the last; `rows` are in the order of insertion."""
    first: dict[int, IdT] = {}
    last: dict[int, IdT] = {}
    for minute, row in rows:
        first.setdefault(minute, row)
        last[minute] = row
    yield from first.items()
    yield from last.items()


def _write_tally(connection: sqlite3.Connection, tally: Tally) -> None:
    connection.executemany(_ADD_ROWS, ((*key, n) for key, n in tally.rows.items() if n))
    connection.executemany(_ADD_TOTALS, ((*key, n) for key, n in tally.totals.items()))
    connection.executemany(_ADD_BLASTS, ((*key, n) for key, n in tally.blasts.items() if n))
    connection.executemany(_MINUTE, ((*key, *counts) for key, counts in tally.minutes.items()))


def _write_requests(connection: sqlite3.Connection, requests: Iterable[ApiRequest]) -> None:
    inserted: list[tuple[int, int]] = []
    for one in requests:
        cursor = connection.execute(
            _REQUEST,
            (one.endpoint, one.method, one.ip_address, one.body, one.status, one.duration_ms, one.error or None,
             rfc3339(one.at_ms), one.request_id, one.api_key),
        )  # fmt: skip
        client, server = 400 <= one.status < 500, one.status >= 500
        minute = one.at_ms // 60_000
        connection.execute(_API_MINUTE, (minute, client, server, one.duration_ms, one.duration_ms))
        inserted.append((minute, cursor.lastrowid or 0))
    connection.executemany(_BOUND_REQUESTS, _first_and_last(inserted))


def _write_system(connection: sqlite3.Connection, events: Iterable[SystemEvent]) -> None:
    inserted: list[tuple[int, int]] = []
    for one in events:
        row = (one.level, one.message, _metadata(one), rfc3339(one.at_ms), one.service)
        inserted.append((one.at_ms // 60_000, connection.execute(_SYSTEM, row).lastrowid or 0))
    connection.executemany(_BOUND_SYSTEM, _first_and_last(inserted))


def _metadata(event: SystemEvent) -> str | None:
    return orjson.dumps(event.metadata, default=str).decode() if event.metadata else None
