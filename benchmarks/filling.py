"""Jobs enqueued directly, for the works that bypass the API."""

from __future__ import annotations

import asyncio
import time

from benchmarks import workload
from benchmarks.kurir import Kurir
from shared.blasts import Blast
from shared.jobs import Job, Recipient
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.producer import MAX_CHUNK, Chunk, Producer
from shared.templates import Template

_BLAST_ID = "bench"


def fill_paused(kurir: Kurir) -> None:
    """Pause the channel and enqueue the load's jobs as one blast."""
    asyncio.run(_fill(kurir))


def resume(kurir: Kurir) -> float:
    """Resume the channel; return the time on the monotonic clock."""
    asyncio.run(_resume(kurir))
    return time.monotonic()


async def _fill(kurir: Kurir) -> None:
    redis = connect(kurir.server.url)
    try:
        await Control(redis, "bench").pause_channel("email", "until all jobs wait")
        blast = _blast(kurir.load.jobs)
        await BlastStore(redis, "bench").create(blast)
        producer = Producer(redis, "bench")
        jobs = [_job(index) for index in range(kurir.load.jobs)]
        for first in range(0, len(jobs), MAX_CHUNK):
            await producer.enqueue(Chunk(blast, "email", first, jobs[first : first + MAX_CHUNK]))
    finally:
        await redis.aclose()


async def _resume(kurir: Kurir) -> None:
    redis = connect(kurir.server.url)
    try:
        await Control(redis, "bench").resume_channel("email")
    finally:
        await redis.aclose()


def _blast(jobs: int) -> Blast:
    template = Template(
        workload.TEMPLATE_ID,
        "Bench",
        ["email"],
        subject=workload.SUBJECT,
        html=workload.html(),
        text=workload.TEXT,
    )
    now_ms = time.time_ns() // 1_000_000
    return Blast(_BLAST_ID, template, ["email"], "bulk", now_ms, {"email": jobs}, jobs)


def _job(index: int) -> Job:
    recipient = Recipient(f"r{index}@example.com", f"Recipient {index}")
    return Job(_BLAST_ID, index, "email", "bulk", recipient, time.time_ns() // 1_000_000)
