"""Receipts: applies what providers reported about messages after they accepted them, in the batch's transaction.

A receipt is found by the job id, our own Message-ID, the provider's id or, if it is an opt-out, the address. Each is a
row once, however often it comes; `delivery` of the message's row is the kind with the highest rank so far, so any order
gives the same rows. One whose message is not in the log yet waits (`early_receipts`). All statements are for a whole
batch, since providers send three receipts for each message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


class _New(NamedTuple):
    """A receipt that was not known, its message, its source as it is stored, and the run that it is about."""

    incoming: Incoming
    target: Target
    source: str
    run: int


class _State(NamedTuple):
    """A new delivery of a message: its rank, its kind, when, and the message's row."""

    rank: int
    kind: str
    at: str
    target: Target


def apply_receipts(connection: Database, incoming: Sequence[Incoming], now_ms: int) -> Noted:
    """Apply receipts and those that waited; call it after the batch's jobs are written, within the transaction."""
    if not incoming:
        return Noted()
    found, unknown = match(connection, incoming)
    keep_early(connection, [one for one in unknown if not one.early_id], now_ms)
    forget_early(connection, [one for one, _ in found if one.early_id])
    new = _select_new(found, _known(connection, [target.job_id for _, target in found]))
    rows_of(connection).write_receipts(connection, [_row(one) for one in new])
    _write_deliveries(connection, _raised(new))
    _write_counts(connection, new)
    return Noted(
        [_delay(one, target) for one, target, _, _ in new if target.status == "sent"],
        write_suppressions(connection, [_reported(one) for one in new if concerns_suppressions(one.incoming.receipt)]),
        [NewReceipt(target.job_id, run, one.at_ms, source, one.receipt) for one, target, source, run in new],
    )


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


def _select_new(found: Sequence[tuple[Incoming, Target]], known: set[Key]) -> list[_New]:
    """Return the receipts that are not known yet, each once; add them to `known`.

    One without a time of its own is the same as any of its job, kind and source: a provider that did not see our answer
    sends it again later.
    """
    new = []
    # hardly any provider leaves out the time
    timed = all(one.receipt.timed for one, _ in found)
    seen = set() if timed else {(job_id, kind, source) for job_id, kind, _, source in known}
    for one, target in found:
        receipt = one.receipt
        source = receipt.source[:_LONGEST_SOURCE]
        key = (target.job_id, receipt.kind, one.at_ms, source)
        if key in known:
            continue
        if not timed:
            timeless = (target.job_id, receipt.kind, source)
            if timeless in seen and not receipt.timed:
                continue
            seen.add(timeless)
        known.add(key)
        new.append(_New(one, target, source, target.run_of(receipt)))
    return new


def _row(new: _New) -> tuple[object, ...]:
    one, target, source, run = new
    receipt = one.receipt
    return (
        target.job_id, receipt.kind, one.at_ms, source, run, receipt.severity, receipt.code[:_LONGEST_CODE],
        receipt.words[:_LONGEST_WORDS], receipt.trusted, _evidence(receipt, target),
    )  # fmt: skip


def _reported(new: _New) -> Reported:
    one, target, _, _ = new
    return Reported(target.channel, target.address or "", target.job_id, one.at_ms, one.receipt)


def _delay(one: Incoming, target: Target) -> Delay:
    sent_at = datetime.fromisoformat(target.updated_at).timestamp()
    return Delay(target.channel, one.receipt.kind, max(0.0, one.at_ms / 1000 - sent_at))


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


def _raised(new: Iterable[_New]) -> dict[str, _State]:
    """Return the new deliveries by job: a higher rank, or the same one at an earlier time."""
    raised: dict[str, _State] = {}
    for one, target, _, _ in new:
        kind = one.receipt.kind
        rank = delivery_rank(target.channel, kind)
        if not rank:
            continue
        state = raised.get(target.job_id)
        if state is None:
            before = delivery_rank(target.channel, target.delivery or "")
            at_before = target.delivery_at or ""
        else:
            before, at_before = state.rank, state.at
        if rank < before:
            continue
        at = rfc3339(one.at_ms)
        if rank > before or at < at_before:
            raised[target.job_id] = _State(rank, kind, at, target)
    return raised


def _write_deliveries(connection: Database, raised: Mapping[str, _State]) -> None:
    """Write the new deliveries into the messages' rows, and move their counts."""
    written = Deliveries([(state.kind, state.at, state.target.row_id) for state in raised.values()])
    # most messages of a batch make the same few moves, so count each move first
    moves = Counter(
        (state.target.blast_id, state.target.channel, state.target.delivery, state.kind) for state in raised.values()
    )
    for (blast_id, channel, before, after), n in moves.items():
        if before == after:
            continue
        written.counts[blast_id, channel, after] += n
        if before:
            written.counts[blast_id, channel, before] -= n
    rows_of(connection).write_deliveries(connection, written)


def _write_counts(connection: Database, new: Iterable[_New]) -> None:
    """Count receipts by provider, and by minute."""
    totals: Counter[tuple[str, str, str]] = Counter()
    minutes: Counter[tuple[int, str, str]] = Counter()
    alike = Counter(
        (one.at_ms // _MINUTE_MS, target.channel, source, one.receipt.kind) for one, target, source, _ in new
    )
    for (minute, channel, source, kind), n in alike.items():
        totals[channel, source if source in SOURCES else OTHER_SOURCE, kind] += n
        minutes[minute, channel, kind] += n
    connection.executemany(_ADD_TOTALS, ((*key, n) for key, n in totals.items()))
    connection.executemany(_ADD_MINUTES, ((*key, n) for key, n in minutes.items()))
