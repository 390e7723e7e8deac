"""The history of one message: its row, each attempt with the provider's reply, and a timeline.

All fields use the names of the log's columns, so that one object has one spelling.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from services.logger.queries import MESSAGE_COLUMNS
from shared.clock import rfc3339
from shared.jobs import TERMINAL

_ROW = f"SELECT {', '.join(MESSAGE_COLUMNS)} FROM message_logs WHERE job_id = ?"  # noqa: S608 -- this code's own names
_ATTEMPTS = """
SELECT run, attempt, deferral, outcome, error_class, error_code, error_message, duration_ms, at_ms, next_at_ms
FROM message_attempts WHERE job_id = ? ORDER BY run, attempt, deferral
"""
_ENDED_UNTRIED = frozenset({"cancelled", "expired", "suppressed"})


def tell_story(connection: sqlite3.Connection, job_id: str) -> dict[str, Any] | None:
    """Return the row's columns with `history` (one entry per attempt and deferral) and `timeline`; None if unknown."""
    row = connection.execute(_ROW, (job_id,)).fetchone()
    if row is None:
        return None
    message: dict[str, Any] = dict(zip(MESSAGE_COLUMNS, row, strict=True))
    history = [_attempt(*one) for one in connection.execute(_ATTEMPTS, (job_id,))]
    if message["status"] == "sent":
        history.append(_accepted(message))
    return message | {"history": history, "timeline": _timeline(message, history)}


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
    """Return the events in order of time: queued, each attempt, and the current state."""
    events = [{"at": message["created_at"], "event": "queued", "run": 1, "attempt": None, "detail": None}]
    events += [
        {
            "at": one["at"], "event": one["outcome"], "run": one["run"], "attempt": one["attempt"],
            "detail": one["error_message"] or one["response"],
        }
        for one in history
    ]  # fmt: skip
    status = message["status"]
    told = (status == "queued" and message["run"] == 1) or (status in TERMINAL and events[-1]["event"] == status)
    if not told and status != "retrying":
        detail = message["error_message"] if status in _ENDED_UNTRIED | {"failed"} else None
        last = {"at": message["updated_at"], "event": status, "run": message["run"], "attempt": None, "detail": detail}
        events.append(last)
    return sorted(events, key=lambda event: str(event["at"]))
