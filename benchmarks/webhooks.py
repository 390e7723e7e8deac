"""Measure the cost of webhooks: blasts without and with an endpoint that gets every event, in turns.

    python -m benchmarks.webhooks [--jobs 100000] [--rounds 2] [--single]

Every measurement has the whole system to itself: ingest, the logger, an email sender, a webhook sender, Redis,
smtp-sink and a client that receives webhooks. They share the machine, the client too. The endpoint subscribes to all
events, in batches of up to 500 within a second; `--single` sends each event alone. In the end the client must have had
the event of every message.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks import machine, report
from benchmarks.kurir import LOCALHOST, READY_TIMEOUT_S, WORK_TIMEOUT_S, Kurir, running
from benchmarks.kurir_works import check_delivered, send_blast
from benchmarks.measured import Measurement, measured
from benchmarks.processes import BenchmarkError, Child
from benchmarks.scaling import WITH, WITHOUT
from benchmarks.sink import Sink
from benchmarks.webhook_receiver import SECRET
from benchmarks.workload import Load
from tests.servers import free_port

# the least share of the rate without an endpoint
_LEAST = 0.9
_BATCH = {"max": 500, "withinMs": 1000}
_ANSWER_TIMEOUT_S = 60.0
_LOOK_S = 0.1
_CLIENT = "client"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if an endpoint costs more than a tenth of the throughput."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--single", action="store_true", help="send each event alone")
    given = parser.parse_args(arguments)
    load, found = Load(given.jobs), list[Measurement]()
    print("; ".join(f"{name} {value}" for name, value in machine.describe().items()))
    try:
        for _ in range(given.rounds):
            for work in (WITHOUT, WITH):
                found.append(measure(load, work, batched=not given.single))
                print(_line(found[-1]), flush=True)
    except BenchmarkError as error:
        print(f"benchmarks.webhooks: {error}", file=sys.stderr)
        return 1
    print("\n".join(["", *cost_table(found), "", *report.usage_table(found)]))
    return 0 if share(found) >= _LEAST else 1


def measure(load: Load, work: str, *, batched: bool = True) -> Measurement:
    """Send one blast with the whole system in a temporary folder; raises BenchmarkError."""
    with tempfile.TemporaryDirectory(prefix="kurir-webhooks-") as name:
        sink = Sink(Path(name))
        try:
            with running(load, Path(name), sink.port) as kurir:
                kurir.env["KURIR_WEBHOOK_ALLOW"] = f"{LOCALHOST}/32"
                client = _Client(kurir)
                kurir.start(["logger", "ingest", "email_sender", "webhook_sender"])
                if work == WITH:
                    client.subscribe(batched=batched)
                found = client.blast(sink)
                check_delivered(kurir, sink)
                return replace(found, work=work)
        finally:
            sink.stop()


class _Client:
    """A client that receives the events of the blast that it sends, if it has subscribed to them."""

    def __init__(self, kurir: Kurir) -> None:
        self._kurir = kurir
        self._port = free_port()
        command = [sys.executable, "-m", "benchmarks.webhook_receiver", str(self._port)]
        self._child = Child(f"{_CLIENT}-0", command, kurir.env, kurir.folder)
        kurir.add(self._child)
        self._child.answer(READY_TIMEOUT_S)
        self._subscribed = False

    def subscribe(self, *, batched: bool) -> None:
        """Add an endpoint for all events, and wait until the logger feeds it."""
        wanted: dict[str, Any] = {"url": f"http://{LOCALHOST}:{self._port}/hooks", "events": ["*"], "secret": SECRET}
        self._kurir.post("/api/webhooks", orjson.dumps(wanted | ({"batch": _BATCH} if batched else {})))
        self._kurir.until(
            lambda: self._ask("SELECT count(*) FROM webhook_endpoints WHERE unsynced") == 0,
            READY_TIMEOUT_S,
            "an endpoint that is known to the senders",
        )
        self._subscribed = True

    def blast(self, sink: Sink) -> Measurement:
        """Send the load; wait until all is sent, logged and reported; return the figures, with the time of each."""
        kurir, others = self._kurir, {sink.name: sink.pid}
        before, begun = kurir.usage(others), time.monotonic()
        figures, _ = send_blast(kurir, others)
        if self._subscribed:
            kurir.until(self._is_reported, WORK_TIMEOUT_S, "events delivered")
            figures["reported msg/s"] = kurir.load.jobs / (time.monotonic() - begun)
        used = kurir.usage(others).since(before)
        self._check(figures)
        return measured("", "kurir", kurir.load.jobs, figures, used)

    def _is_reported(self) -> bool:
        """Return whether every event of the journal was delivered; the answers are events of their own."""
        time.sleep(_LOOK_S)
        journaled, cursor = (
            self._ask("SELECT max(id) FROM webhook_events"),
            self._ask("SELECT cursor FROM webhook_endpoints"),
        )
        return (
            journaled == cursor
            and self._ask("SELECT count(*) FROM webhook_deliveries WHERE status <> 'delivered'") == 0
        )

    def _check(self, figures: dict[str, float]) -> None:
        """Raise BenchmarkError unless the client has the event of every message, or no request without an endpoint."""
        self._child.send_line()
        counts = self._child.answer(_ANSWER_TIMEOUT_S)
        wanted = self._kurir.load.jobs if self._subscribed else 0
        if counts["sent"] != wanted:
            raise BenchmarkError(f"of {wanted} messages the client was told about {counts['sent']}")
        if self._subscribed:
            figures["requests"] = counts["requests"]

    def _ask(self, query: str) -> int:
        with closing(self._kurir.database()) as database:
            return int(database.execute(query).fetchone()[0])


def share(found: Sequence[Measurement]) -> float:
    """Return the share of the rate that is left with an endpoint: the median of the rounds' own shares."""
    return statistics.median(ratio for ratio in _ratios(found, lambda one: one.figures["msg/s"]))


