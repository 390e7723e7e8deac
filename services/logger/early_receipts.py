"""Early receipts: those that arrive before the row of their message. They wait until it comes, or retention drops them.

Each waits under one reference: the job that it names, else the provider's id, else the address.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import orjson

from services.logger.folding import JobChange
from shared.addresses import identity
from shared.receipts import Receipt, job_of_message_id

_LONGEST_REF = 500
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Receipt)

_KEEP = """
INSERT OR IGNORE INTO early_receipts (channel, ref, kind, at_ms, source, receipt, kept_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_ANY = "SELECT max(id) FROM early_receipts"
_WAKE = """
SELECT id, channel, receipt, at_ms, kept_at_ms FROM early_receipts
WHERE channel = ? AND ref IN (SELECT value FROM json_each(?))
"""
_FORGET = "DELETE FROM early_receipts WHERE id = ?"
_COUNT = """
INSERT INTO early_counts (channel, state, n) VALUES (?, ?, ?)
ON CONFLICT (channel, state) DO UPDATE SET n = n + excluded.n
"""
OLD_EARLY = "SELECT id, channel, kept_at_ms < ?1 FROM early_receipts WHERE id > 0 ORDER BY id LIMIT ?2"


class Incoming(NamedTuple):
    """A receipt from a channel's stream, its time in ms, and its id if it waited until now."""

    channel: str
    receipt: Receipt
    at_ms: int
    early_id: int = 0


def keep_early(connection: sqlite3.Connection, incoming: Iterable[Incoming], now_ms: int) -> None:
    """Store receipts whose message is not in the log; one that waits already is not stored again."""
    for one in incoming:
        ref = _reference(one)
        if not ref:
            _count(connection, one.channel, "unmatched", 1)
            continue
        row = (one.channel, ref, one.receipt.kind, one.at_ms, one.receipt.source, _encoder.encode(one.receipt), now_ms)
        if connection.execute(_KEEP, row).rowcount:
            _count(connection, one.channel, "waiting", 1)


def wake_early(connection: sqlite3.Connection, changes: Iterable[JobChange]) -> list[Incoming]:
    """Return the receipts that waited for one of these jobs; they stay stored until `forget_early`."""
    if connection.execute(_ANY).fetchone()[0] is None:
        return []
    refs: dict[str, list[str]] = {}
    for change in changes:
        of_channel = refs.setdefault(change.job_id.rpartition(":")[2], [])
        of_channel.append(change.job_id)
        if change.message_id:
            of_channel.append(f"id {change.message_id}")
        if change.address:
            of_channel.append(f"to {identity(change.address)}")
    return [
        Incoming(channel, _decoder.decode(raw), at_ms, early_id)
        for name, some in refs.items()
        for early_id, channel, raw, at_ms, _ in connection.execute(_WAKE, (name, orjson.dumps(some).decode()))
    ]


def forget_early(connection: sqlite3.Connection, incoming: Sequence[Incoming]) -> None:
    """Delete receipts that have been applied."""
    connection.executemany(_FORGET, ((one.early_id,) for one in incoming))
    for channel, n in Counter(one.channel for one in incoming).items():
        _count(connection, channel, "waiting", -n)


def expire_early(connection: sqlite3.Connection, before_ms: int, most: int) -> tuple[int, bool]:
    """Delete at most `most` receipts that have waited since before `before_ms`, and count them as unmatched.

    Returns how many were deleted, and whether more may be left.
    """
    rows = connection.execute(OLD_EARLY, (before_ms, most)).fetchall()
    old = [row for row in rows if row[2]]
    connection.executemany(_FORGET, ((row[0],) for row in old))
    for channel, n in Counter(row[1] for row in old).items():
        _count(connection, channel, "waiting", -n)
        _count(connection, channel, "unmatched", n)
    return len(old), len(old) == most


def _count(connection: sqlite3.Connection, channel: str, state: str, n: int) -> None:
    connection.execute(_COUNT, (channel, state, n))


def _reference(one: Incoming) -> str:
    """Return the reference under which a receipt waits, "" if it names nothing that a row could have."""
    receipt = one.receipt
    own = job_of_message_id(receipt.message_id) if receipt.message_id else None
    if receipt.job_id or own:
        ref = receipt.job_id or (own[0] if own else "")
    elif receipt.provider_id:
        ref = f"id {receipt.provider_id}"
    elif receipt.address and receipt.kind in {"opted_out", "opted_in"}:
        ref = f"to {identity(receipt.address)}"
    else:
        return ""
    return ref if len(ref) <= _LONGEST_REF else ""
