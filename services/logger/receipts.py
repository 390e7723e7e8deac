"""Receipts: applies what providers reported about messages after they accepted them, in the batch's transaction.

A receipt is found by the job id, our own Message-ID, the provider's id or, if it is an opt-out, the address. Each is a
row once, however often it comes; `delivery` of the message's row is the kind with the highest rank so far, so any order
gives the same rows. One whose message is not in the log yet waits (`early_receipts`). All statements are for a whole
batch, since providers send three receipts for each message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import orjson

from services.logger.database import Database
from services.logger.early_receipts import Incoming, forget_early, keep_early
from services.logger.receipt_matching import Target, match
from services.logger.row_writing import Deliveries
from services.logger.sqlite_rows import rows_of
from services.logger.suppressing import Reported, concerns_suppressions, write_suppressions
from services.logger.webhooks.journal import NewReceipt
from shared.clock import rfc3339
from shared.receipts import Receipt, delivery_rank

# labels of metrics come from this closed set
SOURCES = frozenset({"meta", "qiscus", "ses", "sendgrid", "mailgun", "postmark", "brevo", "resend", "mail"})
OTHER_SOURCE = "other"
_LONGEST_SOURCE, _LONGEST_CODE, _LONGEST_WORDS = 64, 64, 1000
_DAY_MS, _MINUTE_MS = 86_400_000, 60_000

_KNOWN = """
SELECT job_id, kind, at_ms, source FROM message_receipts WHERE job_id IN (SELECT value FROM json_each(?))
"""
_ADD = """
INSERT INTO {table} ({keys}, n) VALUES ({marks}, ?) ON CONFLICT ({keys}) DO UPDATE SET n = {table}.n + excluded.n
"""

Key = tuple[str, str, int, str]


def _adding(table: str, *keys: str) -> str:
    return _ADD.format(table=table, keys=", ".join(keys), marks=", ".join("?" * len(keys)))


_ADD_TOTALS = _adding("receipt_totals", "channel", "source", "kind")
_ADD_MINUTES = _adding("receipt_minutes", "minute", "channel", "kind")


class Delay(NamedTuple):
    """How long after its message was sent a receipt's event took place."""

    channel: str
    kind: str
    seconds: float


@dataclass(slots=True)
class Noted:
    """The result of a batch of receipts: the new ones, their delays, and how many changes of suppressions follow."""

    delays: list[Delay] = field(default_factory=list)
    suppressions: int = 0
    new: list[NewReceipt] = field(default_factory=list)


class _State(NamedTuple):
    """A message's delivery: its rank, its kind, when, and the target's row."""

    rank: int
    kind: str
    at: str


@dataclass(slots=True)
class _Changes:
    """What a batch of receipts changes: parameters for the statements above, by table."""

    rows: list[tuple[object, ...]] = field(default_factory=list)
    states: dict[str, _State] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    totals: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    minutes: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    reported: list[Reported] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    new: list[NewReceipt] = field(default_factory=list)


def apply_receipts(connection: Database, incoming: Sequence[Incoming], now_ms: int) -> Noted:
    """Apply receipts and those that waited; call it after the batch's jobs are written, within the transaction."""
    if not incoming:
        return Noted()
    found, unknown = match(connection, incoming)
    keep_early(connection, [one for one in unknown if not one.early_id], now_ms)
    forget_early(connection, [one for one, _ in found if one.early_id])
    changes = _merge(found, _known(connection, [target.job_id for _, target in found]))
    rows_of(connection).write_receipts(connection, changes.rows)
    _write_deliveries(connection, changes)
    connection.executemany(_ADD_TOTALS, ((*key, n) for key, n in changes.totals.items()))
    connection.executemany(_ADD_MINUTES, ((*key, n) for key, n in changes.minutes.items()))
    return Noted(changes.delays, write_suppressions(connection, changes.reported), changes.new)


def incoming_of(channel: str, receipts: Iterable[Receipt], taken_at_ms: int, now_ms: int) -> list[Incoming]:
    """Return receipts of a channel's stream with their time in ms; an absurd time becomes when it was taken."""
    taken_at_ms = taken_at_ms or now_ms
    return [Incoming(channel, one, _time_of(one, taken_at_ms)) for one in receipts]


