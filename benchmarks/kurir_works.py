"""The works, done by Kurir."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import http_sink
from benchmarks.filling import fill_paused, resume
from benchmarks.hook_load import Arrivals, request, run_load
from benchmarks.kurir import READY_TIMEOUT_S, Kurir, running
from benchmarks.measured import Measurement, measured
from benchmarks.peer_works import PAUSE_MS, percentiles, used_memory
from benchmarks.probe import Probe, measure
from benchmarks.processes import BenchmarkError, Child, Usage
from benchmarks.sink import Sink
from benchmarks.workload import SINGLES_A_SECOND, Load, blast_body, message_body
from tests.servers import free_port

BLAST = "/api/messages/blast"


def end_to_end(load: Load, folder: Path, senders: int = 1, *, pinned: bool = False) -> Measurement:
    """One POST to the whole system; `senders` processes send the messages as they arrive, and the logger logs them.

    With `pinned`, each sender has a core, in turn.
    """
    sink = Sink(folder)
    try:
        with running(load, folder, sink.port) as kurir:
            kurir.start(["logger", "ingest", *["email_sender"] * senders])
            if pinned:
                kurir.pin("email_sender")
            figures, used = send_blast(kurir, {sink.name: sink.pid})
            check_delivered(kurir, sink)
    finally:
        sink.stop()
    return measured("end-to-end", "kurir", load.jobs, figures, used)


def whatsapp(load: Load, folder: Path) -> Measurement:
    """The same with WhatsApp's API: one POST, one sender that posts each message to an HTTP server."""
    sink = http_sink.Sink(folder)
    try:
        with running(load, folder, sink.port) as kurir:
            kurir.start(["logger", "ingest", "whatsapp_sender"])
            figures, used = send_blast(kurir, {sink.name: sink.pid})
            check_delivered(kurir, sink)
    finally:
        sink.stop()
    return measured("whatsapp", "kurir", load.jobs, figures, used)


def large(load: Load, folder: Path) -> Measurement:
    """Large signed mails; `msg/s a core` is for each core that Kurir and its Valkey used, without the sink."""
    found = end_to_end(load, folder)
    spent_ms = sum(ms for name, ms in found.cpu_ms_per_thousand.items() if name != Sink.name)
    return replace(found, work="large", figures={**found.figures, "msg/s a core": 1e6 / spent_ms})


def single(load: Load, folder: Path) -> Measurement:
    """Single messages at fixed times, each a POST; the time of an answer counts from when its request was due."""
    sink = Sink(folder)
    requests = [request("/api/messages", message_body(index)) for index in range(load.jobs)]
    try:
        with running(load, folder, sink.port) as kurir:
            kurir.start(["logger", "ingest", "email_sender"])
            others = {sink.name: sink.pid}
            before, begun = kurir.usage(others), time.monotonic()
            answers = run_load(kurir.port, Arrivals(requests, 1 / SINGLES_A_SECOND), Arrivals([], 0.0))
            sent = kurir.until_sent(load.jobs)
            kurir.until_logged()
            used = kurir.usage(others).since(before)
            check_delivered(kurir, sink)
    finally:
        sink.stop()
    figures = {"msg/s": load.jobs / (sent - begun), **percentiles(sorted(answers))}
    return measured("single", "kurir", load.jobs, figures, used)


def send_blast(kurir: Kurir, others: dict[str, int]) -> tuple[dict[str, float], Usage]:
    """POST the load as one blast, wait until all is sent and logged; return the figures and the usage."""
    jobs = kurir.load.jobs
    body = blast_body(jobs, kurir.load.channel)
    before = kurir.usage(others)
    begun = time.monotonic()
    kurir.post(BLAST, body)
    sent = kurir.until_sent(jobs)
    logged = kurir.until_logged()
    used = kurir.usage(others).since(before)
    return {"msg/s": jobs / (sent - begun), "logged msg/s": jobs / (logged - begun)}, used


def queue_alone(load: Load, folder: Path) -> Measurement:
    """The jobs wait on a paused channel; once it is resumed, a sender with a stub provider takes them all."""
    with running(load, folder) as kurir:
        fill_paused(kurir)
        command = [sys.executable, "-m", "benchmarks.idle_sender"]
        kurir.add(Child("idle_sender-0", command, kurir.env, folder))
        kurir.until(lambda: bool(kurir.redis.hlen("{email}:senders")), READY_TIMEOUT_S, "sender")
        before = kurir.usage({})
        begun = resume(kurir)
        sent = kurir.until_sent(load.jobs)
        used = kurir.usage({}).since(before)
    return measured("queue", "kurir", load.jobs, {"jobs/s": load.jobs / (sent - begun)}, used)


def enqueue(load: Load, folder: Path) -> Measurement:
    """One validated POST without a sender, until it is answered; then until each job's row is committed.

    The growth of Redis's memory is that of the waiting jobs, the blast and its snapshot.
    """
    body = blast_body(load.jobs)
    with running(load, folder) as kurir:
        kurir.start(["logger", "ingest"])
        kurir.until_logged()
        empty = used_memory(kurir.server)
        before = kurir.usage({})
        begun = time.monotonic()
        kurir.post(BLAST, body)
        answered = time.monotonic()
        logged = kurir.until_logged()
        used = kurir.usage({}).since(before)
        bytes_each = (used_memory(kurir.server) - empty) / load.jobs
        if kurir.rows("queued") != load.jobs:
            raise BenchmarkError(f"{kurir.rows('queued')} of {load.jobs} jobs have a row")
    figures = {
        "jobs/s": load.jobs / (answered - begun),
        "logged jobs/s": load.jobs / (logged - begun),
        "bytes/job": bytes_each,
    }
    return measured("enqueue", "kurir", load.jobs, figures, used)


def latency(load: Load, folder: Path) -> Measurement:
    """Single messages on an idle system: from the answer to the POST to the call of the provider."""
    return asyncio.run(_latency(load, folder))


async def _latency(load: Load, folder: Path) -> Measurement:
    probe, smtp_port = Probe(), free_port()
    await probe.start(smtp_port)
    with running(load, folder, smtp_port) as kurir:
        await asyncio.to_thread(kurir.start, ["logger", "ingest", "email_sender"])
        before = kurir.usage({})
        waits = sorted(await measure(kurir, probe, PAUSE_MS / 1000))
        used = kurir.usage({}).since(before)
    probe.stop()
    return measured("latency", "kurir", load.jobs, percentiles(waits), used)


def check_delivered(kurir: Kurir, sink: Sink | http_sink.Sink) -> None:
    """Raise BenchmarkError unless every message arrived once and has its row."""
    arrived, rows, jobs = sink.count(), kurir.rows("sent"), kurir.load.jobs
    if (arrived, rows) != (jobs, jobs):
        raise BenchmarkError(f"of {jobs} messages {arrived} arrived and {rows} have a row that says sent")
