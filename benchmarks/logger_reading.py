"""Measure reading a large log: `scripts/make_log_rows.py` generates it, the real logger serves it over HTTP.

`python -m benchmarks.logger_reading --data-dir DIR` runs every kind of query several times, scrapes the metrics, and
with `--export ROWS` exports rows while watching the logger's memory. `--retention DAYS` instead deletes older rows
while new messages are written, and prints how long the writer was blocked. It changes the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import quote

import orjson
import psutil

from benchmarks.logger_writing import wait_until_serving
from benchmarks.processes import Child, clean_environment
from services.logger.database import Database
from services.logger.postgres.store import PostgresStore
from services.logger.retention import DAY_MS, Retention
from services.logger.sqlite_store import SqliteStore
from services.logger.store import Store
from services.logger.writing import EventWriter
from shared.clock import SystemClock
from shared.events import EventBatch, Queued, QueuedRecipient
from shared.queue.event_log import EventEntry
from shared.web import credentials
from tests.servers import INTERNAL_SECRET, RedisServer, free_port

_TIMES = 15
QUERIES = (
    "/api/logs/messages",
    "/api/logs/messages?limit=1000",
    "/api/logs/messages?status=sent",
    "/api/logs/messages?status=failed",
    "/api/logs/messages?status=failed,expired,suppressed,cancelled&limit=1000",
    "/api/logs/messages?status=processing",
    "/api/logs/messages?channel=whatsapp",
    "/api/logs/messages?channel=whatsapp&status=failed",
    "/api/logs/messages?recipient=user1234567@example.com",
    "/api/logs/messages?recipient=user12345",
    "/api/logs/messages?recipient=user",
    "/api/logs/messages?recipient=nobody@nowhere.example",
    "/api/logs/messages?recipient=62810009",
    "/api/logs/messages?blast={blast_id}",
    "/api/logs/messages?blast={blast_id}&status=failed&channel=email",
    "/api/logs/messages?template=template7",
    "/api/logs/messages?template=template7&status=failed",
    "/api/logs/messages?template=template7&error_class=uncertain&status=failed&channel=email",
    "/api/logs/messages?template=none",
    "/api/logs/messages?reference=order-77777",
    "/api/logs/messages?reference=campaign-{blast}&status=sent",
    "/api/logs/messages?error_class=uncertain",
    "/api/logs/messages?delivery=bounced",
    "/api/logs/messages?delivery=delivered&channel=whatsapp&limit=1000",
    "/api/logs/messages?blast={blast_id}&delivery=bounced",
    "/api/logs/messages?template=template7&delivery=complained",
    "/api/logs/messages?from={middle}",
    "/api/logs/messages?from={middle}&to={after}&status=failed",
    "/api/logs/messages?to={middle}&channel=email",
    "/api/logs/messages?recipient=user1234567@example.com&status=failed&from={middle}",
    "/api/logs/messages/stats",
    "/api/logs/messages/stats?blast={blast_id}",
    "/api/logs/messages/stats?recipient=user1234567@example.com",
    "/api/logs/messages/stats?error_class=uncertain",
    "/api/logs/messages/stats?delivery=bounced",
    "/api/logs/api",
    "/api/logs/api?status=422",
    "/api/logs/api?endpoint=/api/messages/blast&from={middle}",
    "/api/logs/system?level=error",
    "/api/logs/system?service=ingest&from={middle}&to={after}",
    "/api/messages/{blast_id}:50:email",
    "/api/blasts",
    "/api/blasts?state=completed_with_failures&template=template7",
    "/api/blasts?reference=campaign-{blast}",
    "/api/blasts/{blast_id}",
    "/api/dashboard",
    "/internal/open-jobs?olderThanSeconds=60",
    "/metrics",
)


def asked(port: int, path: str) -> urllib.request.Request:
    """Return a request to the logger with the services' secret."""
    return urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=credentials(INTERNAL_SECRET))


