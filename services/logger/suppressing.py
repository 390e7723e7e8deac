"""Suppressing: which suppressions follow from receipts, written to the outbox in the receipts' own transaction.

| receipt | effect |
| --- | --- |
| hard bounce | suppresses the address for all messages |
| soft bounce | of 5 messages in 30 days with no delivery in between: for all messages, 14 days from the last one |
| complaint | suppresses the address for marketing |
| opt-out, opt-in | suppresses for marketing, lifts an opt-out; by the time of the events, whatever order they come in |

Only a trusted receipt has an effect, and only on the address of our own row: a forged one suppresses nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import orjson

from services.logger.database import Database
from shared.addresses import identity
from shared.errors import OPTED_OUT_REASON
from shared.receipts import Receipt
from shared.suppressions import HARD_BOUNCE, Source, Suppression, pack_suppression, scope_of

DAY_MS = 86_400_000
SOFT_BOUNCES, SOFT_WITHIN_MS, SOFT_FOR_MS = 5, 30 * DAY_MS, 14 * DAY_MS
SOFT_REASON, COMPLAINED = "soft_bounces", "complained"
_LONGEST_REASON, _LONGEST_WORDS = 100, 1000
# messages to one address whose receipts are looked at, the latest
_MOST_MESSAGES = 500
_OPTS = frozenset({"opted_out", "opted_in"})
_SUPPRESSING = frozenset({"complained", *_OPTS})

_OUTBOX = "INSERT INTO suppression_outbox (channel, address, suppression, at_ms) VALUES (?, ?, ?, ?)"
_JOBS_TO = """
SELECT job_id FROM message_logs INDEXED BY idx_{column} WHERE {column} = ? AND channel = ? ORDER BY id DESC LIMIT ?
"""
_HISTORY = """
SELECT at_ms, kind, severity, job_id FROM message_receipts WHERE trusted AND job_id IN (SELECT value FROM json_each(?))
"""
_Seen = tuple[int, str, str, str]


class Reported(NamedTuple):
    """A new receipt that concerns suppressions, with its time, and the address and job of our own row."""

    channel: str
    address: str
    job_id: str
    at_ms: int
    receipt: Receipt


def concerns_suppressions(receipt: Receipt) -> bool:
    """Return whether a receipt may change a suppression."""
    return receipt.trusted and (receipt.kind in _SUPPRESSING or (receipt.kind == "bounced" and receipt.severity != ""))


def write_suppressions(connection: Database, reported: Sequence[Reported]) -> int:
    """Add the changes that follow from new receipts to the outbox; return their number. The receipts are stored."""
    histories = _Histories(connection)
    changes = [change for one in reported for change in _changes(histories, one)]
    connection.executemany(_OUTBOX, changes)
    return len(changes)


class _Histories:
    """The trusted receipts of the latest messages to an address, in every spelling; each address is read once."""

    def __init__(self, connection: Database) -> None:
        self._connection = connection
        self._found: dict[tuple[str, str], list[_Seen]] = {}

    def of(self, one: Reported) -> list[_Seen]:
        """Return the history of a receipt's address."""
        own = identity(one.address)
        if (one.channel, own) not in self._found:
            # the address that was sent to is its own identity, or has it in `recipient_identity`
            columns = ("recipient_email" if "@" in one.address else "recipient_phone", "recipient_identity")
            jobs = [
                job_id
                for column in columns
                for (job_id,) in self._connection.execute(
                    _JOBS_TO.format(column=column), (own, one.channel, _MOST_MESSAGES)
                )
            ]
            rows = self._connection.execute(_HISTORY, (orjson.dumps(jobs).decode(),))
            self._found[one.channel, own] = rows.fetchall()
        return self._found[one.channel, own]


def _changes(histories: _Histories, one: Reported) -> Iterator[tuple[str, str, bytes, int]]:
    if one.receipt.kind == "opted_in":
        if _is_latest(histories, one):
            yield one.channel, one.address, b"", one.at_ms
        return
    suppression = _suppression(histories, one)
    if suppression is not None:
        yield one.channel, one.address, pack_suppression(suppression), one.at_ms


def _suppression(histories: _Histories, one: Reported) -> Suppression | None:
    receipt = one.receipt
    if receipt.kind == "complained":
        return _make(one, "complaint", COMPLAINED)
    if receipt.kind == "opted_out":
        return _make(one, "opt_out", OPTED_OUT_REASON) if _is_latest(histories, one) else None
    if receipt.severity == "hard":
        return _make(one, "bounce", HARD_BOUNCE)
    until_ms = soft_until(histories.of(one))
    return _make(one, "bounce", SOFT_REASON, until_ms) if until_ms else None


def _make(one: Reported, source: Source, reason: str, expires_at_ms: int = 0) -> Suppression:
    code = one.receipt.code
    written = f"{reason}: {code}"[:_LONGEST_REASON] if code else reason
    words = one.receipt.words[:_LONGEST_WORDS]
    return Suppression(scope_of(source), source, written, one.at_ms, expires_at_ms, job_id=one.job_id, words=words)


def soft_until(history: Iterable[_Seen]) -> int:
    """Return until when an address's soft bounces suppress it, 0 for not at all.

    A message counts once, at its first bounce: some providers report each of their own attempts. A delivery starts the
    count again, wherever it comes in time.
    """
    first: dict[str, int] = {}
    until_ms = 0
    for at_ms, kind, severity, job_id in sorted(history):
        if kind in {"delivered", "read"}:
            first.clear()
            until_ms = 0
        elif kind == "bounced" and severity == "soft" and job_id not in first:
            first[job_id] = at_ms
            if len(first) >= SOFT_BOUNCES and at_ms - list(first.values())[-SOFT_BOUNCES] <= SOFT_WITHIN_MS:
                until_ms = at_ms + SOFT_FOR_MS
    return until_ms


def _is_latest(histories: _Histories, one: Reported) -> bool:
    """Return whether an opt-out or opt-in is the latest of its address; of two at once the opt-out is."""
    opts = [(at_ms, kind == "opted_out") for at_ms, kind, *_ in histories.of(one) if kind in _OPTS]
    return (one.at_ms, one.receipt.kind == "opted_out") >= max(opts, default=(0, False))
