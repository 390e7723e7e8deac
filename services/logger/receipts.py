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
from functools import cache

import msgspec
import orjson

from services.logger.database import Database
from services.logger.early_receipts import Incoming, forget_early, keep_early
from services.logger.receipt_matching import Target, match
from services.logger.row_writing import Alike, Deliveries
from services.logger.sqlite_rows import rows_of
from services.logger.suppressing import Reported, concerns_suppressions, write_suppressions
from services.logger.webhooks.journal import NewReceipt
from shared.clock import ms_of, rfc3339
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
Delays = dict[tuple[str, str], list[float]]


def _adding(table: str, *keys: str) -> str:
    return _ADD.format(table=table, keys=", ".join(keys), marks=", ".join("?" * len(keys)))


_ADD_TOTALS = _adding("receipt_totals", "channel", "source", "kind")
_ADD_MINUTES = _adding("receipt_minutes", "minute", "channel", "kind")


@dataclass(slots=True)
class Noted:
    """The result of a batch of receipts: their delays, how many changes of suppressions follow, and the new ones.

    `delays` are by channel and kind, in seconds from when the message was sent. `new` can be read once.
    """

    delays: Delays = field(default_factory=dict)
    suppressions: int = 0
    new: Iterable[NewReceipt] = ()


class _New(msgspec.Struct, frozen=True, gc=False):
    """A receipt that was not known, its message, its time, its source as it is stored, and the run that it is about."""

    receipt: Receipt
    target: Target
    at_ms: int
    source: str
    run: int


class _State(msgspec.Struct, frozen=True, gc=False):
    """A new delivery of a message: its kind, when, and the message's row."""

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
    new = _select_new(found, _known(connection, found))
    alike = _alike(new)
    rows_of(connection).write_receipts(connection, alike)
    _write_deliveries(connection, _raised(new))
    _write_counts(connection, alike)
    return Noted(
        _delays(new),
        write_suppressions(connection, [_reported(one) for one in new if concerns_suppressions(one.receipt)]),
        (NewReceipt(one.target.job_id, one.run, one.at_ms, one.source, one.receipt) for one in new),
    )


def incoming_of(channel: str, receipts: Iterable[Receipt], taken_at_ms: int, now_ms: int) -> list[Incoming]:
    """Return receipts of a channel's stream with their time in ms; an absurd time becomes when it was taken."""
    taken_at_ms = taken_at_ms or now_ms
    latest_ms = taken_at_ms + _DAY_MS
    # the condition is also false for NaN and the infinities
    return [
        Incoming(channel, one, round(at_ms) if 0 < (at_ms := one.at * 1000) <= latest_ms else taken_at_ms)
        for one in receipts
    ]


@cache
def _outranks(channel: str, kind: str, delivery: str | None) -> bool:
    """Return whether a receipt of this kind changes a delivery of another kind, or of none."""
    return delivery_rank(channel, kind) > delivery_rank(channel, delivery or "")


def _known(connection: Database, found: Iterable[tuple[Incoming, Target]]) -> set[Key]:
    """Return those receipts of these messages that were applied before and could be among `found`.

    One that outranks the delivery of its message is new: had it been applied, the delivery would be at least its kind.
    """
    asked = {target.job_id for one, target in found if not _outranks(one.channel, one.receipt.kind, target.delivery)}
    return set(connection.execute(_KNOWN, (orjson.dumps(list(asked)).decode(),))) if asked else set()


def _select_new(found: Sequence[tuple[Incoming, Target]], known: set[Key]) -> list[_New]:
    """Return the receipts that are not known yet, each once; add them to `known`.

    One without a time of its own is the same as any of its job, kind and source: a provider that did not see our answer
    sends it again later.
    """
    new = []
    # made only if one has no time: hardly any provider leaves it out
    seen: set[tuple[str, str, str]] | None = None
    for one, target in found:
        receipt, at_ms = one.receipt, one.at_ms
        source = receipt.source[:_LONGEST_SOURCE]
        key = (target.job_id, receipt.kind, at_ms, source)
        if key in known:
            continue
        if seen is None and not receipt.timed:
            seen = {(job_id, kind, source) for job_id, kind, _, source in known}
        if seen is not None:
            timeless = (target.job_id, receipt.kind, source)
            if timeless in seen and not receipt.timed:
                continue
            seen.add(timeless)
        known.add(key)
        # as from WhatsApp, most have no Message-ID
        run = target.run_of(receipt) if receipt.message_id else target.run
        new.append(_New(receipt, target, at_ms, source, run))
    return new


