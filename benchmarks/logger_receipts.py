"""Measure receipts: batches in Redis, the real logger, SQLite. `python -m benchmarks.logger_receipts`.

The log first gets the messages. Then each gets its receipts, in batches as a provider's webhooks make them:
`email` delivered, found by our own Message-ID; `whatsapp` delivered and read, found by the provider's id through its
index; `early` the same before the messages are in the log, so that all of them wait and are applied with their message.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from redis.asyncio import Redis

from benchmarks.logger_writing import wait_until_serving
from benchmarks.processes import Child, clean_environment, usage_of
from shared.events import EventBatch, Queued, QueuedRecipient, Receipts, Sent, pack_batch
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys
from shared.receipts import Receipt
from tests.servers import INTERNAL_SECRET, RedisServer, free_port

_CHUNK = 500
_DEADLINE_S = 300.0
_KINDS = {"email": ("delivered",), "whatsapp": ("delivered", "read"), "early": ("delivered", "read")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loads and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logger_receipts", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=10, help="receipts in a request of the provider")
    parser.add_argument("--loads", nargs="+", choices=tuple(_KINDS), default=list(_KINDS))
    wanted = parser.parse_args(arguments)
    for load in wanted.loads:
        asyncio.run(_measure(load, wanted.jobs, wanted.batch))
    return 0


async def _measure(load: str, jobs: int, batch: int) -> None:
    server = RedisServer("valkey")
    server.start()
    redis = connect(server.url)
    channel = "email" if load == "email" else "whatsapp"
    stream = PartitionKeys(channel).events
    messages, receipts = sent_messages(channel, jobs), _receipts(channel, load, jobs, batch)
    try:
        with tempfile.TemporaryDirectory(prefix="kurir-bench-") as folder:
            port = free_port()
            env = clean_environment() | {
                "KURIR_REDIS_URL": server.url, "KURIR_DATA_DIR": folder, "KURIR_PORT": str(port),
                "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
            }  # fmt: skip
            child = Child("logger", [sys.executable, "-m", "services.logger"], env, Path(folder))
            try:
                wait_until_serving(port)
                for part in (receipts, messages) if load == "early" else (messages, receipts):
                    before, began = usage_of([("logger", child.pid)]), time.perf_counter()
                    await _add(redis, stream, part)
                    await _drained(EventLog(redis), child)
                    spent, used = time.perf_counter() - began, usage_of([("logger", child.pid)]).since(before)
                    if part is receipts or load == "early":
                        _print(load, "receipts" if part is receipts else "messages", jobs, spent, used.cpu_s["logger"])
            finally:
                child.stop()
            _check(Path(folder), load, jobs)
    finally:
        await redis.aclose()
        server.destroy()


async def _add(redis: Redis, stream: str, batches: Sequence[bytes]) -> None:
    for start in range(0, len(batches), 1000):
        async with redis.pipeline(transaction=False) as pipe:
            for packed in batches[start : start + 1000]:
                pipe.xadd(stream, {"d": packed})
            await pipe.execute()


async def _drained(events: EventLog, child: Child) -> None:
    began = time.perf_counter()
    while await events.lag():
        child.check()
        if time.perf_counter() - began > _DEADLINE_S:
            raise TimeoutError(f"not written within {_DEADLINE_S:g} s")
        await asyncio.sleep(0.02)


def _print(load: str, what: str, jobs: int, spent: float, cpu_s: float) -> None:
    count = jobs * len(_KINDS[load]) if what == "receipts" else jobs
    print(
        f"{load:>8}: {count} {what} in {spent:.2f} s: {count / spent:,.0f} a second,"
        f" {cpu_s * 1_000_000 / count:.1f} µs of processor time each",
        flush=True,
    )


def _check(folder: Path, load: str, jobs: int) -> None:
    with closing(sqlite3.connect(folder / "logs.db")) as database:
        found = dict(database.execute("SELECT delivery, count(*) FROM message_logs GROUP BY delivery"))
        stored = database.execute("SELECT count(*) FROM message_receipts").fetchone()[0]
    if found != {_KINDS[load][-1]: jobs} or stored != jobs * len(_KINDS[load]):
        raise AssertionError(f"{jobs} messages should have {_KINDS[load]}, the database says {found}, {stored} rows")


def sent_messages(channel: str, jobs: int) -> list[bytes]:
    """Return the batches that queue and send all messages."""
    batches = []
    for start in range(0, jobs, _CHUNK):
        indexes = range(start, min(start + _CHUNK, jobs))
        recipients = [QueuedRecipient(index, _address(channel, index), f"User {index}") for index in indexes]
        queued = Queued(_now(), "bench", channel, "invoice_reminder", "Invoice reminder", recipients)
        sent = [
            Sent(_now(), f"bench:{index}:{channel}", 1, 1, message_id(channel, index), "ok", 12) for index in indexes
        ]
        batches.append(pack_batch(EventBatch("sender-bench", start, [queued, *sent])))
    return batches


def _address(channel: str, index: int) -> str:
    return f"user{index}@example.com" if channel == "email" else f"6281{index:09d}"


def message_id(channel: str, index: int) -> str:
    """Return the id of a message: our own Message-ID for mail, the provider's for WhatsApp."""
    return f"<bench.{index}.email.1@example.com>" if channel == "email" else f"wamid.HBgNNjI4MTIyNDc3{index:028d}"


def _receipts(channel: str, load: str, jobs: int, batch: int) -> list[bytes]:
    """Return the batches of receipts, in an order of their own."""
    dice = random.Random(1)
    every = list(_each(channel, load, jobs))
    dice.shuffle(every)
    return [
        pack_batch(EventBatch(f"receipts/{channel}", start, [Receipts(every[start : start + batch], _now())]))
        for start in range(0, len(every), batch)
    ]


def _each(channel: str, load: str, jobs: int) -> Iterator[Receipt]:
    now = time.time()
    for index in range(jobs):
        for kind in _KINDS[load]:
            if channel == "email":
                own = message_id(channel, index)[1:-1]
                yield Receipt("delivered", "brevo", now, message_id=own, words="250 ok", trusted=True)
            else:
                at = now + (kind == "read")
                yield Receipt(
                    "read" if kind == "read" else "delivered", "meta", at,
                    provider_id=message_id(channel, index), trusted=True,
                )  # fmt: skip


def _now() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    sys.exit(main())
