"""The truth of a queue, from a walk over every key: counters, gauges and indexes must agree with it.

It does not use the scripts, so it is an independent witness of G4.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from shared.jobs import Job, unpack_job
from shared.queue.keys import PartitionKeys
from shared.queue.partitions import partitions, server_of


@dataclass
class Truth:
    """Every job in Redis with its status, and the keys in which it was found.

    `waiting` counts by lane, `limited` by blast.
    """

    jobs: dict[str, str] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)
    takeable: set[str] = field(default_factory=set)
    bulk_streams: set[str] = field(default_factory=set)
    consumers: set[str] = field(default_factory=set)
    doubles: list[str] = field(default_factory=list)
    waiting: Counter[str] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)
    delayed: int = 0

    def add(self, job_id: str, status: str) -> None:
        if job_id in self.jobs:
            self.doubles.append(job_id)
        self.jobs[job_id] = status

    def of_blast(self, blast_id: str) -> Counter[str]:
        return Counter(status for job_id, status in self.jobs.items() if job_id.partition(":")[0] == blast_id)

    def count(self, status: str) -> int:
        return sum(1 for one in self.jobs.values() if one == status)


async def find_truth(redis: Redis) -> Truth:
    """Walk over all keys of the channel; no job may move during the walk."""
    truth = Truth()
    for partition in partitions(redis, "email"):
        await _walk(redis, partition.keys, truth)
    return truth


async def _walk(redis: Redis, keys: PartitionKeys, truth: Truth) -> None:
    server = await server_of(redis, keys.bell)
    streams = [key.decode() async for key in server.scan_iter(keys.key("jobs:*"), count=1000)]
    for stream in streams:
        await _walk_stream(redis, stream, keys, truth)
    kept: Any = await redis.hgetall(keys.key("later:jobs"))
    for job_id, raw in kept.items():
        mark, job = raw[:1], unpack_job(raw.partition(b" ")[2] if raw[:1] == b"w" else raw[2:])
        assert job.job_id == job_id.decode()
        truth.add(job.job_id, "scheduled" if mark == b"s" else _waits(job, 0))
        truth.delayed += mark != b"s"
        truth.limited[job.blast_id] += mark == b"w"


def _waits(job: Job, made: int) -> str:
    return "retrying" if job.attempts + made or job.deferrals else "queued"


async def _walk_stream(redis: Redis, stream: str, keys: PartitionKeys, truth: Truth) -> None:
    rows: Any = await redis.xrange(stream)
    groups: Any = await redis.xinfo_groups(stream)
    pending: dict[bytes, tuple[str, int]] = {}
    if groups:
        listed: Any = await redis.xpending_range(stream, "senders", "-", "+", 1_000_000)
        pending = {row["message_id"]: (row["consumer"].decode(), row["times_delivered"]) for row in listed}
        consumers: Any = await redis.xinfo_consumers(stream, "senders")
        truth.consumers |= {row["name"].decode() for row in consumers}
    assert set(pending) <= {entry_id for entry_id, _ in rows}, f"ghosts in {stream}"
    if stream.startswith(keys.bulk("")):
        truth.bulk_streams.add(stream)
    scheduled = await _is_scheduled(redis, stream, keys, groups)
    for entry_id, fields in rows:
        job = unpack_job(fields[b"d"])
        consumer, deliveries = pending.get(entry_id, ("", 0))
        truth.add(job.job_id, "scheduled" if scheduled else _status(job, consumer, deliveries))
        if consumer == "~retry":
            truth.parked.add(f"{stream} {entry_id.decode()}")
            truth.delayed += 1
        elif not scheduled and not consumer.endswith(":tx"):
            lane = stream.split(":")[2]
            truth.waiting[lane if lane in {"high", "normal"} else "bulk"] += 1
        if consumer in {"", "~back"}:
            truth.takeable.add(stream)


async def _is_scheduled(redis: Redis, stream: str, keys: PartitionKeys, groups: Any) -> bool:
    """Return whether a blast's own stream waits for its time and has had no turn."""
    blast_id = stream.rpartition(":")[2]
    whole = await redis.hexists(keys.blast(blast_id), "scheduled_whole")
    return bool(whole) and bool(groups) and groups[0]["last-delivered-id"] == b"0-0"


def _status(job: Job, consumer: str, deliveries: int) -> str:
    if consumer.endswith(":tx"):
        return "processing"
    if consumer == "~retry":
        return "retrying"
    made = deliveries if consumer.startswith("~") else max(deliveries - 1, 0)
    return _waits(job, made)
