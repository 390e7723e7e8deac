"""Measure hooks: WhatsApp statuses in Meta's batches, signed, on one ingest process while messages go out.

    python -m benchmarks.hooks [--messages 2000] [--statuses 6000] [--batch 10] [--seconds 20] [--connections 20]

The whole system sends blasts through smtp-sink, four a second on the same ingest process (`--messages 0`: none), and
its log has the messages that the statuses are about. Its sender has enough connections to keep up: each waits for its
turn on the cores that all share. Requests arrive at fixed times, whether or not earlier ones were
answered, as from a provider. The time of one counts from the moment when it should have been sent, so that a server
that stands still cannot hide it. Meta asks for a median of at most 250 ms, and fewer than 1 % over a second, at three
times the sending rate.

What is taken need not be in the log at once. At the end of the load the table shows how much waits, and how long it
takes until all of it is in the log while messages still go out. Then nothing may be missing.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.hook_load import (
    CHANNEL,
    FIGURES,
    SECRET,
    TOKEN,
    WORK,
    Arrivals,
    Wanted,
    make_blasts,
    make_hooks,
    run_load,
)
from benchmarks.kurir import WORK_TIMEOUT_S, Kurir, running
from benchmarks.kurir_works import BLAST
from benchmarks.logger_receipts import sent_messages
from benchmarks.measured import Measurement, measured
from benchmarks.processes import BenchmarkError, Usage
from benchmarks.sink import Sink
from benchmarks.workload import Load, blast_body

_WARM_UP_MESSAGES = 1000
_CONNECTIONS = 20
_GOAL_MS = 50.0
# of the messages and statuses a second that were asked for: below, the machine could not do this work
_LEAST_SHARE = 0.97
_PARTS = (("median", 0.5), ("p95", 0.95), ("p99", 0.99), ("slowest", 1.0))
_RECEIPTS, _EVENTS = "receipts", f"{{{CHANNEL}}}:events"


@dataclass(frozen=True, slots=True)
class Behind:
    """What waits in a stream at the end of the load, the age of the oldest entry, and the time until none is left."""

    entries: int
    age_s: float
    caught_up_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """The times of all requests in ms, sorted; statuses and messages a second; what waited; processor seconds."""

    times_ms: list[float]
    seconds: float
    statuses_per_s: float
    messages_per_s: float
    behind: dict[str, Behind]
    used: Usage

    def share(self, part: float) -> float:
        """Return the time that this part of the requests did not exceed."""
        return self.times_ms[min(len(self.times_ms) - 1, int(len(self.times_ms) * part))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a request was not taken, a rate was not reached or the median is too high."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hooks", description=__doc__)
    parser.add_argument("--messages", type=int, default=2000, help="messages a second that go out")
    parser.add_argument("--statuses", type=int, default=6000, help="statuses a second that arrive")
    parser.add_argument("--batch", type=int, default=10, help="statuses in a request")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--connections", type=int, default=_CONNECTIONS, help="of the sender to the mail server")
    given = parser.parse_args(arguments)
    wanted = Wanted(given.messages, given.statuses, given.batch, given.seconds)
    try:
        found = measure(wanted, given.connections)
    except BenchmarkError as error:
        print(f"benchmarks.hooks: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.table(["figure", "value"], _rows(found))))
    reached = found.statuses_per_s >= wanted.statuses * _LEAST_SHARE
    reached &= found.messages_per_s >= wanted.messages * _LEAST_SHARE
    return 0 if reached and found.share(0.5) <= _GOAL_MS else 1


def measurement(wanted: Wanted) -> Measurement:
    """Measure it as a work of the suite: what was reached of what was asked for, and the times of requests."""
    found = measure(wanted, Load(0).concurrency)  # as all works of the suite
    statuses, messages = found.statuses_per_s, found.messages_per_s
    ratios = (statuses / wanted.statuses, messages / wanted.messages)
    values = (statuses, ratios[0], messages, ratios[1], found.share(0.5), found.share(0.99))
    return measured(WORK, "kurir", wanted.requests, dict(zip(FIGURES, values, strict=True)), found.used)


def _rows(found: Found) -> list[list[str]]:
    slow = sum(time_ms > 1000 for time_ms in found.times_ms) / len(found.times_ms)
    rows = [
        ["statuses taken a second", f"{found.statuses_per_s:,.0f}"],
        ["messages sent a second meanwhile", f"{found.messages_per_s:,.0f}"],
        *([f"a request's time, {name}", f"{found.share(part):.1f} ms"] for name, part in _PARTS),
        ["requests over 1 s", f"{slow:.2%}"],
    ]
    for name, behind in found.behind.items():
        waits = f"{behind.entries:,}, the oldest for {behind.age_s:.1f} s; none after {behind.caught_up_s:.1f} s"
        rows.append([f"waiting for the {name} at the end", waits])
    for name, seconds in found.used.cpu_s.items():
        rows.append([f"processor seconds, {name}", f"{seconds:.1f} ({seconds / found.seconds:.0%} of a core)"])
    return rows


def measure(wanted: Wanted, connections: int = _CONNECTIONS) -> Found:
    """Run the system in a temporary folder and measure it; raises BenchmarkError."""
    hooks, blasts = make_hooks(wanted), make_blasts(wanted)
    jobs = (_WARM_UP_MESSAGES if blasts.requests else 0) + wanted.blasts * wanted.recipients
    with tempfile.TemporaryDirectory(prefix="kurir-hooks-") as name:
        sink = Sink(Path(name))
        try:
            with running(Load(jobs, concurrency=connections), Path(name), sink.port) as kurir:
                kurir.env |= {"KURIR_HOOK_TOKEN": TOKEN, "KURIR_META_APP_SECRET": SECRET}
                kurir.start(["logger", "receipts", "ingest", *["email_sender"] * bool(jobs)])
                _log_messages(kurir, wanted)
                if jobs:
                    kurir.post(BLAST, blast_body(_WARM_UP_MESSAGES))
                    kurir.until_sent(_WARM_UP_MESSAGES)
                kurir.until_logged()
                found = _measured(kurir, wanted, (hooks, blasts), {sink.name: sink.pid, "the load": os.getpid()})
                kurir.until_sent(jobs)
                kurir.until_logged()
                _check(kurir, wanted, jobs)
                return found
        finally:
            sink.stop()


def _log_messages(kurir: Kurir, wanted: Wanted) -> None:
    """Write the messages that the statuses are about into the log."""
    with kurir.redis.pipeline(transaction=False) as pipe:
        for packed in sent_messages(CHANNEL, wanted.reported):
            pipe.xadd(_EVENTS, {"d": packed})
        pipe.execute()


def _measured(kurir: Kurir, wanted: Wanted, load: tuple[Arrivals, Arrivals], others: dict[str, int]) -> Found:
    before, sent_before, begun = kurir.usage(others), kurir.sent(), time.monotonic()
    times_ms = run_load(kurir.port, *load)
    seconds, sent, used = time.monotonic() - begun, kurir.sent() - sent_before, kurir.usage(others).since(before)
    behind = _caught_up(kurir)
    added = int(kurir.redis.xinfo_stream(_RECEIPTS)["entries-added"])
    if added != wanted.requests:
        raise BenchmarkError(f"of {wanted.requests} requests that were answered with 200, {added} are in the stream")
    statuses_per_s = wanted.requests * wanted.batch / seconds
    return Found(sorted(times_ms), seconds, statuses_per_s, sent / seconds, behind, used)


def _caught_up(kurir: Kurir) -> dict[str, Behind]:
    """Wait until the receipts service and then the logger have caught up; return what each had to do."""
    ended, streams = time.monotonic(), {"receipts service": _RECEIPTS, "logger": _EVENTS}
    waiting = {name: (kurir.redis.xlen(stream), _oldest_age_s(kurir, stream)) for name, stream in streams.items()}
    found = {}
    for name, stream in streams.items():
        kurir.until(lambda stream=stream: not kurir.redis.xlen(stream), WORK_TIMEOUT_S, f"empty {stream}")  # type: ignore[misc]
        found[name] = Behind(*waiting[name], time.monotonic() - ended)
    return found


def _oldest_age_s(kurir: Kurir, stream: str) -> float:
    rows: Any = kurir.redis.xrange(stream, count=1)
    return max(0.0, time.time() - int(rows[0][0].partition(b"-")[0]) / 1000) if rows else 0.0


def _check(kurir: Kurir, wanted: Wanted, jobs: int) -> None:
    """Raise BenchmarkError unless every message of the blast was sent and every receipt is in the log."""
    with closing(sqlite3.connect(kurir.folder / "data" / "logs.db")) as database:
        (stored,) = database.execute("SELECT count(*) FROM message_receipts").fetchone()
        (read,) = database.execute("SELECT count(*) FROM message_logs WHERE delivery = 'read'").fetchone()
    sent = kurir.rows("sent") - wanted.reported
    if (stored, read, sent) != (wanted.receipts, wanted.read, jobs):
        raise BenchmarkError(
            f"{stored} of {wanted.receipts} receipts are in the log, {read} of {wanted.read} messages are read,"
            f" and {sent} of {jobs} messages of the blast are sent"
        )


if __name__ == "__main__":
    sys.exit(main())