def _time_of(receipt: Receipt, taken_at_ms: int) -> int:
    # also false for NaN and the infinities
    return round(receipt.at * 1000) if 0 < receipt.at * 1000 <= taken_at_ms + _DAY_MS else taken_at_ms


def _known(connection: Database, job_ids: Iterable[str]) -> set[Key]:
    """Return the receipts of these jobs that were applied before."""
    return set(connection.execute(_KNOWN, (orjson.dumps(list(dict.fromkeys(job_ids))).decode(),)))


def _merge(found: Sequence[tuple[Incoming, Target]], known: set[Key]) -> _Changes:
    """Return the changes of the receipts that are not known yet.

    One without a time of its own is the same as any of its job, kind and source: a provider that did not see our answer
    sends it again later.
    """
    changes = _Changes()
    seen = {(job_id, kind, source) for job_id, kind, _, source in known}
    for one, target in found:
        receipt = one.receipt
        source = receipt.source[:_LONGEST_SOURCE]
        key = (target.job_id, receipt.kind, one.at_ms, source)
        timeless = (target.job_id, receipt.kind, source)
        if key in known or (timeless in seen and not receipt.timed):
            continue
        known.add(key)
        seen.add(timeless)
        changes.rows.append(_row(one, target, source))
        changes.new.append(NewReceipt(target.job_id, target.run_of(receipt), one.at_ms, source, receipt))
        changes.targets[target.job_id] = target
        _raise_delivery(changes, one, target)
        label = source if source in SOURCES else OTHER_SOURCE
        changes.totals[target.channel, label, receipt.kind] += 1
        changes.minutes[one.at_ms // _MINUTE_MS, target.channel, receipt.kind] += 1
        if target.status == "sent":
            changes.delays.append(Delay(target.channel, receipt.kind, _seconds_since(target.updated_at, one.at_ms)))
        if concerns_suppressions(receipt):
            changes.reported.append(Reported(target.channel, target.address or "", target.job_id, one.at_ms, receipt))
    return changes


def _row(one: Incoming, target: Target, source: str) -> tuple[object, ...]:
    receipt = one.receipt
    return (
        target.job_id, receipt.kind, one.at_ms, source, target.run_of(receipt), receipt.severity,
        receipt.code[:_LONGEST_CODE], receipt.words[:_LONGEST_WORDS], receipt.trusted, _evidence(receipt, target),
    )  # fmt: skip


def _evidence(receipt: Receipt, target: Target) -> str:
    """Return as JSON what the receipt says of its message and the row does not; "" for nothing."""
    evidence = {}
    if receipt.provider_id and receipt.provider_id != target.message_id:
        evidence["provider_id"] = receipt.provider_id[:_LONGEST_WORDS]
    if receipt.message_id and f"<{receipt.message_id}>" != target.message_id:
        evidence["message_id"] = receipt.message_id[:_LONGEST_WORDS]
    if receipt.address and receipt.address != target.address:
        evidence["address"] = receipt.address[:_LONGEST_WORDS]
    return orjson.dumps(evidence).decode() if evidence else ""


def _raise_delivery(changes: _Changes, one: Incoming, target: Target) -> None:
    """Note a new delivery: a higher rank, or the same one at an earlier time."""
    rank = delivery_rank(target.channel, one.receipt.kind)
    if not rank:
        return
    state = changes.states.get(target.job_id) or _State(
        delivery_rank(target.channel, target.delivery or ""), target.delivery or "", target.delivery_at or ""
    )
    if rank < state.rank:
        return
    at = rfc3339(one.at_ms)
    if rank > state.rank or (rank == state.rank and at < state.at):
        changes.states[target.job_id] = _State(rank, one.receipt.kind, at)


def _seconds_since(sent_at: str, at_ms: int) -> float:
    return max(0.0, at_ms / 1000 - datetime.fromisoformat(sent_at).timestamp())


def _write_deliveries(connection: Database, changes: _Changes) -> None:
    """Write the new deliveries into the messages' rows, and move their counts."""
    written = Deliveries()
    for job_id, state in changes.states.items():
        target = changes.targets[job_id]
        written.updates.append((state.kind, state.at, target.row_id))
        if state.kind == target.delivery:
            continue
        for delivery, n in ((state.kind, 1), (target.delivery, -1)):
            if delivery:
                written.counts[target.blast_id, target.channel, delivery] += n
    rows_of(connection).write_deliveries(connection, written)