def _alike(new: Iterable[_New]) -> dict[Alike, list[str]]:
    """Return the jobs of receipts that differ in nothing else: most have a time in whole seconds, and no words."""
    alike: dict[Alike, list[str]] = {}
    for one in new:
        receipt, target = one.receipt, one.target
        plain = (
            receipt.provider_id == target.message_id and receipt.address == target.address and not receipt.message_id
        )
        like = (
            target.channel, receipt.kind, one.at_ms, one.source, one.run, receipt.severity,
            receipt.code[:_LONGEST_CODE], receipt.words[:_LONGEST_WORDS], receipt.trusted,
            "" if plain else _evidence(receipt, target),
        )  # fmt: skip
        jobs = alike.get(like)
        if jobs is None:
            jobs = alike[like] = []
        jobs.append(target.job_id)
    return alike


def _reported(new: _New) -> Reported:
    target = new.target
    return Reported(target.channel, target.address or "", target.job_id, new.at_ms, new.receipt)


def _delays(new: Iterable[_New]) -> Delays:
    """Return by channel and kind how long after its message was sent each receipt's event took place."""
    delays: Delays = {}
    for one in new:
        target = one.target
        if target.status != "sent":
            continue
        labels = (target.channel, one.receipt.kind)
        of_kind = delays.get(labels)
        if of_kind is None:
            of_kind = delays[labels] = []
        seconds = (one.at_ms - ms_of(target.updated_at)) / 1000
        of_kind.append(seconds if seconds > 0 else 0.0)
    return delays


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
    """Return the new deliveries by job: a higher rank, or the same kind at an earlier time."""
    raised: dict[str, _State] = {}
    for one in new:
        target, kind, at_ms = one.target, one.receipt.kind, one.at_ms
        state = raised.get(target.job_id)
        before, at_before = (target.delivery, target.delivery_at or "") if state is None else (state.kind, state.at)
        if _outranks(target.channel, kind, before):
            raised[target.job_id] = _State(kind, rfc3339(at_ms), target)
        elif kind == before:
            at = rfc3339(at_ms)
            if at < at_before:
                raised[target.job_id] = _State(kind, at, target)
    return raised


def _write_deliveries(connection: Database, raised: Mapping[str, _State]) -> None:
    """Write the new deliveries into the messages' rows, and move their counts."""
    written = Deliveries()
    for state in raised.values():
        kind, at, target = state.kind, state.at, state.target
        rows = written.updates.get((kind, at))
        if rows is None:
            rows = written.updates[kind, at] = []
        rows.append(target.row_id)
    # most messages of a batch make the same few moves, so count each move first
    moves = Counter(
        [(one.target.blast_id, one.target.channel, one.target.delivery, one.kind) for one in raised.values()]
    )
    for (blast_id, channel, before, after), n in moves.items():
        if before == after:
            continue
        written.counts[blast_id, channel, after] += n
        if before:
            written.counts[blast_id, channel, before] -= n
    rows_of(connection).write_deliveries(connection, written)


def _write_counts(connection: Database, alike: Mapping[Alike, Sequence[str]]) -> None:
    """Count receipts by provider, and by minute."""
    totals: Counter[tuple[str, str, str]] = Counter()
    minutes: Counter[tuple[int, str, str]] = Counter()
    for (channel, kind, at_ms, source, *_), jobs in alike.items():
        totals[channel, source if source in SOURCES else OTHER_SOURCE, kind] += len(jobs)
        minutes[at_ms // _MINUTE_MS, channel, kind] += len(jobs)
    connection.executemany(_ADD_TOTALS, ((*key, n) for key, n in totals.items()))
    connection.executemany(_ADD_MINUTES, ((*key, n) for key, n in minutes.items()))
