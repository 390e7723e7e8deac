"""Reads the queue from outside: which sender holds what, whether the counts add up, what is left behind."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.channels import CHANNELS
from shared.errors import DecodeError, KurirError
from shared.jobs import TERMINAL, unpack_job
from shared.lifecycle import end_tasks
from shared.queue.connection import connect, translated
from shared.queue.control import ChannelStats, Control
from shared.queue.doctor import Doctor
from shared.queue.keys import GATEWAY_EVENTS, PartitionKeys
from shared.queue.later_jobs import packed_later
from shared.queue.partitions import partitions
from shared.queue.spread_check import check_spread
from tests.faults.checks import Checks

_SAMPLE_S = 0.25
_TIMEOUT_S = 30.0  # a disk may stand still for seconds
_SORTED = ("parked", "later", "ring", "starts", "limits:high", "limits:due")
_HASHES = ("later:jobs", "cancels", "places", "limits", "limits:runs")
# an independent check of G4: it counts what is there, without the counts that the queue's scripts keep
# (with two keys: while a cluster moves the slot it answers neither for a part)
_WITNESS = """#!lua flags=allow-oom,no-writes
local C = string.match(KEYS[1], '^{[^}]*}')
local jobs, sending, parked = redis.call('HLEN', C .. ':later:jobs'), 0, 0
for _, stream in ipairs(redis.call('KEYS', C .. ':jobs:*')) do
  jobs = jobs + redis.call('XLEN', stream)
  local held = redis.pcall('XPENDING', stream, 'senders')
  if not held.err and type(held[4]) == 'table' then
    for _, row in ipairs(held[4]) do
      if string.sub(row[1], -3) == ':tx' then sending = sending + tonumber(row[2]) end
      if row[1] == '~retry' then parked = parked + tonumber(row[2]) end
    end
  end
