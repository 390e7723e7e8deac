"""Event streams for the logger: one per channel and webhook, and the gateway's, acknowledged after the commit.

Acknowledging also deletes, so the length of a stream is the number of unwritten entries. The one writer of a SQLite
file first reads again the entries that an earlier process had read and not acknowledged. Of several loggers each reads
under a name of its own. A logger takes over what another one has not acknowledged for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.channels import CHANNELS, WEBHOOK
from shared.errors import DecodeError, QueueUnavailableError
from shared.events import EventBatch, unpack_batch, unpack_known
from shared.lifecycle import end_tasks
from shared.queue.client import QueueRedis
from shared.queue.connection import translated
from shared.queue.files import FileStore
from shared.queue.keys import GATEWAY_EVENTS, LOGGER_GROUP, PartitionKeys, place_of
from shared.queue.partitions import existing_partitions, partitions
from shared.queue.scripts import load_script

CONSUMER = "writer"
_MOST_TAKEN = 1000
_FORGOTTEN_S = 3600.0
AWAY_POLL_S = 0.25
PATIENCE_S = 0.5
DRAIN_PATIENCE_S = 2.0
"""How long the streams of other slots wait for one that does not answer: to be acknowledged, to be read at a stop."""


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
        return place_of(self.stream)[0]

    @property
    def partition(self) -> int:
        """The index of the partition in its channel, from the same tag: 3 for `{webhook.3}:events`."""
        return place_of(self.stream)[1]


Before = Callable[[Sequence[EventEntry]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Away:
    """Why the streams of a slot cannot be read, and when to try again (monotonic clock)."""

    error: QueueUnavailableError
    until: float


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

    def __init__(self, redis: Redis, channels: Sequence[str] = tuple(CHANNELS), consumer: str = CONSUMER) -> None:
        self._redis = redis
        self._channels = channels
        self._consumer = consumer
        self.files = FileStore(redis)
        # the gateway's first: a blast is then mostly known before its messages
        self._own = [GATEWAY_EVENTS]
        self._own += [part.keys.events for channel in channels for part in partitions(redis, channel)]
        self._streams = self._own
        self._groups = self._grouped()
        self._reading: dict[str, asyncio.Task[list[EventEntry]]] = {}
        self._outdated: set[str] = set()
        self._away: dict[str, _Away] = {}
        self._acknowledging: set[asyncio.Task[None]] = set()
        self._pending_from: dict[str, str] = dict.fromkeys(self._streams, "0")

    async def find_former(self) -> None:
        """Read the events of partitions beyond their number too, which was lowered; raises QueueUnavailableError."""
        for channel in self._channels:
            every = await existing_partitions(self._redis, channel)
            former = [one.keys.events for one in every if one.keys.events not in self._own]
            self._own = [*self._own, *former]
            self._streams = [*self._streams, *former]
            self._pending_from |= dict.fromkeys(former, "0")
            self._groups = self._grouped()

    def follow(self, webhooks: Iterable[int]) -> None:
        """Read the events of these webhooks' partitions too, from the next read on, and of no other webhooks."""
        before = self._streams
        self._streams = [*self._own, *(PartitionKeys(WEBHOOK.name, number).events for number in webhooks)]
        for stream in self._streams:
            if stream not in before:
                self._pending_from[stream] = "0"
        for stream in set(before) - set(self._streams):
            self._pending_from.pop(stream, None)
        self._groups = self._grouped()
        names = {group[0] for group in self._groups}
        self._away = {name: one for name, one in self._away.items() if name in names}

    def _grouped(self) -> list[list[str]]:
        """Return the streams in groups that one command may read: on a cluster, those of one slot."""
        return self._redis.together(self._streams) if isinstance(self._redis, QueueRedis) else [self._streams]

    @property
    def apart(self) -> bool:
        """Whether the streams are read apart from each other, since they are on several nodes of a cluster."""
        return len(self._groups) > 1

    @property
    def away(self) -> str:
        """Why some streams cannot be read, "" if all can."""
        return next((str(one.error) for one in self._away.values()), "")

    def start_over(self, streams: Collection[str] = ()) -> None:
        """Read the unacknowledged entries of these streams again, or of all, after a failed read or write."""
        again = streams or self._streams
        self._pending_from.update((stream, "0") for stream in again if stream in self._streams)
        # what a read under way brings is pending too, and read again
        self._outdated.update(group[0] for group in self._groups if group[0] in self._reading and {*group} & {*again})

    async def read(self, limit: int, block_s: float) -> list[EventEntry]:
        """Return up to `limit` entries a stream, waiting at most `block_s` for new ones.

        Pending entries come first, each stream from its start, then new ones. The wait must be shorter than the
        connection's socket time-out. Raises QueueUnavailableError; call `start_over` then. On a cluster it raises only
        if every stream is away; `away` says whether any is.
        """
        if self.apart:
            return await self._read_apart(limit, block_s)
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
                await self._make_groups(self._streams)
                return []

    async def close(self) -> None:
        """End the calls that still wait; their entries stay pending."""
        await end_tasks([*self._reading.values(), *self._acknowledging])
        for task in self._reading.values():
            if not task.cancelled():
                task.exception()  # retrieved here, since nobody waits for it
        self._reading.clear()

    async def _read_pending(self, limit: int) -> list[EventEntry]:
        asked = dict(self._pending_from)
        entries = await self._read_some(asked, limit, None)
        last = {entry.stream: entry.entry_id for entry in entries if entry.stream in self._streams}
        followed_since = {stream: start for stream, start in self._pending_from.items() if stream not in asked}
        self._pending_from = last | followed_since
        return entries

    async def _read_new(self, limit: int, block_s: float) -> list[EventEntry]:
        streams = dict.fromkeys(self._streams, ">")
        block_ms = max(1, int(block_s * 1000)) if block_s else None
        return await self._read_some(streams, limit, block_ms)

    async def _read_some(self, streams: dict[str, str], limit: int, block_ms: int | None) -> list[EventEntry]:
        reader: Any = self._redis
        rows = await reader.xreadgroup(LOGGER_GROUP, self._consumer, streams, count=limit, block=block_ms)
        return _entries(rows)

    async def _read_apart(self, limit: int, block_s: float) -> list[EventEntry]:
        """Read the streams of each slot of a cluster by themselves, all at once.

        A read that waits continues after another has brought something, and a later call returns its entries. If it
        were cancelled, they could be missed until they are read as pending. One that fails is tried again shortly.
        """
        clock = asyncio.get_running_loop().time
        for group in self._groups:
            name = group[0]
            if name not in self._reading and (name not in self._away or self._away[name].until <= clock()):
                self._reading[name] = asyncio.create_task(self._read_slot(group, limit, block_s))
        until = asyncio.FIRST_COMPLETED if block_s else asyncio.ALL_COMPLETED
        waited = [task for name, task in self._reading.items() if block_s or name not in self._away]
        if waited:
            await asyncio.wait(waited, timeout=block_s or DRAIN_PATIENCE_S, return_when=until)
        else:
            await asyncio.sleep(AWAY_POLL_S)
        entries = [entry for name in list(self._reading) if self._reading[name].done() for entry in self._taken(name)]
        if not entries and all(group[0] in self._away for group in self._groups):
            raise self._away[self._groups[0][0]].error
        return entries

    def _taken(self, name: str) -> list[EventEntry]:
        """Return what a read that has ended brought; note whether its streams are away."""
        task, outdated = self._reading.pop(name), name in self._outdated
        self._outdated.discard(name)
        try:
            entries = task.result()
        except QueueUnavailableError as error:
            self._away[name] = _Away(error, asyncio.get_running_loop().time() + AWAY_POLL_S)
            # the reply may be lost: then its entries are pending
            self.start_over(next((group for group in self._groups if group[0] == name), ()) or (name,))
            return []
        self._away.pop(name, None)
        return [] if outdated else entries

    async def _read_slot(self, group: Sequence[str], limit: int, block_s: float) -> list[EventEntry]:
        """Read the streams of one slot: pending entries first, then new ones."""
        with translated("read events"):
            for _ in range(2):
                try:
                    pending = {stream: self._pending_from[stream] for stream in group if stream in self._pending_from}
                    entries = await self._read_some(pending, limit, None) if pending else []
                    if group[0] in self._outdated:
                        return []
                    self._note_pending(pending, entries)
                    return entries or await self._read_some(
                        dict.fromkeys(group, ">"), limit, int(block_s * 1000) or None
                    )
                except ResponseError as error:
                    if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                        raise
                    await self._make_groups(group)
        return []

    def _note_pending(self, asked: Iterable[str], entries: Sequence[EventEntry]) -> None:
        """Note where the next pending entries of streams begin."""
        last = {entry.stream: entry.entry_id for entry in entries}
        for stream in asked:
            if stream in last:
                self._pending_from[stream] = last[stream]
            else:
                self._pending_from.pop(stream, None)

    async def _make_groups(self, streams: Sequence[str]) -> None:
        for stream in streams:
            await load_script("create_group").call(self._redis, (stream,), (LOGGER_GROUP,))

    async def take_over(self, idle_s: float) -> int:
        """Take over entries that another logger read `idle_s` ago and did not acknowledge; return how many.

        The next reads return them. Consumers of loggers that are gone are deleted once they hold nothing. Raises
        QueueUnavailableError. On a cluster it does not: streams that are away are left to a later call.
        """
        taken = 0
        for stream in self._streams:
            try:
                taken += await self._take_over(stream, idle_s)
            except QueueUnavailableError:
                if not self.apart:
                    raise
        return taken

    async def _take_over(self, stream: str, idle_s: float) -> int:
        arguments = (LOGGER_GROUP, self._consumer, int(idle_s * 1000), _MOST_TAKEN)
        with translated("take over events"):
            taken = int(await load_script("take_over_events").call(self._redis, (stream,), arguments))
            if taken:
                self.start_over([stream])
            idle_ms = int(_FORGOTTEN_S * 1000)
            await load_script("forget_readers").call(self._redis, (stream,), (LOGGER_GROUP, idle_ms))
        return taken

    async def ack(self, entries: Sequence[EventEntry], before: Before | None = None) -> None:
        """Acknowledge and delete entries, once their effect is in the database. Safe to repeat.

        `before` is called first with the entries of each stream. Raises QueueUnavailableError. On a cluster it does
        not: entries of a stream that is away are read again.
        """
        by_stream: dict[str, list[EventEntry]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry)
        if not self.apart:
            for stream, some in by_stream.items():
                await self._ack_stream(stream, some, before)
            return
        tasks = [asyncio.create_task(self._try_ack(stream, some, before)) for stream, some in by_stream.items()]
        self._acknowledging.update(tasks)
        for task in tasks:
            task.add_done_callback(self._acknowledging.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)

    async def _ack_stream(self, stream: str, entries: Sequence[EventEntry], before: Before | None) -> None:
        if before is not None:
            await before(entries)
        ids = [entry.entry_id for entry in entries]
        await load_script("ack_events").call(self._redis, (stream,), (LOGGER_GROUP, *ids))

    async def _try_ack(self, stream: str, entries: Sequence[EventEntry], before: Before | None) -> None:
        try:
            await self._ack_stream(stream, entries, before)
        except QueueUnavailableError:
            self.start_over([stream])

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
