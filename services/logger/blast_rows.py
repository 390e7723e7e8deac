"""Blasts as rows: the accepted blast, and its state as derived from its events and its jobs' counts.

Snapshots are stored without the template, which all blasts with the same version of it share. A blast has ended on a
channel once all of its jobs there have a terminal status, in whatever order the events arrived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import orjson

from services.logger.database import Database
from shared.blasts import Blast, BlastState, pack_blast, unpack_blast
from shared.errors import DecodeError
from shared.events import BlastAccepted, BlastChanged, BlastChannelEnded
from shared.jobs import TERMINAL
from shared.logs import get_logger
from shared.templates import Template

log = get_logger()
_templates = msgspec.msgpack.Decoder(Template)
_STRIPPED = Template(id="", name="", channels=[])

ACCEPT = """
INSERT INTO blasts (blast_id, template_id, template_name, template_hash, channels, totals, total_recipients,
    total_messages, lane, reference, metadata, api_key, created_at_ms, scheduled_at_ms, expires_at_ms, snapshot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (blast_id) DO UPDATE SET template_id = excluded.template_id, template_name = excluded.template_name,
    template_hash = excluded.template_hash, channels = excluded.channels, totals = excluded.totals,
    total_recipients = excluded.total_recipients, total_messages = excluded.total_messages, lane = excluded.lane,
    reference = excluded.reference, metadata = excluded.metadata, api_key = excluded.api_key,
    created_at_ms = excluded.created_at_ms, scheduled_at_ms = excluded.scheduled_at_ms,
    expires_at_ms = excluded.expires_at_ms, snapshot = excluded.snapshot
WHERE blasts.snapshot IS NULL
"""
_TEMPLATE = "INSERT INTO blast_templates (hash, content) VALUES (?, ?) ON CONFLICT DO NOTHING"
# a change may arrive before the blast itself: the row then starts empty, and ACCEPT fills it
MEET = "INSERT INTO blasts (blast_id, created_at_ms) VALUES (?, ?) ON CONFLICT (blast_id) DO NOTHING"
CHANGE = {
    "paused": "UPDATE blasts SET pause_reason = CASE WHEN ?1 >= paused_at_ms THEN ?2 ELSE pause_reason END,"
    " paused_at_ms = max(paused_at_ms, ?1) WHERE blast_id = ?3",
    "resumed": "UPDATE blasts SET resumed_at_ms = max(resumed_at_ms, ?1) WHERE blast_id = ?3",
    "cancelled": "UPDATE blasts SET cancelled_at_ms = max(cancelled_at_ms, ?1) WHERE blast_id = ?3",
    "incomplete": "UPDATE blasts SET incomplete_at_ms = max(incomplete_at_ms, ?1) WHERE blast_id = ?3",
    "reopened": "UPDATE blasts SET reopened_at_ms = max(reopened_at_ms, ?1) WHERE blast_id = ?3",
}
_STATE = """
SELECT blast_id, state, totals, scheduled_at_ms, paused_at_ms, resumed_at_ms, cancelled_at_ms, incomplete_at_ms,
    ends, ended_at_ms, pause_reason
FROM blasts WHERE blast_id = ?
"""
_COUNTS = "SELECT channel, status, n FROM blast_counts WHERE blast_id = ? AND n > 0"
_SET_STATE = "UPDATE blasts SET state = ?, ended_at_ms = ? WHERE blast_id = ?"
ENDED_STATES = frozenset({"completed", "completed_with_failures", "cancelled", "incomplete"})


def write_blasts(connection: Database, events: Iterable[BlastAccepted | BlastChanged | BlastChannelEnded]) -> set[str]:
    """Write events of blasts and return the blasts' ids; call `settle_states` with them afterwards."""
    touched: set[str] = set()
    for event in events:
        if isinstance(event, BlastAccepted):
            _accept(connection, event)
        elif isinstance(event, BlastChanged):
            connection.execute(MEET, (event.blast_id, event.at_ms))
            connection.execute(CHANGE[event.change], (event.at_ms, event.reason, event.blast_id))
        else:
            connection.execute(MEET, (event.blast_id, event.at_ms))
            _end_channel(connection, event)
        touched.add(event.blast_id)
    return touched


def _accept(connection: Database, event: BlastAccepted) -> None:
    try:
        blast = unpack_blast(event.snapshot)
    except DecodeError:
        log.exception("unreadable blast snapshot; its messages are still logged", blast=event.blast_id)
        connection.execute(MEET, (event.blast_id, event.at_ms))
        return
    template = msgspec.msgpack.encode(blast.template)
    digest = hashlib.sha256(template).digest()
    connection.execute(_TEMPLATE, (digest, template))
    connection.execute(
        ACCEPT,
        (blast.blast_id, blast.template.id, blast.template.name, digest, _json(blast.channels), _json(blast.totals),
         blast.total_recipients, sum(blast.totals.values()), blast.lane, blast.reference, _json(blast.metadata),
         blast.api_key, blast.created_at_ms, blast.scheduled_at_ms, blast.expires_at_ms,
         pack_blast(msgspec.structs.replace(blast, template=_STRIPPED))),
    )  # fmt: skip


def _end_channel(connection: Database, event: BlastChannelEnded) -> None:
    """Record the latest end of a channel and its total, which is lower than planned if the blast was cut short.

    Where a blast has jobs in several partitions, `shares` has the end of each, and `partitions` their number.
    """
    row = connection.execute("SELECT ends FROM blasts WHERE blast_id = ?", (event.blast_id,)).fetchone()
    ends: dict[str, dict[str, Any]] = orjson.loads(row[0])
    end = {"at_ms": event.at_ms, "total": event.counts.get("total", 0)}
    if event.partitions == 1:
        if event.at_ms < ends.get(event.channel, {}).get("at_ms", 0):
            return
        ends[event.channel] = end
    else:
        kept = ends.setdefault(event.channel, {"partitions": event.partitions, "shares": {}})
        shares, index = kept["shares"], str(event.partition)
        if event.at_ms < shares.get(index, {}).get("at_ms", 0):
            return
        shares[index] = end
    connection.execute("UPDATE blasts SET ends = ? WHERE blast_id = ?", (_json(ends), event.blast_id))


def read_ends(text: str) -> dict[str, dict[str, int]]:
    """Return the latest end of each channel (`at_ms`, `total`) on which all partitions with jobs have ended."""
    ends: dict[str, dict[str, Any]] = orjson.loads(text)
    return {
        channel: _whole(end) for channel, end in ends.items() if len(end.get("shares", ())) >= end.get("partitions", 0)
    }


def _whole(end: dict[str, Any]) -> dict[str, int]:
    shares = end.get("shares", {"0": end}).values()
    return {"at_ms": max(one["at_ms"] for one in shares), "total": sum(one["total"] for one in shares)}


class Settled(NamedTuple):
    """A blast whose state changed; `ended` is whether it ended with this change, `counts` its jobs by channel.

    `alone` is whether all of its jobs are in one partition of one channel.
    """

    blast_id: str
    state: BlastState
    ended: bool
    ended_at_ms: int
    paused_at_ms: int
    pause_reason: str
    counts: dict[str, dict[str, int]]
    alone: bool = False


def settle_states(connection: Database, blast_ids: Iterable[str]) -> list[Settled]:
    """Update the state of blasts after their events or counts changed; return those whose state is another now."""
    changed = []
    for blast_id in blast_ids:
        row = connection.execute(_STATE, (blast_id,)).fetchone()
        if row is None:
            continue
        counts = counts_of(connection, blast_id)
        state, ended_at_ms = state_of(row, counts)
        if (state, ended_at_ms) != (row[1], row[9]):
            connection.execute(_SET_STATE, (state, ended_at_ms, blast_id))
            ended = state in ENDED_STATES and bool(ended_at_ms) and not row[9]
            if ended or state != row[1]:
                alone = ended and _is_alone(row[2], row[8])
                changed.append(Settled(blast_id, state, ended, ended_at_ms, row[4], row[10], counts, alone))
    return changed


def _is_alone(totals: str, ends: str) -> bool:
    return len(orjson.loads(totals)) == 1 and '"shares"' not in ends


def counts_of(connection: Database, blast_id: str) -> dict[str, dict[str, int]]:
    """Return a blast's job counts by channel and status."""
    counts: dict[str, dict[str, int]] = {}
    for channel, status, n in connection.execute(_COUNTS, (blast_id,)):
        counts.setdefault(channel, {})[status] = n
    return counts


def state_of(row: tuple[Any, ...], counts: Mapping[str, Mapping[str, int]]) -> tuple[BlastState, int]:
    """Return a blast's state and the time of its end (ms, 0 while it runs) from its row and its jobs' counts."""
    _, _, totals_text, scheduled_at, paused_at, resumed_at, cancelled_at, incomplete_at, ends_text, *_ = row
    totals: dict[str, int] = orjson.loads(totals_text)
    ends = read_ends(ends_text)
    totals |= {channel: end["total"] for channel, end in ends.items()}
    done = {channel: sum(counts.get(channel, {}).get(status, 0) for status in TERMINAL) for channel in totals}
    if totals and all(done[channel] >= total and channel in ends for channel, total in totals.items()):
        ended_at_ms = max(end["at_ms"] for end in ends.values())
        return _ended_state(counts, cancelled_at, incomplete_at), ended_at_ms
    if cancelled_at:
        return "cancelled", 0
    # a pause ends with the blast, even if dead letters reopen the blast later
    outlived = bool(totals) and all(ends.get(channel, {}).get("at_ms", 0) >= paused_at for channel in totals)
    if paused_at > resumed_at and not outlived:
        return "paused", 0
    known = {channel: sum(counts.get(channel, {}).values()) for channel in totals}
    if any(known[channel] < total for channel, total in totals.items()):
        return "enqueueing", 0
    scheduled = scheduled_at and any(by_status.get("scheduled") for by_status in counts.values())
    return ("scheduled" if scheduled else "running"), 0


def _ended_state(counts: Mapping[str, Mapping[str, int]], cancelled_at: int, incomplete_at: int) -> BlastState:
    if cancelled_at:
        return "cancelled"
    if incomplete_at:
        return "incomplete"
    unsent = any(by_status.get(name) for by_status in counts.values() for name in ("failed", "expired", "suppressed"))
    return "completed_with_failures" if unsent else "completed"


def read_snapshot(connection: Database, blast_id: str) -> Blast | None:
    """Return a blast's snapshot with its template, or None if the blast is unknown."""
    row = connection.execute(
        "SELECT b.snapshot, t.content FROM blasts b JOIN blast_templates t ON t.hash = b.template_hash"
        " WHERE b.blast_id = ?",
        (blast_id,),
    ).fetchone()
    if row is None or row[0] is None:
        return None
    return msgspec.structs.replace(unpack_blast(row[0]), template=_templates.decode(row[1]))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
