"""Views of blasts: their data from SQLite in the API's shape; ingest adds what only Redis knows."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec
import orjson

from services.logger.blast_rows import read_ends
from services.logger.counting import every_delivery
from services.logger.database import Database
from services.logger.filters import STATUSES, InvalidQueryError
from shared.blast_view import (
    BlastChannel,
    BlastFacts,
    BlastView,
    is_over,
    make_view,
    time_of,
    with_deliveries,
    with_rate,
)
from shared.blasts import BlastState

STATES: tuple[str, ...] = get_args(BlastState)
_COLUMNS = (
    "blast_id", "state", "template_id", "template_name", "channels", "totals", "total_recipients", "total_messages",
    "lane", "reference", "metadata", "created_at_ms", "scheduled_at_ms", "expires_at_ms", "ended_at_ms",
    "paused_at_ms", "resumed_at_ms", "cancelled_at_ms", "pause_reason", "ends",
)  # fmt: skip
ONE = f"SELECT {', '.join(_COLUMNS)} FROM blasts WHERE blast_id = ?"  # noqa: S608 -- this module's own names
_COUNTS = """
SELECT blast_id, channel, status, n FROM blast_counts WHERE blast_id IN (SELECT value FROM json_each(?)) AND n > 0
"""
_DELIVERIES = """
SELECT blast_id, channel, delivery, n FROM blast_deliveries WHERE blast_id IN (SELECT value FROM json_each(?))
"""
_FIRST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class BlastFilter:
    """Which blasts to return; empty fields do not filter."""

    state: str = ""
    template: str = ""
    reference: str = ""


def read_blast_filter(query: Mapping[str, str]) -> BlastFilter:
    """Read the filters of `/api/blasts`; raises InvalidQueryError."""
    state = query.get("state", "")
    if state and state not in STATES:
        raise InvalidQueryError(f"state: {state!r} is unknown; use {', '.join(STATES)}")
    return BlastFilter(state, query.get("template", ""), query.get("reference", ""))


def list_query(wanted: BlastFilter) -> str:
    """Return the query of a page of blasts, the latest first, read from an index in that order."""
    index = next(
        (f"idx_blasts_{name}" for name in ("reference", "state", "template") if getattr(wanted, name)),
        "idx_blasts_created",
    )
    columns = {"state": "state", "template": "template_id", "reference": "reference"}
    where = "".join(f"{column} = ? AND " for name, column in columns.items() if getattr(wanted, name))
    return (
        f"SELECT {', '.join(_COLUMNS)} FROM blasts INDEXED BY {index}"  # noqa: S608 -- this module's own names
        f" WHERE {where}(created_at_ms, blast_id) < (?, ?) ORDER BY created_at_ms DESC, blast_id DESC LIMIT ?"
    )


def list_blasts(
    connection: Database, wanted: BlastFilter, limit: int, cursor: str
) -> tuple[list[BlastView], str | None]:
    """Return a page of blasts and the cursor of the next page, None at the end; raises InvalidQueryError."""
    values = [value for value in (wanted.state, wanted.template, wanted.reference) if value]
    rows = connection.execute(list_query(wanted), (*values, *_read_cursor(cursor), limit + 1)).fetchall()
    blasts = _views(connection, rows[:limit])
    if len(rows) <= limit:
        return blasts, None
    last = dict(zip(_COLUMNS, rows[limit - 1], strict=True))
    return blasts, _write_cursor(last["created_at_ms"], last["blast_id"])


def find_blast(connection: Database, blast_id: str) -> BlastView | None:
    """Return one blast, or None if it is unknown."""
    row = connection.execute(ONE, (blast_id,)).fetchone()
    return _views(connection, [row])[0] if row is not None else None


@dataclass(slots=True)
class _Counts:
    """How many messages of a blast have each status, and each delivery, by channel."""

    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    deliveries: dict[tuple[str, str], int] = field(default_factory=dict)


def _views(connection: Database, rows: Sequence[tuple[Any, ...]]) -> list[BlastView]:
    """Return the views of blasts, whose counts are read at once: a query for each would take longer than the page."""
    blasts = [dict(zip(_COLUMNS, values, strict=True)) for values in rows]
    counts = {row["blast_id"]: _Counts() for row in blasts}
    parameters = (orjson.dumps(list(counts)).decode(),)
    for blast_id, channel, status, n in connection.execute(_COUNTS, parameters):
        counts[blast_id].statuses.setdefault(channel, {})[status] = n
    for blast_id, channel, delivery, n in connection.execute(_DELIVERIES, parameters):
        counts[blast_id].deliveries[channel, delivery] = n
    return [_view(row, counts[row["blast_id"]]) for row in blasts]


def _view(row: Mapping[str, Any], known: _Counts) -> BlastView:
    counts = known.statuses
    ends = read_ends(row["ends"])
    totals: dict[str, int] = orjson.loads(row["totals"])
    totals = dict.fromkeys(counts, 0) | totals | {channel: end["total"] for channel, end in ends.items()}
    ended = row["ended_at_ms"] > 0
    paused = not ended and row["paused_at_ms"] > row["resumed_at_ms"]
    channels = {
        channel: BlastChannel(
            total=total,
            enqueued=sum(counts.get(channel, {}).values()),
            counts=_every_status(counts.get(channel, {})),
            paused=row["pause_reason"] if paused else None,
            cancelled=row["cancelled_at_ms"] > 0,
            ended_at=time_of(ends.get(channel, {}).get("at_ms", 0)) if ended else None,
        )
        for channel, total in totals.items()
    }
    by_status: Counter[str] = Counter()
    for one in counts.values():
        by_status.update(one)
    view = make_view(_facts(row), channels, _every_status(by_status))
    return with_deliveries(view, {channel: every_delivery(known.deliveries, channel) for channel in channels})


def _facts(row: Mapping[str, Any]) -> BlastFacts:
    return BlastFacts(
        blast_id=row["blast_id"],
        state=row["state"],
        template_id=row["template_id"],
        template_name=row["template_name"],
        total_recipients=row["total_recipients"],
        lane=row["lane"],
        created_at_ms=row["created_at_ms"],
        scheduled_at_ms=row["scheduled_at_ms"],
        expires_at_ms=row["expires_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        last_progress_at_ms=0,
        reference=row["reference"],
        metadata=orjson.loads(row["metadata"]),
    )


def _every_status(counts: Mapping[str, int]) -> dict[str, int]:
    """Return a count for every status, zeros included."""
    return {status: counts.get(status, 0) for status in STATUSES}


def shown(view: BlastView, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return a blast as the API writes it, a running one with its rate and how long the rest takes at that rate."""
    rate = None if is_over(view) else rates.get(view.blast_id, 0.0)
    found: dict[str, Any] = msgspec.to_builtins(with_rate(view, rate))
    return found


def _write_cursor(created_at_ms: int, blast_id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([created_at_ms, blast_id])).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[int, str]:
    if not text:
        return _FIRST, ""
    try:
        created_at_ms, blast_id = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidQueryError("cursor: give the nextCursor of an earlier answer", "INVALID_CURSOR") from error
    if not isinstance(created_at_ms, int) or not isinstance(blast_id, str) or abs(created_at_ms) > _FIRST:
        raise InvalidQueryError("cursor: give the nextCursor of an earlier answer", "INVALID_CURSOR")
    return created_at_ms, blast_id
