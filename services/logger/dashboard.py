"""The dashboard: its whole content, from the latest sample of `watch` and a few small queries."""

from __future__ import annotations

from collections import Counter
from typing import Any

from services.logger.blast_views import BlastFilter, list_blasts
from services.logger.database import Database
from services.logger.filters import COUNTED
from services.logger.watch import Counts, Sample
from shared.channels import CHANNELS
from shared.clock import rfc3339
from shared.queue.control import ChannelStats

_MINUTES = 60
_FAILURES = 20
_BLASTS = 10
MINUTES = """
SELECT minute, channel, queued, sent, failed, retried, other, duration_ms FROM message_minutes
WHERE minute > ? ORDER BY minute
"""
FAILURES = """
SELECT id, job_id, channel, error_class, error_code, error_message, attempts, updated_at FROM message_logs
INDEXED BY idx_status WHERE status = 'failed' ORDER BY id DESC LIMIT ?
"""
REQUESTS = """
SELECT sum(requests), sum(client_errors), sum(server_errors), sum(time_ms), max(slowest_ms) FROM api_minutes
WHERE minute > ?
"""
RECEIPTS = "SELECT channel, kind, n FROM receipt_minutes WHERE minute > ?"
ERRORS = "SELECT channel, error_class, sum(n) FROM error_days WHERE day >= ? GROUP BY channel, error_class"


def show_dashboard(connection: Database, sample: Sample, now_ms: int) -> dict[str, Any]:
    """Return the dashboard; the last hour is counted back from `now_ms`."""
    since = now_ms // 60_000 - _MINUTES
    minutes = connection.execute(MINUTES, (since,)).fetchall()
    blasts, _ = list_blasts(connection, BlastFilter(), _BLASTS, "")
    return {
        "at": rfc3339(now_ms),
        "queues": {channel: _queue(stats) for channel, stats in sample.queues.items()},
        "totals": _totals(sample.totals),
        "channels": _channels(minutes),
        "throughput": _throughput(minutes),
        "responseTimes": _responses(connection, since),
        "receipts": _receipts(connection, since),
        "errors": _errors(connection, now_ms),
        "recentFailures": _failures(connection),
        "blasts": blasts,
        "redis": {
            "up": sample.redis_up,
            "memoryUsedBytes": sample.memory.used,
            "memoryMaxBytes": sample.memory.maximum,
        },
        "database": {
            "sizeBytes": sample.database_bytes,
            "eventsLag": sample.events_lag,
            "rows": sum(sample.rows.values()),
        },
        "logs": {"sizeBytes": sample.log_bytes},
        "system": sample.machine.as_json(),
    }


def _queue(stats: ChannelStats) -> dict[str, Any]:
    return {
        "waiting": stats.waiting,
        "waitingByLane": stats.waiting_by_lane,
        "oldestAgeSeconds": stats.oldest_age_s,
        "active": stats.active,
        "delayed": stats.delayed,
        "scheduled": stats.scheduled,
        "completed": stats.completed,
        "failed": stats.failed,
        "paused": stats.paused,
        "pausedReason": stats.pause_reason or None,
        "senders": len(stats.senders),
        "providerAvailable": stats.provider_available,
    }


def _totals(totals: Counts) -> dict[str, Any]:
    """Return the counts since the database was created, in total and by channel, with zeros."""
    channels = {channel: {status: totals.get((channel, status), 0) for status in COUNTED} for channel in CHANNELS}
    every = {status: sum(one[status] for one in channels.values()) for status in COUNTED}
    return {**every, "channels": channels}


def _channels(minutes: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return by channel the last hour's success rate, error rate and average send time."""
    sums: dict[str, Counter[str]] = {}
    for _, channel, _, sent, failed, retried, other, duration_ms in minutes:
        one = sums.setdefault(channel, Counter())
        one.update(sent=sent, failed=failed, retried=retried, other=other, duration_ms=duration_ms)
    return {
        channel: {
            "sent": one["sent"],
            "failed": one["failed"],
            "retried": one["retried"],
            "successRate": _share(one["sent"], one["sent"] + one["failed"]),
            "errorRate": _share(one["failed"], one["sent"] + one["failed"]),
            "averageSendMs": round(one["duration_ms"] / one["sent"], 1) if one["sent"] else None,
        }
        for channel, one in sums.items()
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _throughput(minutes: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    names = ("queued", "sent", "failed", "retried", "other")
    return [
        {"minute": rfc3339(minute * 60_000), "channel": channel, **dict(zip(names, counts, strict=False))}
        for minute, channel, *counts in minutes
    ]


def _responses(connection: Database, since: int) -> dict[str, Any]:
    """Return the API's response counts and times of the last hour."""
    requests, client, server, time_ms, slowest = connection.execute(REQUESTS, (since,)).fetchone()
    return {
        "requests": requests or 0,
        "clientErrors": client or 0,
        "serverErrors": server or 0,
        "averageMs": round(time_ms / requests, 1) if requests else None,
        "slowestMs": slowest,
    }


def _receipts(connection: Database, since: int) -> dict[str, dict[str, int]]:
    """Return by channel and kind the receipts of what happened in the last hour."""
    found: dict[str, dict[str, int]] = {channel: {} for channel in CHANNELS}
    for channel, kind, n in connection.execute(RECEIPTS, (since,)):
        kinds = found.setdefault(channel, {})
        kinds[kind] = kinds.get(kind, 0) + n
    return found


def _errors(connection: Database, now_ms: int) -> list[dict[str, Any]]:
    """Return the failed attempts of today and yesterday by error class."""
    rows = connection.execute(ERRORS, (now_ms // 86_400_000 - 1,)).fetchall()
    found = [{"channel": channel, "errorClass": error_class, "count": n} for channel, error_class, n in rows]
    return sorted(found, key=lambda one: -one["count"])


def _failures(connection: Database) -> list[dict[str, Any]]:
    names = ("id", "jobId", "channel", "errorClass", "errorCode", "errorMessage", "attempts", "at")
    return [dict(zip(names, row, strict=True)) for row in connection.execute(FAILURES, (_FAILURES,))]