end
local gauge = tonumber(redis.call('HGET', C .. ':gauges', 'processing') or 0)
return { jobs, sending, parked, gauge, redis.call('ZCARD', C .. ':parked'), redis.call('HGETALL', C .. ':counters') }
"""


@dataclass(frozen=True, slots=True)
class Holding:
    """The jobs that one sender holds now, as job ids."""

    buffered: frozenset[str]
    in_flight: frozenset[str]


@dataclass(frozen=True, slots=True)
class BlastMarks:
    """How many jobs of a blast a partition has been given, and whether the blast is cancelled there."""

    enqueued: int
    cancelled: bool


class QueueView:
    """Reads the keys of every channel's partitions over its own connection, without a proxy.

    With `tags` it reads only the partitions with these hash tags.
    """

    def __init__(self, url: str, count: int = 1, tags: Collection[str] = ()) -> None:
        self.redis: Redis = connect(url, partitions=count, socket_timeout_s=_TIMEOUT_S)
        self.control = Control(self.redis, "fault-tests")
        every = [part for channel in CHANNELS for part in partitions(self.redis, channel)]
        self.parts = [part for part in every if not tags or part.keys.tag in tags]

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()

    async def stats(self, channel: str = "email") -> ChannelStats:
        """Count the jobs in each place of a channel, in one script."""
        return await self.control.channel_stats(channel)

    async def holding(self, pid: int) -> Holding:
        """Return what the sender with this process id holds; stable only while the sender is frozen."""
        found: dict[str, set[str]] = {"buf": set(), "tx": set()}
        for stream in await self.streams():
            for consumer, entry_id in await self._pending(stream):
                kind = consumer.rpartition(":")[2]
                if f"-{pid}-" in consumer and kind in found:
                    found[kind].add(await self._job_id(stream, entry_id))
        return Holding(frozenset(found["buf"]), frozenset(found["tx"]))

    async def in_mid_send(self) -> set[str]:
        """Return the jobs that any sender has in mid-send."""
        return {
            await self._job_id(stream, entry_id)
            for stream in await self.streams()
            for consumer, entry_id in await self._pending(stream)
            if consumer.endswith(":tx")
        }

    async def runs(self) -> dict[str, int]:
        """Return every job in Redis, wherever it waits, with its run."""
        found: dict[str, int] = {}
        with translated("jobs"):
            for stream in await self.streams():
                rows: Any = await self.redis.xrange(stream)
                found.update(_run_of(fields[b"d"]) for _, fields in rows)
            for part in self.parts:
                later: Any = await self.redis.hvals(part.keys.key("later:jobs"))
                found.update(_run_of(packed_later(kept)) for kept in later)
        return found

    async def blasts(self) -> dict[tuple[str, str], BlastMarks]:
        """Return what each partition, by its hash tag, says about each of its blasts."""
        found: dict[tuple[str, str], BlastMarks] = {}
        reader: Any = self.redis
        with translated("blasts"):
            for part in self.parts:
                prefix, server = part.keys.blast(""), await part.server()
                async for key in server.scan_iter(f"{prefix}*", count=1000):
                    enqueued, cancelled_at = await reader.hmget(key, ["wm:jobs", "cancelled_at"])
                    marks = BlastMarks(int(enqueued or 0), cancelled=bool(cancelled_at))
                    found[part.keys.tag, key.decode().removeprefix(prefix)] = marks
        return found

    async def watermarks(self, channel: str = "email") -> dict[str, int]:
        """Return how many jobs of each blast have been enqueued on a channel."""
        prefix = PartitionKeys(channel).blast("")
        with translated("watermarks"):
            keys = [key.decode() async for key in self.redis.scan_iter(f"{prefix}*", count=1000)]
            return {key.removeprefix(prefix): int(await self._field(key, "wm:jobs") or 0) for key in keys}

    async def _field(self, key: str, name: str) -> bytes | None:
        reader: Any = self.redis
        value: bytes | None = await reader.hget(key, name)
        return value

    async def streams(self) -> list[str]:
        """Return every job stream that exists, found by its name: no list of lanes can miss one."""
        names: list[str] = []
        with translated("streams"):
            for part in self.parts:
                server = await part.server()
                names += [key.decode() async for key in server.scan_iter(part.keys.key("jobs:*"), count=1000)]
        return sorted(set(names))

    async def consumers(self) -> Counter[str]:
        """Return all consumers with their number of pending entries."""
        found: Counter[str] = Counter()
        for stream in await self.streams():
            for row in await self._consumers_of(stream):
                found[row["name"].decode()] += int(row["pending"])
        return found

    async def unread_events(self) -> int:
        """Return how many events the logger has not written yet, on all streams."""
        with translated("events"):
            own = [await self.redis.xlen(part.keys.events) for part in self.parts]
            return int(sum(own) + await self.redis.xlen(GATEWAY_EVENTS))

    async def check_balance(self, checks: Checks) -> None:
        """G4: enqueued = ended + what is in Redis, and gauges and indexes match; read in one step per partition."""
        reader: Any = self.redis
        for part in self.parts:
            channel = part.name
            with translated("witness"):
                found = await reader.eval(_WITNESS, 2, *part.keys.routing)
            jobs, sending, parked, gauge, indexed, flat = found
            counters = {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
            ended = sum(counters.get(name, 0) for name in TERMINAL)
            enqueued = counters.get("enqueued", 0)
            said = f"enqueued {enqueued} != ended {ended} + in Redis {jobs}: {counters}"
            checks.that("G4", enqueued == ended + jobs, f"{channel}: {said}")
            checks.that("G4", sending == gauge, f"{channel}: {sending} are in mid-send, the gauge says {gauge}")
            checks.that("G4", parked == indexed, f"{channel}: {parked} wait for a retry, {indexed} have a time for it")

    async def last_due_in_s(self, blast_id: str) -> float:
        """Return in how many seconds the last of a blast's deferred or scheduled jobs is due; 0 or less: none waits."""
        due_us: list[float] = [0]
        with translated("jobs due later"):
            for part in self.parts:
                due_us += [at async for _, at in self.redis.zscan_iter(part.keys.key("later"), match=f"{blast_id}:*")]
        return max(due_us) / 1_000_000 - time.time()

    async def leftovers(self) -> dict[str, int]:
        """Return the indexes of partitions that are not empty, with their sizes; call it once every job has ended."""
        sizes: dict[str, int] = {}
        with translated("leftovers"):
            for keys in (part.keys for part in self.parts):
                sized = {
                    **{name: await self.redis.zcard(keys.key(name)) for name in _SORTED},
                    **{name: await self.redis.hlen(keys.key(name)) for name in _HASHES},
                    **{name: await self.redis.scard(keys.key(name)) for name in ("streams",)},
                }
                sizes |= {keys.key(name): size for name, size in sized.items() if size}
        return sizes

    async def findings(self) -> list[str]:
        """Return what the doctor finds wrong on any channel, without repairing it."""
        doctors = [Doctor(part, "fault-tests", repair=False) for part in self.parts]
        found = [finding for doctor in doctors for finding in await doctor.examine()]
        for channel in CHANNELS:
            found += await check_spread(self.redis, channel, "fault-tests", repair=False)
        return [str(finding) for finding in found if finding.wrong]

    @asynccontextmanager
    async def watching(self, checks: Checks) -> AsyncIterator[None]:
        """Check the balance every quarter of a second while the block runs."""
        task = asyncio.create_task(self._watch(checks))
        try:
            yield
        finally:
            await end_tasks([task])
        if not task.cancelled() and (error := task.exception()):
            raise error

    async def _watch(self, checks: Checks) -> None:
        while True:
            # while Redis is away nothing can be read, and nothing changes
            with suppress(KurirError):
                await self.check_balance(checks)
            await asyncio.sleep(_SAMPLE_S)

    async def _consumers_of(self, stream: str) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = await self.redis.xinfo_consumers(stream, "senders")
        except ResponseError:
            return []  # the stream went with its last job
        return rows

    async def _pending(self, stream: str) -> list[tuple[str, str]]:
        reader: Any = self.redis
        try:
            with translated("pending"):
                rows = await reader.xpending_range(stream, "senders", "-", "+", 100_000)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            return []  # the stream went with its last job
        return [(row["consumer"].decode(), row["message_id"].decode()) for row in rows]

    async def _job_id(self, stream: str, entry_id: str) -> str:
        with translated("entry"):
            rows: Any = await self.redis.xrange(stream, entry_id, entry_id)
        try:
            return unpack_job(rows[0][1][b"d"]).job_id if rows else ""
        except DecodeError:
            return ""


def _run_of(packed: bytes) -> tuple[str, int]:
    """Return a job's id and its run."""
    job = unpack_job(packed)
    return job.job_id, job.run