@dataclass(frozen=True, slots=True)
class Served:
    """A running logger."""

    port: int
    process: psutil.Process

    def get(self, path: str) -> bytes:
        """GET a path; raise unless the answer is 200."""
        with urllib.request.urlopen(asked(self.port, path), timeout=60) as answer:
            read: bytes = answer.read()
            return read

    def cpu_s(self) -> float:
        """Return the processor time used so far."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def memory_mib(self) -> float:
        """Return the resident memory in MiB."""
        return float(self.process.memory_info().rss) / 2**20


@dataclass(slots=True)
class Spent:
    """A query's times in seconds, and the logger's average processor time (a busy machine adds little to it)."""

    times: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logger_reading", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--database-url", default="", help="the log is there, and not in the folder")
    parser.add_argument("--export", type=int, default=0, metavar="ROWS", help="export at least that many rows")
    parser.add_argument("--retention", type=int, default=0, metavar="DAYS", help="delete older rows while writing")
    wanted = parser.parse_args(arguments)
    if wanted.retention:
        asyncio.run(_purge(_store(wanted), wanted.retention))
        return 0
    server = RedisServer("valkey")
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="kurir-bench-") as folder:
            _serve(wanted, server.url, Path(folder))
    finally:
        server.destroy()
    return 0


def _serve(wanted: argparse.Namespace, redis_url: str, folder: Path) -> None:
    port = free_port()
    env = clean_environment() | {
        "KURIR_REDIS_URL": redis_url,
        "KURIR_DATA_DIR": str(wanted.data_dir),
        "KURIR_PORT": str(port),
        "KURIR_RETENTION_DAYS": "3650",
        **({"KURIR_DATABASE_URL": wanted.database_url} if wanted.database_url else {}),
    }
    began = time.perf_counter()
    child = Child("logger", [sys.executable, "-m", "services.logger"], env, folder)
    try:
        wait_until_serving(port)
        print(f"serving after {time.perf_counter() - began:.1f} s")
        served = Served(port, psutil.Process(child.pid))
        # the first time reads the disk; later times find the pages in memory
        cold, warm = _ask_all(served, 1), _ask_all(served, _TIMES)
        print("ms: processor time of the logger; median, fastest, slowest of the later times; the first time")
        for path, spent in sorted(warm.items(), key=lambda item: -item[1].cpu_s):
            times = spent.times
            figures = (spent.cpu_s, median(times), min(times), max(times), cold[path].times[0])
            print(" ".join(f"{seconds * 1000:7.1f}" for seconds in figures), path)
        print(f"memory after queries: {served.memory_mib():.0f} MiB")
        if wanted.export:
            _export(served, wanted.export)
    finally:
        child.stop()


def _ask_all(served: Served, times: int) -> dict[str, Spent]:
    """Run every query `times` times; between two runs of one query, run all the others."""
    now = time.time()
    latest = orjson.loads(served.get("/api/blasts?limit=1"))["blasts"][0]["reference"]
    number = str(int(latest.removeprefix("campaign-")) // 2)
    (middle,) = orjson.loads(served.get(f"/api/blasts?reference=campaign-{number}"))["blasts"]
    values = {
        "blast": number,
        "blast_id": middle["blastId"],
        "middle": quote(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 15 * 86_400))),
        "after": quote(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 14 * 86_400))),
    }
    found = {path: Spent() for path in QUERIES}
    for _ in range(times):
        for path, spent in found.items():
            before = served.cpu_s()
            spent.times.append(_timed(partial(served.get, path.format(**values))))
            spent.cpu_s += (served.cpu_s() - before) / times
    return found


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _export(served: Served, rows: int) -> None:
    """Read rows as NDJSON, a chunk at a time, and watch the logger's memory."""
    before, peak, size, lines = served.memory_mib(), 0.0, 0, 0
    began = time.perf_counter()
    export = asked(served.port, "/api/logs/messages?format=ndjson")
    with urllib.request.urlopen(export, timeout=60) as answer:
        while lines < rows and (chunk := answer.read(1 << 20)):
            size += len(chunk)
            lines += chunk.count(b"\n")
            peak = max(peak, served.memory_mib())
    spent = time.perf_counter() - began
    print(f"export: {lines} rows, {size / 1e9:.2f} GB in {spent:.0f} s; memory {before:.0f} → {peak:.0f} MiB")


def _store(wanted: argparse.Namespace) -> Store:
    return PostgresStore(wanted.database_url) if wanted.database_url else SqliteStore(wanted.data_dir / "logs.db")


async def _purge(store: Store, days: int) -> None:
    """Delete rows older than `days` while writing batches, and time each batch."""
    await store.open()
    waits: list[float] = []
    done = asyncio.Event()

    async def write() -> None:
        writer, number = EventWriter(), 0
        while not done.is_set():
            number += 1
            entries = [_batch(number)]
            began = time.perf_counter()
            await store.write(partial(_apply, writer, entries))
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)

    async def checkpoint() -> None:
        while not done.is_set():
            await store.checkpoint()
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(write()), asyncio.create_task(checkpoint())]
    await asyncio.sleep(3)
    alone, began = sorted(waits), time.perf_counter()
    waits.clear()
    if dropped := await store.drop_days(SystemClock().now_ms() - days * DAY_MS, lambda: False):
        print(f"{dropped} messages went with their days in {time.perf_counter() - began:.2f} s")
    purged = await Retention(store, days, lambda: None).purge()
    spent = time.perf_counter() - began
    done.set()
    await asyncio.gather(*tasks)
    await store.close()
    beside = sorted(waits)
    print(orjson.dumps({"deleted": purged.rows, "days": days, "seconds": round(spent, 1)}).decode())
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"the writer was blocked {purged.longest_s * 1000:.1f} ms at most, in {purged.chunks} chunks (load {load});"
        f" a batch of 20 took p99 {_share(beside, 0.99) * 1000:.1f} ms, {beside[-1] * 1000:.1f} ms at most"
        f" ({_share(alone, 0.99) * 1000:.1f} and {alone[-1] * 1000:.1f} ms without)"
    )


def _apply(writer: EventWriter, entries: Sequence[EventEntry], connection: Database) -> None:
    writer.apply(connection, entries)


def _share(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def _batch(number: int) -> EventEntry:
    now_ms = SystemClock().now_ms()
    recipients = [QueuedRecipient(index, f"new{number}.{index}@example.com", "New") for index in range(20)]
    event = Queued(now_ms, f"new{now_ms}x{number}", "email", "template1", "Template 1", recipients)
    return EventEntry("bench", str(number), EventBatch(f"bench-{now_ms // DAY_MS}-{time.time_ns()}", number, [event]))


if __name__ == "__main__":
    sys.exit(main())
