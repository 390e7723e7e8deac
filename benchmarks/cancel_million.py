"""Measure how long cancelling a huge blast takes: until no message waits, and until the log shows it for each.

    python -m benchmarks.cancel_million [--recipients 1000000]

Starts its own Valkey (appendfsync always), one ingest and one logger, posts the blast, waits until the logger has
written all the queued rows, and then cancels the blast through the API.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiohttp

from benchmarks.ingest_million import Run, cpu_s, free_port, started
from benchmarks.logger_writing import wait_until_serving

_EVENTS = ("{email}:events", "gateway:events")
_POLL_S = 0.02
_PATIENCE_S = 900.0


async def measure(recipients: int) -> dict[str, float]:
    """Run once; return seconds since the request was sent, and the processor time in total."""
    with tempfile.TemporaryDirectory(prefix="kurir-cancel-") as name:
        run = Run(Path(name), recipients, 1.0)
        logger: subprocess.Popen[bytes] | None = None
        try:
            await run.start_server()
            await run.start_ingest()
            port = free_port()
            logger = started([sys.executable, "-m", "services.logger"], run.environment() | {"KURIR_PORT": str(port)})
            await asyncio.to_thread(wait_until_serving, port)
            await run.post_until_answered()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE_S)) as http:
                return await _cancel(run, http, logger)
        finally:
            run.end()
            if logger is not None:
                logger.kill()
                logger.wait()


async def _cancel(run: Run, http: aiohttp.ClientSession, logger: subprocess.Popen[bytes]) -> dict[str, float]:
    database = run.folder / "data" / "logs.db"
    await _until(lambda: _unwritten(run) == 0)
    before = _by_status(database)
    assert before == {"queued": run.recipients}, before
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        blast_id = rows.execute("SELECT blast_id FROM blasts").fetchone()[0]
    redis_s, logger_s, began = cpu_s(run.server), cpu_s(logger), time.monotonic()
    asking = asyncio.create_task(http.post(f"{run.url}/api/v1/blasts/{blast_id}/cancel"))
    await _until(lambda: run.waiting() == 0)
    gone_s = time.monotonic() - began
    answer = await asking
    answered_s, redis_s = time.monotonic() - began, cpu_s(run.server) - redis_s
    assert answer.status == 200, await answer.text()
    await _until(lambda: _unwritten(run) == 0)
    written_s = time.monotonic() - began
    after = _by_status(database)
    assert after == {"cancelled": run.recipients}, after
    return {
        "recipients": run.recipients,
        "gone_seconds": round(gone_s, 2),
        "answered_seconds": round(answered_s, 2),
        "written_seconds": round(written_s, 2),
        "redis_cpu_seconds": round(redis_s, 2),
        "logger_cpu_seconds": round(cpu_s(logger) - logger_s, 2),
    }


async def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not await asyncio.to_thread(is_true):
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(_POLL_S)


def _unwritten(run: Run) -> int:
    """Return the number of event batches that the logger has not written yet."""
    with run.redis as redis:
        return sum(redis.xlen(stream) for stream in _EVENTS)


def _by_status(database: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT status, count(*) FROM message_logs GROUP BY status"))


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    for name, value in asyncio.run(measure(parser.parse_args().recipients)).items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
