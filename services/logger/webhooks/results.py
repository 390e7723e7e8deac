"""Results: what the senders report about deliveries, applied in the batch's transaction.

An endpoint's events are those of any partition of the queue. They never touch messages or their counts: they change the
rows of its deliveries, by the same ranks as those of messages, and say how the endpoint does. It is disabled here, in
the transaction that applies the event that is the reason, so that `webhook.disabled` is written exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import orjson

from services.logger.database import Database
from services.logger.folding import JobChange, fold
from services.logger.webhooks.endpoints import DISABLED, disable
from services.logger.webhooks.journal import COUNT
from shared.events import ChannelChanged, Deferred, Ended, Event, Retrying, Returned, Sent
from shared.jobs import TERMINAL, parse_job_id

FAILS_FOR_MS = 5 * 86_400_000
"""How long an endpoint does nothing but fail before it is disabled."""
_LONGEST_ERROR = 1000
_DELIVERED, _FAILED = "delivered", "failed"

_KNOWN = """
SELECT n, status, state_rank, attempts, response_status, error FROM webhook_deliveries
WHERE number = ? AND n IN (SELECT value FROM json_each(?))
"""
_UPDATE = """
UPDATE webhook_deliveries SET status = ?, state_rank = ?, attempts = ?, at_ms = ?, next_at_ms = ?, response_status = ?,
    error = ?, duration_ms = ?, enqueued = true
WHERE number = ? AND n = ?
"""
_HEALTH = """
SELECT number, enabled, enabled_at_ms, failing_since_ms, delivered_at_ms FROM webhook_endpoints WHERE number = ?
"""
_SET_HEALTH = "UPDATE webhook_endpoints SET failing_since_ms = ?, delivered_at_ms = ? WHERE number = ?"
_RESYNC = "UPDATE webhook_endpoints SET unsynced = true, enabled_at_ms = min(enabled_at_ms, ?) WHERE number = ?"


_REPORTED = "UPDATE webhook_endpoints SET reported = ? WHERE number = ?"


class Report(NamedTuple):
    """An event of an endpoint's partition."""

    number: int
    event: Event


class _Health(NamedTuple):
    """How an endpoint does: since when it only fails (0 if it does not), and its latest success."""

    number: int
    enabled: int
    enabled_at_ms: int
    failing_since_ms: int
    delivered_at_ms: int


def apply_reports(connection: Database, reports: Sequence[Report], fails_for_ms: int, now_ms: int) -> bool:
    """Apply events of endpoints' partitions; return whether an endpoint changed in a way that Redis must know."""
    changed = False
    by_number = sorted(reports, key=lambda report: report.number)
    for number, some in groupby(by_number, key=lambda report: report.number):
        events = [report.event for report in some]
        row = connection.execute(_HEALTH, (number,)).fetchone()
        if row is None:
            continue  # deleted since
        _update_deliveries(connection, number, fold(events).jobs.values())
        health = _Health(*row)
        reason = _judge(connection, health, events, fails_for_ms)
        if reason and health.enabled:
            disable(connection, number, reason, now_ms)
        changed |= bool(reason) or any(isinstance(event, ChannelChanged) for event in events)
    return changed


def note_reported(connection: Database, entries: Mapping[int, str]) -> None:
    """Note the last entry of each endpoint's event stream that is applied; earlier ones may be applied again later."""
    for number, entry in entries.items():
        row = connection.execute("SELECT reported FROM webhook_endpoints WHERE number = ?", (number,)).fetchone()
        if row is not None and entry_order(entry) > entry_order(row[0]):
            connection.execute(_REPORTED, (entry, number))


def entry_order(entry: str) -> tuple[int, int]:
    """Return the order of a stream's entry."""
    ms, _, sequence = entry.partition("-")
    return int(ms), int(sequence)


