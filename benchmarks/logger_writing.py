"""Measure writing: real event batches in Redis, the real logger, SQLite. `python -m benchmarks.logger_writing`.

The load is a blast's whole history: `queued` in chunks of 500 jobs, then `processing` and `sent` in a sender's batches.
`mixed` orders them like a running system, each batch of `sent` shortly after its `processing`. `apart` has all events
of one kind before the next, so no two events of a job are in one transaction: the worst case. With `--webhook` one
webhook gets an event for each message, in batches of 500, and the time ends when all are in its queue; nothing takes
them from there, so there may be 50,000 at most, which fit its window.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.processes import Child, clean_environment, usage_of
from services.logger.sqlite_store import SqliteStore
from services.logger.webhooks.endpoints import create
from shared.blasts import Blast, pack_blast
from shared.events import Begun, BlastAccepted, Event, EventBatch, Queued, QueuedRecipient, Sent, pack_batch
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys
from shared.sealing import Seal
from shared.templates import Template
from tests.postgres_servers import PostgresServer
from tests.servers import RedisServer, free_port

_CHUNK = 500
_DEADLINE_S = 300.0
_FIT_A_WINDOW = 50_000
_WEBHOOK = {
    "url": "https://example.com/hook", "events": ["message.sent"], "batch": {"max": 500, "withinMs": 1000},
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both orders and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logger_writing", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=50, help="events in a sender's batch")
    parser.add_argument("--orders", nargs="+", choices=("mixed", "apart"), default=["mixed", "apart"])
    parser.add_argument("--postgres", action="store_true", help="write into PostgreSQL, with synced commits")
    parser.add_argument("--webhook", action="store_true", help="let one webhook get all events")
    wanted = parser.parse_args(arguments)
    if wanted.webhook and wanted.jobs > _FIT_A_WINDOW:
        parser.error(f"--webhook: at most {_FIT_A_WINDOW:,} jobs")
    for order in wanted.orders:
        if wanted.postgres:
            with _cluster() as cluster:
                asyncio.run(_measure(order, wanted.jobs, wanted.batch, webhook=False, cluster=cluster))
        else:
            asyncio.run(_measure(order, wanted.jobs, wanted.batch, webhook=wanted.webhook))
    return 0


@contextmanager
def _cluster() -> Iterator[PostgresServer]:
    cluster = PostgresServer("-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", durable=True)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.destroy()


async def _measure(order: str, jobs: int, batch: int, *, webhook: bool, cluster: PostgresServer | None = None) -> None:
    server = RedisServer("valkey")
    server.start()
    redis = connect(server.url)
    try:
        with tempfile.TemporaryDirectory(prefix="kurir-bench-") as folder:
            batches = list(_mixed(jobs, batch) if order == "mixed" else _apart(jobs, batch))
            stream = PartitionKeys("email").events
            for start in range(0, len(batches), 1000):
                async with redis.pipeline(transaction=False) as pipe:
                    for packed in batches[start : start + 1000]:
                        pipe.xadd(stream, {"d": packed})
                    await pipe.execute()
            if webhook:
                await _add_webhook(Path(folder))
            await _drain((order, jobs), EventLog(redis), server.url, Path(folder), cluster)
    finally:
        await redis.aclose()
        server.destroy()


async def _add_webhook(folder: Path) -> None:
    store = SqliteStore(folder / "logs.db", readers=1)
    await store.open()
    seal, now_ms = Seal("the secret of a benchmark"), _now()
    await store.write(lambda connection: create(connection, _WEBHOOK, seal, now_ms))
    await store.close()


def _not_handed_out(folder: Path, jobs: int) -> int:
    """Return how many events the webhook, if there is one, has not got yet."""
    with closing(sqlite3.connect(folder / "logs.db")) as database:
        if database.execute("SELECT count(*) FROM webhook_endpoints").fetchone() == (0,):
            return 0
        query = "SELECT coalesce(sum(count), 0) FROM webhook_deliveries WHERE enqueued"
        return jobs - int(database.execute(query).fetchone()[0])


async def _drain(
    load: tuple[str, int], events: EventLog, url: str, folder: Path, cluster: PostgresServer | None
) -> None:
    """Start the logger and wait until every event is written and acknowledged."""
    order, jobs = load
    port = free_port()
    env = clean_environment() | {"KURIR_REDIS_URL": url, "KURIR_DATA_DIR": str(folder), "KURIR_PORT": str(port)}
    database = cluster.make_database() if cluster else ""
    if database:
        env["KURIR_DATABASE_URL"] = database
    lag = await events.lag()
    child = Child("logger", [sys.executable, "-m", "services.logger"], env, folder)
    try:
        wait_until_serving(port)
        # batches written before the clock started do not count
        spent_before = cluster.cpu_s() if cluster else 0.0
        first, began, before = await events.lag(), time.perf_counter(), usage_of([("logger", child.pid)])
        while await events.lag() or (not cluster and _not_handed_out(folder, jobs)):
            child.check()
            if time.perf_counter() - began > _DEADLINE_S:
                raise TimeoutError(f"not written within {_DEADLINE_S:g} s")
            await asyncio.sleep(0.05)
        spent = time.perf_counter() - began
        used = usage_of([("logger", child.pid)]).since(before)
    finally:
        child.stop()
    if cluster:
        name = database.rpartition("/")[2]
        print(f"        PostgreSQL: {cluster.cpu_s() - spent_before:.2f} CPU s")
        rows = cluster.sql("SELECT status, count(*) FROM kurir.message_logs GROUP BY status", name)
        found = [(status, int(n)) for status, _, n in (row.partition("|") for row in rows.split())]
    else:
        with closing(sqlite3.connect(folder / "logs.db")) as file:
            found = file.execute("SELECT status, count(*) FROM message_logs GROUP BY status").fetchall()
    if found != [("sent", jobs)]:
        raise AssertionError(f"{jobs} should be sent, the database says {found}")
    written = 3 * jobs * first / lag
    print(
        f"{order:>6}: {written:.0f} events in {spent:.2f} s: {written / spent:,.0f} events/s,"
        f" {used.cpu_s['logger'] * 1000 / written:.4f} CPU s per 1,000, peak {used.peak_mib['logger']:.0f} MiB",
        flush=True,
    )


def wait_until_serving(port: int) -> None:
    """Wait until a logger answers on the port."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _mixed(jobs: int, batch: int) -> Iterator[bytes]:
    """Yield all `queued` events first, as for an upload; then begin each batch and, a few batches later, send it."""
    yield from _queued(jobs)
    starts = range(0, jobs, batch)
    behind = 4
    for number, start in enumerate([*starts, *[-1] * behind]):
        if start >= 0:
            yield _pack("begin", number, _begun(start, min(batch, jobs - start)))
        if number >= behind:
            earlier = starts[number - behind]
            yield _pack("settle", number, _sent(earlier, min(batch, jobs - earlier)))


