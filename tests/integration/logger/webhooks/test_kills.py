"""G9 over kill -9 of the logger: whatever step it dies at, each event is enqueued once, under one constant id."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.events import Event, EventBatch, pack_batch
from shared.jobs import Job, unpack_job
from shared.queue.connection import connect
from shared.queue.keys import PartitionKeys
from tests.integration.logger.conftest import LoggerMaker
from tests.integration.logger.recording import STREAM
from tests.integration.logger.service import LoggerProcess
from tests.integration.logger.webhooks.feeding import events_in
from tests.servers import wait_for
from tests.unit.logger.database import accepted, blast, queued, sent

STEPS = [
    ("journal uncommitted", 1), ("journal committed", 1), ("feeder uncommitted", 1), ("feeder committed", 1),
    ("enqueue called", 1), ("enqueue answered", 1), ("feeder uncommitted", 2), ("feeder committed", 2),
]  # fmt: skip
MESSAGES = 6


class DyingLogger(LoggerProcess):
    """A logger that kills itself at a step."""

    step, nth = "", 0

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting."""
        command = [sys.executable, "-m", "tests.integration.logger.webhooks.killed", self.step, str(self.nth)]
        with (self.folder / "stderr.txt").open("ab") as errors:
            return subprocess.Popen(command, env=self._env | {"PYTHONPATH": str(Path.cwd())}, stderr=errors)


async def jobs_of(redis: Redis, number: int) -> list[Job]:
    entries: Any = await redis.xrange(PartitionKeys("webhook", number).lane("normal"))
    return [unpack_job(fields[b"d"]) for _, fields in entries]


@pytest.mark.parametrize("batch", [None, {"max": 4, "withinMs": 0}], ids=["single", "batches"])
async def test_a_kill_at_any_step_loses_and_repeats_nothing(
    valkey_url: str, make_logger: LoggerMaker, batch: dict[str, int] | None
) -> None:
    """Journal, deliveries and cursor, enqueue, marks: before and after each."""
    redis = connect(valkey_url)
    logger = make_logger(valkey_url)
    logger.start()
    wanted = {"url": "https://example.com/hook", "events": ["message.sent"], "batch": batch}
    assert logger.post("/webhooks", wanted)[0] == 201
    await wait_for(lambda: redis.hlen("webhooks"))
    logger.stop()
    for number, (step, nth) in enumerate(STEPS):
        indexes = range(number * MESSAGES, (number + 1) * MESSAGES)
        events: list[Event] = [accepted(blast()), queued(indexes), *map(sent, indexes)]
        await redis.xadd(STREAM, {"d": pack_batch(EventBatch("s", number, events))})
        dying = DyingLogger(valkey_url, logger.folder)
        dying.step, dying.nth = step, nth
        assert dying.spawn().wait(60) == -signal.SIGKILL, f"{step} was not reached: {dying.errors()[-2000:]}"
    logger.start()
    expected = [f"b:{index}:email" for index in range(len(STEPS) * MESSAGES)]
    await wait_for(partial(_has, redis, expected), 30)
    jobs = await jobs_of(redis, 1)
    assert events_in(jobs) == expected
    assert [job.index for job in jobs] == list(range(len(jobs)))
    await wait_for(lambda: logger.metrics()["kurir_webhook_events_total"] == len(expected))
    await wait_for(lambda: _all_marked(logger.folder), what="the marks of the last deliveries")
    logger.stop()
    with closing(sqlite3.connect(logger.folder / "logs.db")) as database:
        rows = database.execute("SELECT n, webhook_id, enqueued FROM webhook_deliveries ORDER BY n").fetchall()
    assert rows == [(job.index, job.recipient.name, 1) for job in jobs]
    await redis.aclose()


def _all_marked(folder: Path) -> bool:
    with closing(sqlite3.connect(folder / "logs.db")) as database:
        left: int = database.execute("SELECT count(*) FROM webhook_deliveries WHERE enqueued = 0").fetchone()[0]
    return left == 0


async def _has(redis: Redis, expected: list[str]) -> bool:
    return len(events_in(await jobs_of(redis, 1))) >= len(expected)