def cost_table(found: Sequence[Measurement]) -> list[str]:
    """Return the rates and the processor time of both, and what is left with an endpoint."""
    readings: dict[str, Callable[[Measurement], float]] = {
        "messages a second to sent": lambda one: one.figures["msg/s"],
        "messages a second to logged": lambda one: one.figures["logged msg/s"],
        "processor time a message, µs": lambda one: sum(one.cpu_ms_per_thousand.values()),
    }
    names = dict.fromkeys(name for one in found for name in one.cpu_ms_per_thousand)
    readings |= {f"of which {name}": partial(_spent, name) for name in names}
    rows = []
    for what, read in readings.items():
        medians = [statistics.median(map(read, _of(found, work))) for work in (WITHOUT, WITH)]
        rows.append([what, *(f"{value:,.0f}" for value in medians), f"{medians[1] - medians[0]:+,.0f}",
                     f"{statistics.median(_ratios(found, read)):.2f} ×"])  # fmt: skip
    return report.table(["figure", WITHOUT, WITH, "difference", "ratio"], rows)


def _spent(name: str, one: Measurement) -> float:
    return one.cpu_ms_per_thousand.get(name, 0.0)


def _of(found: Sequence[Measurement], work: str) -> list[Measurement]:
    return [one for one in found if one.work == work]


def _ratios(found: Sequence[Measurement], read: Callable[[Measurement], float]) -> list[float]:
    """Return the ratio of a figure with an endpoint to without one, in each round."""
    pairs = zip(_of(found, WITHOUT), _of(found, WITH), strict=True)
    return [read(after) / read(before) if read(before) else math.inf for before, after in pairs]


def _line(one: Measurement) -> str:
    figures = ", ".join(f"{value:,.0f} {name}" for name, value in one.figures.items())
    spent = ", ".join(f"{name} {value:.0f}" for name, value in one.cpu_ms_per_thousand.items())
    return f"{one.work}: {figures}; {sum(one.cpu_ms_per_thousand.values()):.0f} µs a message: {spent}"


if __name__ == "__main__":
    sys.exit(main())
