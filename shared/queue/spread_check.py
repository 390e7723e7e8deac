"""The doctor's check of a channel's partitions together: jobs that nobody serves, and copies that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from shared.blasts import Blast
from shared.queue.blasts import BlastStore
from shared.queue.connection import translated
from shared.queue.control import Control
from shared.queue.copies import Copies
from shared.queue.doctor import Finding
from shared.queue.partitions import Partition, count_partitions, existing_partitions

_UNSERVED = "jobs in a partition that no sender serves"


async def check_spread(redis: Redis, channel: str, name: str, *, repair: bool) -> list[Finding]:
    """Check a channel's partitions together; `name` must be unique to the process. Raises QueueUnavailableError."""
    every = await existing_partitions(redis, channel)
    count = count_partitions(redis)
    findings = [await _find_former(redis, name, partition) for partition in every[count:]]
    if count > 1:
        findings += await _find_unserved(redis, name, every[:count])
        copies = Copies(redis, channel, name, repair=repair)
        blasts = await _open_blasts(redis, every[:count], name)
        differing = sum([await copies.check_blast(blast) for blast in blasts if channel in blast.totals])
        paused, suppressed = await copies.check_pause(), await copies.check_suppressions()
        unlimited = await copies.check_rate()
        findings += [
            Finding(channel, "partitions whose pause differs from the channel's", paused, repair),
            Finding(channel, "partitions that do not know of the channel's rate", unlimited, repair),
            Finding(channel, "suppressed addresses that differ between partitions", suppressed, repair),
            Finding(channel, "partitions in which a blast is paused or ended otherwise", differing, repair),
        ]
    return [finding for finding in findings if finding.count]


async def _find_former(redis: Redis, name: str, partition: Partition) -> Finding:
    """Count the jobs in a partition beyond the number of partitions."""
    stats = await Control(redis, name).partition_stats(partition)
    jobs = stats.waiting + stats.active + stats.delayed + stats.scheduled
    detail = f"set KURIR_PARTITIONS to at least {partition.keys.index + 1} until they are sent"
    return Finding(partition.name, _UNSERVED, jobs, False, detail)


async def _find_unserved(redis: Redis, name: str, every: Sequence[Partition]) -> list[Finding]:
    """Count the jobs that wait in each partition without senders, while others have some."""
    control = Control(redis, name)
    stats = {one: await control.partition_stats(one) for one in every}
    if not any(one.senders for one in stats.values()):
        return []
    detail = f"start every sender with KURIR_PARTITIONS={len(every)}, as ingest has"
    return [Finding(one.name, _UNSERVED, found.unserved, False, detail) for one, found in stats.items()]


async def _open_blasts(redis: Redis, every: Sequence[Partition], name: str) -> list[Blast]:
    """Return the blasts with jobs in several partitions that have not ended in one of them."""
    reader: Any = redis
    ids: set[str] = set()
    for partition in every:
        prefix, server = partition.keys.blast(""), await partition.server()
        with translated("doctor"):
            async for key in server.scan_iter(f"{prefix}*", count=1000):
                parts, ended = await reader.hmget(key, ["parts", "ended_at"])
                if parts and not ended:
                    ids.add(key.decode().removeprefix(prefix))
    store = BlastStore(redis, f"{name}/blasts")
    return [blast for one in sorted(ids) if (blast := await store.load(one)) is not None]