def _apart(jobs: int, batch: int) -> Iterator[bytes]:
    yield from _queued(jobs)
    for step, make in (("begin", _begun), ("settle", _sent)):
        for number, start in enumerate(range(0, jobs, batch)):
            yield _pack(step, number, make(start, min(batch, jobs - start)))


def _queued(jobs: int) -> Iterator[bytes]:
    template = Template(id="invoice_reminder", name="Invoice reminder", channels=["email"])
    blast = Blast("bench", template, ["email"], "normal", _now(), {"email": jobs}, jobs)
    yield _pack("accept", 0, [BlastAccepted(_now(), "bench", pack_blast(blast))])
    for start in range(0, jobs, _CHUNK):
        recipients = [
            QueuedRecipient(index, f"user{index}@example.com", f"User {index}")
            for index in range(start, min(start + _CHUNK, jobs))
        ]
        event = Queued(_now(), "bench", "email", "invoice_reminder", "Invoice reminder", recipients)
        yield _pack("enqueue", start, [event])


def _begun(start: int, count: int) -> list[Event]:
    jobs = " ".join(f"bench:{index}:email" for index in range(start, start + count))
    return [Begun(_now(), 1, 1, "sender-1", jobs)]


def _sent(start: int, count: int) -> list[Event]:
    return [
        Sent(_now(), f"bench:{index}:email", 1, 1, f"<bench.{index}.email.1@example.com>",
             "250 2.0.0 Ok: queued as 4XyzAbCdEfG", 12, f"Your invoice INV-{index}")
        for index in range(start, start + count)
    ]  # fmt: skip


def _now() -> int:
    return time.time_ns() // 1_000_000


def _pack(step: str, number: int, events: list[Event]) -> bytes:
    return pack_batch(EventBatch(f"sender-bench/{step}", number, events))


if __name__ == "__main__":
    sys.exit(main())
