"""Early receipts: those that arrive before the row of their message. They wait until it comes, for at most a week.

Each waits under one reference: the job that it names, else the provider's id, else the address. What only an address
names is a person's choice, and waits for the next message to that person, as long as the log keeps rows. Everything
else belongs to a message that is a moment away, or to another system at the same provider, whose receipts never end:
so both their time and their number are bounded (docs/decisions/0280).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import orjson

from services.logger.database import Database
from services.logger.folding import JobChange
from shared.addresses import identity
from shared.channels import CHANNELS, EMAIL
from shared.receipts import Receipt, job_of_message_id

_LONGEST_REF = 500
WAITS_MS = 7 * 86_400_000
"""How long a receipt waits for its message: as long as the most patient provider repeats one."""
MOST_EARLY = 1_000_000
# so that a flood does not drop a few in every transaction
_SLACK = 50
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Receipt)

_KEEP = """
INSERT INTO early_receipts (channel, ref, kind, at_ms, source, receipt, kept_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_ANY = "SELECT 1 FROM early_receipts WHERE channel = ? LIMIT 1"
_WAKE = """
SELECT id, channel, receipt, at_ms, kept_at_ms FROM early_receipts
WHERE channel = ? AND ref IN (SELECT value FROM json_each(?))
"""
_FORGET = "DELETE FROM early_receipts WHERE id = ?"
_COUNT = """
INSERT INTO early_counts (channel, state, n) VALUES (?, ?, ?)
ON CONFLICT (channel, state) DO UPDATE SET n = early_counts.n + excluded.n
"""
_WAITING = "SELECT coalesce(sum(n), 0) FROM early_counts WHERE state = 'waiting'"
# references of addresses begin so (`_reference`); they stay
_OLDEST = "SELECT id, channel FROM early_receipts WHERE id > 0 AND substr(ref, 1, 3) <> 'to ' ORDER BY id LIMIT ?"
OLD_EARLY = """
SELECT id, channel, CASE WHEN substr(ref, 1, 3) = 'to ' THEN kept_at_ms < ?1 ELSE kept_at_ms < ?2 END, kept_at_ms < ?2
FROM early_receipts WHERE id > ?3 ORDER BY id LIMIT ?4
"""


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A receipt from a channel's stream, its time in ms, and its id if it waited until now."""

    channel: str
    receipt: Receipt
    at_ms: int
    early_id: int = 0


def keep_early(connection: Database, incoming: Iterable[Incoming], now_ms: int, most: int = MOST_EARLY) -> None:
    """Store receipts whose message is not in the log; one that waits already is not stored again.

    Of more than `most` the oldest are dropped, and count as unmatched like those that nothing could ever find.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for one in incoming:
        ref = _reference(one)
        if not ref:
            counts[one.channel, "unmatched"] += 1
            continue
        row = (one.channel, ref, one.receipt.kind, one.at_ms, one.receipt.source, _encoder.encode(one.receipt), now_ms)
        counts[one.channel, "waiting"] += connection.execute(_KEEP, row).rowcount
    _count(connection, counts)
    if counts.total():
        _drop_oldest(connection, most)


def _drop_oldest(connection: Database, most: int) -> None:
    waiting = int(connection.execute(_WAITING).fetchone()[0])
    if waiting > most:
        _drop(connection, connection.execute(_OLDEST, (waiting - most + most // _SLACK,)).fetchall())


def wake_early(connection: Database, changes: Iterable[JobChange]) -> list[Incoming]:
    """Return the receipts that waited for one of these jobs; they stay stored until `forget_early`."""
    # a channel for which nothing waits, as usual, costs one look
    refs: dict[str, list[str]] = {name: [] for name in CHANNELS if connection.execute(_ANY, (name,)).fetchone()}
    for change in changes if refs else ():
        of_channel = refs.get(change.job_id.rpartition(":")[2])
        if of_channel is None:
            continue
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


def forget_early(connection: Database, incoming: Sequence[Incoming]) -> None:
    """Delete receipts that have been applied."""
    connection.executemany(_FORGET, ((one.early_id,) for one in incoming))
    by_channel = Counter(one.channel for one in incoming)
    _count(connection, Counter({(channel, "waiting"): -n for channel, n in by_channel.items()}))


class EarlyExpiry:
    """Deletes receipts that have waited for too long, a chunk at a time, and counts them as unmatched.

    Those that only an address names were kept before `before_ms`; all others before that or WAITS_MS before `now_ms`.
    """

    def __init__(self, before_ms: int, now_ms: int) -> None:
        self._before_ms = before_ms
        self._others_before_ms = max(before_ms, now_ms - WAITS_MS)
        self._last_id = 0

    def __call__(self, connection: Database, most: int) -> tuple[int, bool]:
        """Look at the next `most` receipts; return how many were deleted, and whether more may be left."""
        bounds = (self._before_ms, self._others_before_ms, self._last_id, most)
        rows = connection.execute(OLD_EARLY, bounds).fetchall()
        old = [(row_id, channel) for row_id, channel, is_old, _ in rows if is_old]
        _drop(connection, old)
        self._last_id = rows[-1][0] if rows else self._last_id
        return len(old), len(rows) == most and bool(rows[-1][3])


def _drop(connection: Database, rows: Sequence[tuple[int, str]]) -> None:
    """Delete rows, of which ids and channels are given, and count them as unmatched."""
    connection.executemany(_FORGET, ((row_id,) for row_id, _ in rows))
    counts: Counter[tuple[str, str]] = Counter()
    for channel, n in Counter(channel for _, channel in rows).items():
        counts[channel, "waiting"], counts[channel, "unmatched"] = -n, n
    _count(connection, counts)


def _count(connection: Database, counts: Counter[tuple[str, str]]) -> None:
    connection.executemany(_COUNT, ((*key, n) for key, n in counts.items() if n))


def _reference(one: Incoming) -> str:
    """Return the reference under which a receipt waits, "" if it names nothing that a row could have.

    A row of mail never has a provider's id: its message id is our own Message-ID (docs/decisions/0266).
    """
    receipt = one.receipt
    own = job_of_message_id(receipt.message_id) if receipt.message_id else None
    if receipt.job_id or own:
        ref = receipt.job_id or (own[0] if own else "")
    elif receipt.provider_id and one.channel != EMAIL.name:
        ref = f"id {receipt.provider_id}"
    elif receipt.address and receipt.kind in {"opted_out", "opted_in"}:
        ref = f"to {identity(receipt.address)}"
    else:
        return ""
    return ref if len(ref) <= _LONGEST_REF else ""
