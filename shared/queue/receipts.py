"""The stream `receipts`: what providers and mail servers said about messages, whole and unread.

Ingest and the readers of bounce mail add entries. The receipts service takes them as one of a group, emits one batch of
events per entry, and then deletes the entry. The batch is named by the entry, so an entry that is taken again (its
consumer died, or an answer of Redis was lost) has no further effect.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.clock import Clock, SystemClock
from shared.errors import QueueFullError
from shared.events import MOST_RECEIPTS, EventBatch, Receipts, pack_batch
from shared.queue.connection import RETRY_WHEN_FULL_S, translated
from shared.queue.event_log import most_event_bytes
from shared.queue.joined_calls import JoinedCalls
from shared.queue.keys import RECEIPTS, RECEIPTS_GROUP, RECEIPTS_SET_ASIDE
from shared.queue.partitions import Partition, first_partition, server_of
from shared.queue.scripts import Argument, load_script
from shared.receipts import Receipt

READ_BYTES = 4 * 1024 * 1024
MEMORY_SHARE = 0.9
_MOST_BYTES, _SHARE_OF_MEMORY = 256 * 1024 * 1024, 8
_MOST_SET_ASIDE = 10_000
_MEMORY_FOR_S = 1.0
_ROOM_FOR_S = 0.05
# a provider waits for its answer, but a hundred calls a second cost Redis a fraction of six hundred
_APART_S = 0.01
_SEQUENCE_BITS = 21
_MOST_DIGITS = 15
TOKEN_VALID_S = 24 * 3600
"""How old a token may be that is accepted once; tokens are remembered for a little longer."""
_TOKEN_KEPT_S = TOKEN_VALID_S + 2 * 3600
# a set of at most 512 integers takes 8 bytes for each of them; a key of its own would take 100
_TOKEN_SETS = 1024


def most_receipt_bytes(maxmemory: int) -> int:
    """Return how many bytes the stream may hold: 256 MB, or an eighth of Redis's memory limit (0 for none).

    The entries that are set aside may take half as much.
    """
    return min(_MOST_BYTES, maxmemory // _SHARE_OF_MEMORY) if maxmemory else _MOST_BYTES


@dataclass(frozen=True, slots=True)
class Once:
    """The token of a request that may be accepted once, and the Unix second that was signed with it.

    Callers refuse a token whose second is TOKEN_VALID_S or more from now: Kurir forgets it soon after.
    """

    token: str
    signed_at_s: int

    def place(self, source: str) -> tuple[str, int]:
        """Return the key of the set that remembers it, one of many per hour, and its member."""
        digest = hashlib.blake2b(f"{source} {self.token}".encode(), digest_size=12).digest()
        number = int.from_bytes(digest[8:]) % _TOKEN_SETS
        return f"{{receipts}}:once:{self.signed_at_s // 3600}:{number}", int.from_bytes(digest[:8], signed=True)


@dataclass(frozen=True, slots=True)
class ReceiptEntry:
    """One entry: the whole `body` of a request, or a mail, from `source`, taken at `taken_at_ms`.

    `deliveries` counts from 1 how often it was given to a consumer: one that kills its consumers has a high number.
    """

    entry_id: str
    source: str
    taken_at_ms: int
    body: bytes
    deliveries: int = 1


@dataclass(frozen=True, slots=True)
class SetAside:
    """An entry that could not be read, and why; `entry_id` is its id in the stream `receipts`."""

    entry_id: str
    why: str
    source: str
    taken_at_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ReceiptCounts:
    """Entries that wait, the age of the oldest in seconds, those kept aside, and how many ever were set aside."""

    waiting: int
    oldest_age_s: float
    set_aside: int
    set_aside_ever: int


class _Memory:
    """Redis's memory use and limit, read at most once a second."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._read_at = -_MEMORY_FOR_S
        self._used = self._limit = 0

    async def limit(self) -> int:
        """Return the limit in bytes, 0 for none; raises QueueUnavailableError."""
        now, before = time.monotonic(), self._read_at
        if now - before >= _MEMORY_FOR_S:
            self._read_at = now  # meanwhile other callers use the last figures
            try:
                server = await server_of(self._redis, RECEIPTS)
                with translated("memory"):
                    info = await server.info("memory")
            except BaseException:
                self._read_at = before
                raise
            self._used, self._limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
        return self._limit

    async def check(self) -> int:
        """Return the limit; raises QueueFullError if more than MEMORY_SHARE of it is used."""
        limit = await self.limit()
        if limit and self._used > limit * MEMORY_SHARE:
            raise QueueFullError(f"Redis uses more than {MEMORY_SHARE:.0%} of its memory limit", RETRY_WHEN_FULL_S)
        return limit


class _Added(msgspec.Struct, frozen=True):
    """A body or mail to add, as `add` was given it, and when that was."""

    source: str
    at_ms: int
    body: bytes
    once: Once | None


