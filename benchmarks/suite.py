"""The suite: its works, their sizes, and the order in which the two sides take turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import kurir_works, peer_works, scaling, signing
from benchmarks.measured import Measurement, Side
from benchmarks.workload import Load

Work = Callable[[Load, Path], Measurement]
Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Contest:
    """A work that both sides do; jobs in a full and in a quick run.

    The peer sends more slowly, so it gets fewer jobs if that changes only the time it takes.
    """

    name: str
    kurir: Work
    peer: Work
    jobs: int
    quick_jobs: int
    peer_jobs: int
    concurrency: int


CONTESTS = (
    Contest("end-to-end", kurir_works.end_to_end, peer_works.end_to_end, 20_000, 6_000, 10_000, 5),
    Contest("queue", kurir_works.queue_alone, peer_works.queue_alone, 40_000, 10_000, 20_000, 50),
    Contest("enqueue", kurir_works.enqueue, peer_works.enqueue, 30_000, 10_000, 30_000, 5),
    Contest("latency", kurir_works.latency, peer_works.latency, 300, 100, 300, 5),
)
SCALING = ("senders", "far", signing.WORK)
WORKS = (*(contest.name for contest in CONTESTS), *SCALING)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    works: Sequence[str]
    rounds: int
    quick: bool
    append_fsync: str


def run(options: Options, announce: Announce) -> list[Measurement]:
    """Run the works, each side in turn, round after round; raise BenchmarkError if one does not do its work."""
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="kurir-bench-") as folder:
        for number, step in enumerate(_steps(options)):
            own = Path(folder) / str(number)
            own.mkdir()
            for measurement in step(own):
                announce(line(measurement))
                found.append(measurement)
    return found


Step = Callable[[Path], list[Measurement]]


def _steps(options: Options) -> Iterator[Step]:
    for _ in range(options.rounds):
        for contest in CONTESTS:
            if contest.name in options.works:
                for side in ("peer", "kurir"):
                    yield _contest_step(contest, side, options)
    if signing.WORK in options.works:
        load = Load(6_000 if options.quick else 12_000, append_fsync=options.append_fsync)
        for _ in range(options.rounds):
            for kind in signing.KINDS:
                yield partial(_signing_step, kind, load)
    if "senders" in options.works:
        load = Load(6_000 if options.quick else 20_000, append_fsync=options.append_fsync)
        yield lambda folder: scaling.with_senders(load, folder)
    if "far" in options.works:
        concurrencies = (5,) if options.quick else scaling.CONCURRENCIES
        yield lambda folder: scaling.far_away(folder, options.append_fsync, concurrencies)


def _contest_step(contest: Contest, side: Side, options: Options) -> Step:
    work, jobs = (contest.kurir, contest.jobs) if side == "kurir" else (contest.peer, contest.peer_jobs)
    if options.quick:
        jobs = min(jobs, contest.quick_jobs)
    load = Load(jobs, contest.concurrency, append_fsync=options.append_fsync)
    return lambda folder: [work(load, folder)]


def _signing_step(kind: str, load: Load, folder: Path) -> list[Measurement]:
    return [signing.signed(kind, load, folder)]


def line(measurement: Measurement) -> str:
    """Return a measurement as one line of the progress."""
    figures = ", ".join(f"{value:,.4g} {name}" for name, value in measurement.figures.items())
    cpu = sum(measurement.cpu_ms_per_thousand.values())
    return f"{measurement.work}: {measurement.side}: {figures}; {cpu:,.0f} ms of processor time per 1,000"