def _update_deliveries(connection: Database, number: int, changes: Iterable[JobChange]) -> None:
    by_n = {}
    for change in changes:
        job = parse_job_id(change.job_id)
        if job is not None:
            by_n[job.index] = change
    ended = {_DELIVERED: 0, _FAILED: 0}
    updates = []
    rows = connection.execute(_KNOWN, (number, orjson.dumps(list(by_n)).decode())).fetchall()
    for n, before, rank, attempts, response_status, error in rows:
        change = by_n[n]
        if change.rank <= rank:
            continue
        # the last answer is shown until there is another
        is_answer = change.error_class or change.status in TERMINAL
        answer = (_response_status(change), _error(change)) if is_answer else (response_status, error)
        status = _status(change)
        if status in ended and status != before:
            ended[status] += 1
        updates.append((status, change.rank, max(attempts, change.attempts), change.at_ms, change.next_at_ms, *answer,
                        change.duration_ms or 0, number, n))  # fmt: skip
    connection.executemany(_UPDATE, updates)
    connection.executemany(COUNT, ((f"deliveries {status}", n) for status, n in ended.items() if n))


def _status(change: JobChange) -> str:
    if change.status == "sent":
        return _DELIVERED
    if change.status in TERMINAL:
        return _FAILED
    return "retrying" if change.status == "retrying" or change.attempts > 1 else "waiting"


def _response_status(change: JobChange) -> int:
    """Return the HTTP status with which the endpoint answered, 0 if there was no answer."""
    digits = ((change.response if change.status == "sent" else change.error_code) or "")[:3]
    return int(digits) if len(digits) == 3 and digits.isascii() and digits.isdecimal() else 0


def _error(change: JobChange) -> str:
    return (change.error_message or "")[:_LONGEST_ERROR] if change.status != "sent" else ""


def _judge(connection: Database, health: _Health, events: Sequence[Event], fails_for_ms: int) -> str:
    """Update how an endpoint does; return why it is to be disabled, "" if it is not."""
    delivered_ms = max([health.delivered_at_ms, *(event.at_ms for event in events if isinstance(event, Sent))])
    since_ms = health.failing_since_ms if health.failing_since_ms > delivered_ms else 0
    after_ms = max(delivered_ms, health.enabled_at_ms)
    failed = [at_ms for event in events if (at_ms := _failed_at(event)) > after_ms]
    if failed:
        since_ms = min([since_ms or failed[0], *failed])
    if (since_ms, delivered_ms) != (health.failing_since_ms, health.delivered_at_ms):
        connection.execute(_SET_HEALTH, (since_ms, delivered_ms, health.number))
    reason = _stopped(connection, health, events)
    if not reason and failed and max(failed) - since_ms >= fails_for_ms:
        reason = f"nothing but failures for {_span(fails_for_ms)}"
    return reason


def _failed_at(event: Event) -> int:
    """Return when an attempt failed, 0 if the event reports no failure."""
    if isinstance(event, Returned):
        return event.at_ms if event.error_class else 0
    if isinstance(event, Ended):
        return event.at_ms if event.status == "failed" else 0
    return event.at_ms if isinstance(event, Retrying | Deferred) else 0


def _stopped(connection: Database, health: _Health, events: Iterable[Event]) -> str:
    """Return why the endpoint's sender stopped it, "" if it did not.

    A pause of before the endpoint was enabled again is over: the sync then resumes its partition. The time of a pause
    is that of Redis, whose clock may be behind, so a second one counts by Redis's clock alone.
    """
    reason = ""
    for event in events:
        if not isinstance(event, ChannelChanged) or event.change != "paused" or event.reason == DISABLED:
            continue
        if event.at_ms > health.enabled_at_ms:
            reason = reason or event.reason
        else:
            connection.execute(_RESYNC, (event.at_ms, health.number))
    return reason


def _span(ms: int) -> str:
    days = ms / 86_400_000
    return f"{days:g} days" if days >= 1 else f"{ms / 1000:g} s"