class ReceiptInbox:
    """The stream `receipts`: `add` is for those who receive, the rest for the receipts service.

    `consumer` must be unique to the process (see `boot_name`); who only adds needs none. What tasks add at the same
    time goes to Redis in one call.
    """

    def __init__(self, redis: Redis, consumer: str = "", clock: Clock | None = None) -> None:
        self._redis = redis
        self._consumer = consumer
        self._clock = clock or SystemClock()
        self._memory = _Memory(redis)
        self._room_until: dict[str, float] = {}
        self._adding = JoinedCalls(self._add_all, _APART_S)

    async def add(self, source: str, body: bytes, once: Once | None = None) -> str:
        """Add a body or mail, whole; return its id once Redis has it, "" if its token was accepted before.

        Raises QueueFullError and QueueUnavailableError; what is added again after either has no further effect.
        """
        entry_id = await self._adding.call(_Added(source, self._clock.now_ms(), body, once), len(body))
        if entry_id is None:
            most = most_receipt_bytes(await self._memory.limit())
            raise QueueFullError(f"the receipts that wait take {most:,} bytes, which is the limit", RETRY_WHEN_FULL_S)
        return entry_id

    async def _add_all(self, added: Sequence[_Added]) -> list[str | None]:
        """Return the id of each, "" if its token was accepted before, None if the stream is full."""
        keys = [RECEIPTS]
        args: list[Argument] = [most_receipt_bytes(await self._memory.check()), _TOKEN_KEPT_S * 1000]
        for one in added:
            token: int | str = ""
            if one.once is not None:
                key, token = one.once.place(one.source)
                keys.append(key)
            args += (one.source, one.at_ms, one.body, token)
        ids = await load_script("add_receipt").call(self._redis, keys, args)
        return [None if entry_id is None else _text(entry_id) for entry_id in ids]

    async def read(self, limit: int, block_s: float = 0.0) -> list[ReceiptEntry]:
        """Take up to `limit` new entries, about READ_BYTES at most and at least one; wait at most `block_s` for one.

        The wait must be shorter than the connection's socket time-out. Raises QueueUnavailableError. Entries of a call
        that was cancelled or whose answer was lost are taken by `claim` later.
        """
        taken = await self._take(limit, "")
        if taken or not block_s:
            return taken
        reader: Any = self._redis
        with translated("wait for receipts"):
            try:
                rows = await reader.xreadgroup(
                    RECEIPTS_GROUP, self._consumer, {RECEIPTS: ">"}, count=1, block=max(1, int(block_s * 1000))
                )
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                return []  # Redis was emptied meanwhile; the next read makes the group again
        return [_entry(one_id, 1, fields) for _, entries in rows for one_id, fields in entries]

    async def claim(self, limit: int, idle_s: float) -> list[ReceiptEntry]:
        """Take up to `limit` entries that have been with a consumer, dead or not, for `idle_s`; at most READ_BYTES.

        Raises QueueUnavailableError.
        """
        return await self._take(limit, str(int(idle_s * 1000)))

    async def _take(self, limit: int, idle_ms: str) -> list[ReceiptEntry]:
        args = (RECEIPTS_GROUP, self._consumer, limit, READ_BYTES, idle_ms)
        flat = iter(await load_script("read_receipts").call(self._redis, (RECEIPTS,), args))
        rows = zip(flat, flat, flat, strict=True)
        return [
            _entry(one_id, deliveries, dict(zip(fields[::2], fields[1::2], strict=True)))
            for one_id, deliveries, fields in rows
        ]

    async def emit(self, channel: str, read: Sequence[tuple[ReceiptEntry, Sequence[Receipt]]]) -> None:
        """Emit the receipts of entries on a channel in one call, all of an entry as one batch of events.

        Only the first batch of an entry has an effect. Raises QueueFullError while too many events wait for the logger,
        and QueueUnavailableError.
        """
        batches = [_pack(channel, entry, receipts) for entry, receipts in read if receipts]
        if not batches:
            return
        partition = first_partition(self._redis, channel)
        await self._check_events(partition)
        await partition.call("emit_event", batches)

    async def _check_events(self, partition: Partition) -> None:
        """Raise QueueFullError if too many events wait; a stream that had room a moment ago still has."""
        now = time.monotonic()
        if now < self._room_until.get(partition.channel, 0.0):
            return
        most = most_event_bytes(await self._memory.limit())
        with translated("size of events"):
            size = await self._redis.memory_usage(partition.keys.events)
        if size is not None and size > most:
            raise QueueFullError("too many events wait for the logger", RETRY_WHEN_FULL_S)
        self._room_until[partition.channel] = now + _ROOM_FOR_S

    async def done(self, entries: Sequence[ReceiptEntry]) -> None:
        """Delete entries once their batches have been emitted; safe to repeat. Raises QueueUnavailableError."""
        if entries:
            ids = (entry.entry_id for entry in entries)
            await load_script("ack_events").call(self._redis, (RECEIPTS,), (RECEIPTS_GROUP, *ids))

    async def set_aside(self, entry: ReceiptEntry, why: str) -> None:
        """Move an entry that cannot be read, whole, to those set aside; safe to repeat. Raises QueueUnavailableError.

        The newest 10,000 are kept, as long as they take at most half of the bytes that the stream may hold.
        """
        most = most_receipt_bytes(await self._memory.limit()) // 2
        keys, args = (RECEIPTS, RECEIPTS_SET_ASIDE), (RECEIPTS_GROUP, entry.entry_id, why, _MOST_SET_ASIDE, most)
        await load_script("set_aside_receipt").call(self._redis, keys, args)

    async def list_set_aside(self, limit: int) -> list[SetAside]:
        """Return the newest entries that were set aside, the last one first; raises QueueUnavailableError."""
        with translated("receipts set aside"):
            rows: Any = await self._redis.xrevrange(RECEIPTS_SET_ASIDE, count=limit)
        entries = ((_entry(one[b"id"], 1, one), one) for _, one in rows)
        return [
            SetAside(entry.entry_id, _text(one[b"why"]), entry.source, entry.taken_at_ms, entry.body)
            for entry, one in entries
        ]

    async def read_again(self) -> int:
        """Move all entries that were set aside back to the stream, to be read again; return how many.

        They are read by the readers of the running version. Raises QueueUnavailableError; call it again then.
        """
        with translated("receipts set aside"):
            newest: Any = await self._redis.xrevrange(RECEIPTS_SET_ASIDE, count=1)
        if not newest:
            return 0
        script, args, moved = load_script("read_again"), (newest[0][0], READ_BYTES), 0
        while more := int(await script.call(self._redis, (RECEIPTS_SET_ASIDE, RECEIPTS), args)):
            moved += more
        return moved

    async def counts(self) -> ReceiptCounts:
        """Return how many entries wait and how many were set aside; raises QueueUnavailableError."""
        with translated("receipts"):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.xlen(RECEIPTS)
                pipe.xrange(RECEIPTS, count=1)
                pipe.exists(RECEIPTS_SET_ASIDE)
                waiting, oldest, kept = await pipe.execute()
            aside: Any = await self._redis.xinfo_stream(RECEIPTS_SET_ASIDE) if kept else {}
        since_ms = int(_text(oldest[0][0]).partition("-")[0]) if oldest else 0
        age_s = max(0.0, (self._clock.now_ms() - since_ms) / 1000) if oldest else 0.0
        return ReceiptCounts(waiting, age_s, aside.get("length", 0), aside.get("entries-added", 0))

    async def forget_readers(self, idle_s: float = 3600.0) -> None:
        """Remove the consumers of ended processes, which hold nothing; raises QueueUnavailableError."""
        await load_script("forget_readers").call(self._redis, (RECEIPTS,), (RECEIPTS_GROUP, int(idle_s * 1000)))


