"""Event streams for the logger: one per channel and webhook, and the gateway's, acknowledged after the commit.

Acknowledging also deletes, so the length of a stream is the number of unwritten entries. There is one writer. It first
reads again the entries that an earlier process had read and not acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.channels import CHANNELS, WEBHOOK
from shared.errors import DecodeError
from shared.events import EventBatch, unpack_batch, unpack_known
from shared.queue.connection import translated
from shared.queue.files import FileStore
from shared.queue.keys import GATEWAY_EVENTS, LOGGER_GROUP, PartitionKeys
from shared.queue.partitions import partitions
from shared.queue.scripts import load_script

CONSUMER = "writer"


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One entry of an event stream; `batch` is the error, with the bytes, if the entry cannot be decoded.

    `unread` is the error if only a part of it can be decoded: the batch then has that part.
    """

    stream: str
    entry_id: str
    batch: EventBatch | DecodeError
    unread: DecodeError | None = None

    @property
    def channel(self) -> str:
        """The channel of the stream, from its hash tag (`{email}:events`); "" for the gateway's."""
        tag = self.stream.partition("}")[0]
        return tag[1:].partition(".")[0] if tag.startswith("{") else ""

    @property
    def partition(self) -> int:
        """The index of the partition in its channel, from the same tag: 3 for `{webhook.3}:events`."""
        index = self.stream.partition("}")[0].partition(".")[2]
        return int(index) if index.isdecimal() else 0


_MOST_EVENT_BYTES = 512 * 1024 * 1024
_SHARE_OF_MEMORY = 4


def most_event_bytes(maxmemory: int) -> int:
    """Return how many bytes of events a stream may hold before senders fetch nothing more.

    512 MB, or a quarter of Redis's memory limit (`maxmemory`, 0 for none). Scripts that add events also run when Redis
    is full; without this bound, an absent logger let Redis grow to twice its limit. Ingest accepts nothing more from
    half of the bound on.
    """
    return min(_MOST_EVENT_BYTES, maxmemory // _SHARE_OF_MEMORY) if maxmemory else _MOST_EVENT_BYTES


class EventLog:
    """The logger's side of the event streams."""

    def __init__(self, redis: Redis, channels: Sequence[str] = tuple(CHANNELS)) -> None:
        self._redis = redis
        self.files = FileStore(redis)
        # the gateway's first: a blast is then mostly known before its messages
        self._own = [GATEWAY_EVENTS]
        self._own += [part.keys.events for channel in channels for part in partitions(redis, channel)]
        self._streams = self._own
        self._pending_from: dict[str, str] = dict.fromkeys(self._streams, "0")

    def follow(self, webhooks: Iterable[int]) -> None:
        """Read the events of these webhooks' partitions too, from the next read on, and of no other webhooks."""
        before = self._streams
        self._streams = [*self._own, *(PartitionKeys(WEBHOOK.name, number).events for number in webhooks)]
        for stream in self._streams:
            if stream not in before:
                self._pending_from[stream] = "0"
        for stream in set(before) - set(self._streams):
            self._pending_from.pop(stream, None)

    def start_over(self) -> None:
        """Read the unacknowledged entries again, after a failed read or write."""
        self._pending_from = dict.fromkeys(self._streams, "0")

    async def read(self, limit: int, block_s: float) -> list[EventEntry]:
        """Return up to `limit` entries a stream, waiting at most `block_s` for new ones.

        Pending entries come first, each stream from its start, then new ones. The wait must be shorter than the
        connection's socket time-out. Raises QueueUnavailableError; call `start_over` then.
        """
        with translated("read events"):
            try:
                if self._pending_from:
                    entries = await self._read_pending(limit)
                    if entries:
                        return entries
                return await self._read_new(limit, block_s)
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                await self._make_groups()
                return []

    async def _read_pending(self, limit: int) -> list[EventEntry]:
        asked = dict(self._pending_from)
        entries = await self._read_group(asked, limit, None)
        last = {entry.stream: entry.entry_id for entry in entries if entry.stream in self._streams}
        followed_since = {stream: start for stream, start in self._pending_from.items() if stream not in asked}
        self._pending_from = last | followed_since
        return entries

    async def _read_new(self, limit: int, block_s: float) -> list[EventEntry]:
        streams = dict.fromkeys(self._streams, ">")
        block_ms = max(1, int(block_s * 1000)) if block_s else None
        return await self._read_group(streams, limit, block_ms)

    async def _read_group(self, streams: dict[str, str], limit: int, block_ms: int | None) -> list[EventEntry]:
        reader: Any = self._redis
        rows = await reader.xreadgroup(LOGGER_GROUP, CONSUMER, streams, count=limit, block=block_ms)
        return _entries(rows)

    async def _make_groups(self) -> None:
        for stream in self._streams:
            await load_script("create_group").call(self._redis, (stream,), (LOGGER_GROUP,))

    async def ack(self, entries: Sequence[EventEntry]) -> None:
        """Acknowledge and delete entries, once their effect is in the database. Safe to repeat."""
        by_stream: dict[str, list[str]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry.entry_id)
        for stream, ids in by_stream.items():
            await load_script("ack_events").call(self._redis, (stream,), (LOGGER_GROUP, *ids))

    async def lag(self) -> int:
        """Return the number of unwritten entries."""
        with translated("events lag"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for stream in self._streams:
                    pipe.xlen(stream)
                return sum(await pipe.execute())


def _entries(rows: list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes] | None]]]]) -> list[EventEntry]:
    return [
        _entry(stream.decode(), entry_id.decode(), fields[b"d"] if fields else b"")
        for stream, entries in rows
        for entry_id, fields in entries
    ]


def _entry(stream: str, entry_id: str, raw: bytes) -> EventEntry:
    try:
        return EventEntry(stream, entry_id, unpack_batch(raw))
    except DecodeError as error:
        known = unpack_known(raw)
        return EventEntry(stream, entry_id, error) if known is None else EventEntry(stream, entry_id, known, error)
