"""The works, done by the peer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis

from benchmarks import http_sink
from benchmarks.measured import Measurement, measured
from benchmarks.peer import running, work_answer
from benchmarks.processes import BenchmarkError, Child
from benchmarks.sink import Sink
from benchmarks.workload import Load
from tests.servers import RedisServer

PAUSE_MS = 20


def end_to_end(load: Load, folder: Path) -> Measurement:
    """One process adds the jobs while another, with nodemailer's pool, sends them as they arrive."""
    sink = Sink(folder)
    found, _ = _sent(load, folder, sink, _Roles("send", {"smtpPort": sink.port}))
    return found


def large(load: Load, folder: Path) -> Measurement:
    """The same with large mails that nodemailer signs."""
    return replace(end_to_end(load, folder), work="large")


def single(load: Load, folder: Path) -> Measurement:
    """The same with `add` for each job, at fixed times; the time of one counts from when it was due."""
    sink = Sink(folder)
    found, added = _sent(load, folder, sink, _Roles("send", {"smtpPort": sink.port}, "pace"))
    return replace(found, work="single", figures={**found.figures, **percentiles(sorted(added["waits"]))})


def whatsapp(load: Load, folder: Path) -> Measurement:
    """One process adds the jobs while another, with undici's pool, posts them as they arrive."""
    sink = http_sink.Sink(folder)
    extra = {
        "providerOrigin": f"http://127.0.0.1:{sink.port}",
        "messagesPath": http_sink.MESSAGES_PATH,
        "token": http_sink.TOKEN,
    }
    found, _ = _sent(load, folder, sink, _Roles("post", extra))
    return replace(found, work="whatsapp")


@dataclass(frozen=True, slots=True)
class _Roles:
    """The roles of the two processes, and the options of the one that sends."""

    sender: str
    options: Mapping[str, object]
    adder: str = "add"


def _sent(load: Load, folder: Path, sink: Sink | http_sink.Sink, roles: _Roles) -> tuple[Measurement, dict[str, Any]]:
    """Add and send the jobs; return the measurement, and the answer of the process that added them."""
    try:
        with running(load, folder) as (peer, _):
            worker = peer.start(roles.sender, roles.options)
            adder = peer.start(roles.adder)
            others = {sink.name: sink.pid}
            before = peer.usage(others)
            worker.send_line()
            adder.send_line()
            added = work_answer(adder)
            done = _completed(worker, load)
            used = peer.usage(others).since(before)
            worker.send_line()
        if sink.count() != load.jobs:
            raise BenchmarkError(f"{sink.count()} of {load.jobs} messages arrived at the provider")
    finally:
        sink.stop()
    seconds = (done - added["begun"]) / 1000
    return measured("end-to-end", "peer", load.jobs, {"msg/s": load.jobs / seconds}, used), added


def queue_alone(load: Load, folder: Path) -> Measurement:
    """The jobs wait; a worker whose processor does nothing takes them all."""
    with running(load, folder) as (peer, _):
        adder = peer.start("add")
        adder.send_line()
        work_answer(adder)
        worker = peer.start("drain", {"autorun": False})
        before = peer.usage({})
        worker.send_line()
        answer = work_answer(worker)
        used = peer.usage({}).since(before)
        worker.send_line()
    seconds = (answer["ended"] - answer["begun"]) / 1000
    return measured("queue", "peer", load.jobs, {"jobs/s": answer["completed"] / seconds}, used)


def enqueue(load: Load, folder: Path) -> Measurement:
    """`addBulk` in chunks without a worker; the growth of Redis's memory is that of the waiting jobs."""
    with running(load, folder) as (peer, server):
        adder = peer.start("add")
        empty = used_memory(server)
        before = peer.usage({})
        adder.send_line()
        answer = work_answer(adder)
        used = peer.usage({}).since(before)
        bytes_each = (used_memory(server) - empty) / load.jobs
    seconds = (answer["ended"] - answer["begun"]) / 1000
    figures = {"jobs/s": load.jobs / seconds, "bytes/job": bytes_each}
    return measured("enqueue", "peer", load.jobs, figures, used)


def latency(load: Load, folder: Path) -> Measurement:
    """Single jobs on an idle queue: from the answer of `add` to the call of the processor."""
    with running(load, folder) as (peer, _):
        child = peer.start("latency", {"pauseMs": PAUSE_MS})
        before = peer.usage({})
        child.send_line()
        waits = sorted(work_answer(child)["waits"])
        used = peer.usage({}).since(before)
    return measured("latency", "peer", load.jobs, percentiles(waits), used)


def percentiles(sorted_ms: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile of sorted waits."""
    return {"p50 ms": statistics.median(sorted_ms), "p99 ms": sorted_ms[int(len(sorted_ms) * 0.99)]}


def used_memory(server: RedisServer) -> int:
    """Return the memory that Redis reports for its data."""
    with redis.Redis(port=server.port) as client:
        return int(client.info("memory")["used_memory"])


def _completed(worker: Child, load: Load) -> float:
    answer = work_answer(worker)
    if answer["completed"] != load.jobs:
        raise BenchmarkError(f"the peer completed {answer['completed']} of {load.jobs}")
    return float(answer["ended"])