def _pack(channel: str, entry: ReceiptEntry, receipts: Sequence[Receipt]) -> bytes:
    parts = (receipts[at : at + MOST_RECEIPTS] for at in range(0, len(receipts), MOST_RECEIPTS))
    name = batch_name(channel, entry.entry_id)
    return pack_batch(EventBatch(*name, [Receipts(list(part), entry.taken_at_ms) for part in parts]))


def batch_name(channel: str, entry_id: str) -> tuple[str, int]:
    """Return the producer and the sequence that name the batch of an entry on a channel; they differ for every entry.

    The sequence has 63 bits: the milliseconds of the entry's id, then its number within them. The producer has the rest
    of a larger number, which only a clock that stands still for millions of entries makes.
    """
    ms, _, number = entry_id.partition("-")
    beyond, within = divmod(int(number), 1 << _SEQUENCE_BITS)
    return f"receipts/{channel}" + (f"/{beyond}" if beyond else ""), int(ms) << _SEQUENCE_BITS | within


def _entry(entry_id: bytes, deliveries: int, fields: dict[bytes, bytes]) -> ReceiptEntry:
    """Return an entry; one that this version did not write has no source, so that it is set aside like any other."""
    known = fields.keys() >= {b"p", b"t", b"d"} and fields[b"t"].isdigit() and len(fields[b"t"]) <= _MOST_DIGITS
    if known:
        return ReceiptEntry(_text(entry_id), _text(fields[b"p"]), int(fields[b"t"]), fields[b"d"], deliveries)
    return ReceiptEntry(_text(entry_id), "", int(entry_id.partition(b"-")[0]), fields.get(b"d", b""), deliveries)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
