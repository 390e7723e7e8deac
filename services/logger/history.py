"""The history of one message: its row, each attempt with the provider's reply, each receipt, and a timeline.

All fields use the names of the log's columns, so that one object has one spelling.
"""

from __future__ import annotations

from typing import Any

import orjson

from services.logger.database import Database
from services.logger.queries import MESSAGE_COLUMNS
from shared.clock import rfc3339
from shared.jobs import TERMINAL

_ROW = f"SELECT {', '.join(MESSAGE_COLUMNS)} FROM message_logs WHERE job_id = ?"  # noqa: S608 -- this code's own names
_ATTEMPTS = """
SELECT run, attempt, deferral, outcome, error_class, error_code, error_message, duration_ms, at_ms, next_at_ms
FROM message_attempts WHERE job_id = ? ORDER BY run, attempt, deferral
"""
_RECEIPTS = """
SELECT at_ms, kind, source, run, severity, code, words, trusted, evidence FROM message_receipts WHERE job_id = ?
"""
_ENDED_UNTRIED = frozenset({"cancelled", "expired", "suppressed"})


def read_history(connection: Database, job_id: str) -> dict[str, Any] | None:
    """Return the row's columns with `history` (one entry per attempt and deferral), `receipts` and `timeline`.

    `delivery` is what the receipts made of it and when, None without one. Returns None for an unknown message.
    """
    row = connection.execute(_ROW, (job_id,)).fetchone()
    if row is None:
        return None
    message: dict[str, Any] = dict(zip(MESSAGE_COLUMNS, row, strict=True))
    history = [_attempt(*one) for one in connection.execute(_ATTEMPTS, (job_id,))]
    if message["status"] == "sent":
        history.append(_accepted(message))
    receipts = [_receipt(*one) for one in sorted(connection.execute(_RECEIPTS, (job_id,)))]
    delivery, at = message.pop("delivery"), message.pop("delivery_at")
    timeline = _timeline(message, history)
    timeline += [
        {"at": one["at"], "event": one["kind"], "run": one["run"], "attempt": None, "detail": one["words"]}
        for one in receipts
    ]
    return message | {
        "delivery": {"status": delivery, "at": at} if delivery else None,
        "history": history,
        "receipts": receipts,
        "timeline": sorted(timeline, key=lambda event: str(event["at"])),
    }


def _receipt(*row: Any) -> dict[str, Any]:
    at_ms, kind, source, run, severity, code, words, trusted, evidence = row
    named = orjson.loads(evidence) if evidence else {}
    return {
        "at": rfc3339(at_ms), "kind": kind, "source": source, "run": run, "severity": severity or None,
        "code": code or None, "words": words or None, "trusted": bool(trusted), "address": named.get("address"),
        "provider_id": named.get("provider_id"),
    }  # fmt: skip


def _attempt(*row: Any) -> dict[str, Any]:
    run, attempt, deferral, outcome, error_class, code, words, duration_ms, at_ms, next_at_ms = row
    return {
        "run": run, "attempt": attempt, "deferral": deferral, "outcome": outcome, "error_class": error_class,
        "error_code": code, "error_message": words, "duration_ms": duration_ms, "at": rfc3339(at_ms),
        "next_at": rfc3339(next_at_ms) if next_at_ms else None, "response": None, "message_id": None,
    }  # fmt: skip


def _accepted(message: dict[str, Any]) -> dict[str, Any]:
    """Return the attempt that the provider accepted, which the row itself describes."""
    return {
        "run": message["run"], "attempt": message["attempts"], "deferral": 0, "outcome": "sent",
        "error_class": None, "error_code": None, "error_message": None, "duration_ms": message["duration_ms"],
        "at": message["updated_at"], "next_at": None, "response": message["response"],
        "message_id": message["message_id"],
    }  # fmt: skip


def _timeline(message: dict[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of sending: queued, each attempt, and the current state."""
    events = [{"at": message["created_at"], "event": "queued", "run": 1, "attempt": None, "detail": None}]
    events += [
        {
            "at": one["at"], "event": one["outcome"], "run": one["run"], "attempt": one["attempt"],
            "detail": one["error_message"] or one["response"],
        }
        for one in history
    ]  # fmt: skip
    status = message["status"]
    shown = (status == "queued" and message["run"] == 1) or (status in TERMINAL and events[-1]["event"] == status)
    if not shown and status != "retrying":
        detail = message["error_message"] if status in _ENDED_UNTRIED | {"failed"} else None
        last = {"at": message["updated_at"], "event": status, "run": message["run"], "attempt": None, "detail": detail}
        events.append(last)
    return events
