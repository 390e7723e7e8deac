"""The works, done by the peer."""

from __future__ import annotations

import statistics
from pathlib import Path

import redis

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
    try:
        with running(load, folder) as (peer, _):
            worker = peer.start("send", {"smtpPort": sink.port})
            adder = peer.start("add")
            others = {sink.name: sink.pid}
            before = peer.usage(others)
            worker.send_line()
            adder.send_line()
            begun = work_answer(adder)["begun"]
            done = _completed(worker, load)
            used = peer.usage(others).since(before)
            worker.send_line()
        if sink.count() != load.jobs:
            raise BenchmarkError(f"{sink.count()} of {load.jobs} messages arrived at the provider")
    finally:
        sink.stop()
    seconds = (done - begun) / 1000
    return measured("end-to-end", "peer", load.jobs, {"msg/s": load.jobs / seconds}, used)


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
