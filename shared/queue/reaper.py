"""Takes over from dead senders: a sender without a heartbeat at two checks of one reaper loses its entries.

A sender is dead when its heartbeat was missing at two checks at least `checks_apart_ms` apart, by a reaper whose own
heartbeat held throughout, and Redis has been up for `redis_up_ms`: heartbeats lapse while Redis is down, and down time
counts as idle time. Each reaper remembers its own checks, so a reaper that was away starts again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.clock import Clock, SystemClock
from shared.errors import DecodeError, QueueUnavailableError
from shared.jobs import unpack_job
from shared.logs import get_logger
from shared.queue.connection import server_info, translated
from shared.queue.leases import HeldEntry, Lease
from shared.queue.partitions import Partition
from shared.queue.scripts import Argument
from shared.queue.timing import Timing

BATCH = 250
STREAMS_A_PAGE = 64


@dataclass(frozen=True, slots=True)
class Taken:
    """The jobs that a reaper took over from one sender: those surely not sent, and uncertain ones."""

    sender_id: str
    from_buffer: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class _Page:
    from_buffer: int
    in_flight: int
    clear: bool
    cursor: str


async def _nothing_before(_sender_id: str) -> None:
    return


class Reaper:
    """Checks a partition on behalf of one of its senders, and takes over from dead senders.

    `maxmemory` is the server's memory limit in bytes, 0 for none, as of the last check. `before_taking` is awaited with
    the name of a dead sender before its entries are taken.
    """

    def __init__(self, partition: Partition, sender_id: str, timing: Timing, clock: Clock | None = None) -> None:
        self.partition = partition
        self.sender_id = sender_id
        self.timing = timing
        self._clock = clock or SystemClock()
        self._heads = partition.numbered(sender_id, "reap")
        self._missing_since: dict[str, float] = {}
        self.before_taking: Callable[[str], Awaitable[None]] = _nothing_before
        self.maxmemory = 0

    def forget(self) -> None:
        """Forget all checks: this reaper's own heartbeat lapsed, or Redis was away."""
        self._missing_since.clear()

    async def reap_dead(self) -> list[Taken]:
        """Check once, and take over from senders that were missing long enough; raises QueueUnavailableError."""
        info = await server_info(await self.partition.server(), "server", "memory")
        self.maxmemory = info.maxmemory
        timing = self.timing
        args = (self.sender_id, timing.buffer_idle_ms, timing.keep_ended_ms, timing.park_ms)
        reply = await self.partition.call("find_dead", args)
        held, missing = bool(reply[0]), [name.decode() for name in reply[2:]]
        if not held or info.uptime_ms < timing.redis_up_ms:
            self.forget()
            return []
        return [await self._take(dead) for dead in self._dead_among(missing)]

    def _dead_among(self, missing: Sequence[str]) -> list[str]:
        now = self._clock.monotonic()
        others = [name for name in missing if name != self.sender_id]
        self._missing_since = {name: self._missing_since.get(name, now) for name in others}
        apart_s = self.timing.checks_apart_ms / 1000
        return [name for name, since in self._missing_since.items() if now - since >= apart_s]

    async def _take(self, dead: str) -> Taken:
        await self._prepare_taking(dead)
        from_buffer = in_flight = 0
        cursor = "0"
        while True:
            page = await self._reap(dead, "its sender was lost in mid-send", "all", cursor)
            from_buffer += page.from_buffer
            in_flight += page.in_flight
            stays = page.cursor == cursor and not page.from_buffer + page.in_flight
            if page.clear or stays:
                self._missing_since.pop(dead, None)
                return Taken(dead, from_buffer, in_flight)
            cursor = page.cursor

    async def _prepare_taking(self, dead: str) -> None:
        """Call `before_taking`; its failure must not keep the jobs of a dead sender from being taken."""
        try:
            await self.before_taking(dead)
        except QueueUnavailableError:
            raise
        except Exception:
            get_logger().exception("before_taking_failed", sender=dead)

    async def give_up(self, entries: Sequence[HeldEntry | Lease], holder: str = "") -> int:
        """Give up entries in flight that no task holds, as uncertain; return their number.

        They are this sender's own, or those of a `holder` that has certainly ended.
        """
        which = ",".join(f"{entry.stream} {entry.entry_id}" for entry in entries)
        given_up = 0
        while True:
            page = await self._reap(holder or self.sender_id, "its task was lost in mid-send", which, "0")
            given_up += page.in_flight
            if page.clear or not page.in_flight:
                return given_up

    async def _reap(self, sender: str, reason: str, which: str, cursor: str) -> _Page:
        page, unread = await self._reap_once((sender, reason, which, cursor), [])
        if not unread:
            return page
        parts = await self._read(unread)
        again, _ = await self._reap_once((sender, reason, which, cursor), parts)
        from_buffer, in_flight = page.from_buffer + again.from_buffer, page.in_flight + again.in_flight
        return _Page(from_buffer, in_flight, again.clear, again.cursor)

    async def _reap_once(
        self, what: tuple[str, str, str, str], parts: Sequence[Argument]
    ) -> tuple[_Page, list[HeldEntry]]:
        """Call `reap` once; return its page, and the entries that the server could not read and left."""
        sender, reason, which, cursor = what
        _, head = self._heads.next()
        args = (sender, head, BATCH, reason, which, cursor, STREAMS_A_PAGE, *parts)
        buffered, flying, clear, following, *unread = await self.partition.call("reap", args)
        page = _Page(buffered, flying, bool(clear), following.decode())
        return page, [
            HeldEntry(stream.decode(), one.decode(), 0) for stream, one in zip(unread[::2], unread[1::2], strict=True)
        ]

    async def _read(self, entries: Sequence[HeldEntry]) -> list[Argument]:
        """Read jobs for `reap`; a job of a later version that is unreadable here has no id, and stays in its place."""
        parts: list[Argument] = []
        for entry in entries:
            with translated("load entries"):
                rows: Any = await self.partition.redis.xrange(entry.stream, entry.entry_id, entry.entry_id)
            for _, fields in rows:
                try:
                    job = unpack_job(fields[b"d"])
                except DecodeError:
                    get_logger().error("unreadable_job", stream=entry.stream, entry_id=entry.entry_id)
                    parts += (f"{entry.stream} {entry.entry_id}", "", "0 0")
                    continue
                parts += (f"{entry.stream} {entry.entry_id}", job.job_id, f"{job.run} {job.attempts}")
        return parts
