"""Throughput by the number of senders, and by concurrency with a distant server."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import kurir_works
from benchmarks.kurir import running
from benchmarks.measured import Measurement, measured
from benchmarks.processes import Child, clean_environment
from benchmarks.sink import Sink
from benchmarks.workload import Load
from tests.servers import free_port

SENDERS = (1, 2, 4)
CONCURRENCIES = (1, 5, 10, 20, 40)
PINNED = f"{SENDERS[-1]} senders, each kept on a core"
WITHOUT, WITH = "without an endpoint", "with one endpoint"
FAR_MS = 20
_FAR_SECONDS = 4.0
_READY_TIMEOUT_S = 10.0


def with_senders(load: Load, folder: Path) -> list[Measurement]:
    """Run the whole system with 1, 2 and 4 sender processes, and with 4 that have a core each, in turn."""
    found = [
        _renamed(kurir_works.end_to_end(load, _fresh(folder, f"senders-{count}"), count), f"{count} senders")
        for count in SENDERS
    ]
    pinned = kurir_works.end_to_end(load, _fresh(folder, "senders-pinned"), SENDERS[-1], pinned=True)
    return [*found, _renamed(pinned, PINNED)]


def far_away(folder: Path, append_fsync: str, concurrencies: tuple[int, ...] = CONCURRENCIES) -> list[Measurement]:
    """Run the whole system with a server 20 ms away, at several concurrencies, with and without pipelining.

    The number of messages is chosen to take some 4 s, at one round trip per message or four without pipelining.
    """
    found = []
    for concurrency in concurrencies:
        jobs = int(concurrency * _FAR_SECONDS * 1000 / FAR_MS)
        load = Load(jobs, concurrency, append_fsync=append_fsync)
        found.append(_far(load, _fresh(folder, f"far-{concurrency}"), pipelining=True))
    load = Load(int(5 * _FAR_SECONDS * 1000 / (4 * FAR_MS)), 5, append_fsync=append_fsync)
    found.append(_far(load, _fresh(folder, "far-slow"), pipelining=False))
    return found


def _far(load: Load, folder: Path, *, pipelining: bool) -> Measurement:
    sink = Sink(folder, pipelining=pipelining)
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.proxy", str(port), str(sink.port), str(FAR_MS)]
    proxy = Child("proxy-0", command, clean_environment(), folder)
    try:
        proxy.answer(_READY_TIMEOUT_S)
        with running(load, folder, port) as kurir:
            kurir.start(["logger", "ingest", "email_sender"])
            figures, used = kurir_works.send_blast(kurir, {sink.name: sink.pid})
            kurir_works.check_delivered(kurir, sink)
    finally:
        proxy.stop()
        sink.stop()
    way = "pipelined" if pipelining else "one command a round trip"
    return measured(f"{FAR_MS} ms away, {load.concurrency} connections, {way}", "kurir", load.jobs, figures, used)


def _renamed(one: Measurement, work: str) -> Measurement:
    return Measurement(work, one.side, one.jobs, one.figures, one.cpu_ms_per_thousand, one.peak_mib)


def _fresh(folder: Path, name: str) -> Path:
    fresh = folder / name
    fresh.mkdir(parents=True)
    return fresh
