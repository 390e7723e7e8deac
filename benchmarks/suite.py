"""The suite: its works, their sizes, and the order in which the two sides take turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import hooks, kurir_works, peer_works, scaling, signing, webhooks
from benchmarks.hook_load import Wanted
from benchmarks.measured import Measurement, Side
from benchmarks.workload import Load

Work = Callable[[Load, Path], Measurement]
Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    works: Sequence[str]
    rounds: int
    quick: bool
    append_fsync: str


@dataclass(frozen=True, slots=True)
class Contest:
    """A work that both sides do; jobs in a full and in a quick run.

    The peer sends more slowly, so it gets fewer jobs if that changes only the time it takes.
    """

    name: str
    kurir: Work
    peer: Work
    load: Load
    quick_jobs: int
    peer_jobs: int

    def sized(self, side: Side, options: Options) -> Load:
        """Return the load of a side in such a run."""
        jobs = self.peer_jobs if side == "peer" else self.load.jobs
        jobs = min(jobs, self.quick_jobs) if options.quick else jobs
        return replace(self.load, jobs=jobs, append_fsync=options.append_fsync)


_LARGE = Load(3_000, html_bytes=100_000, dkim="rsa-2048")


CONTESTS = (
    Contest("end-to-end", kurir_works.end_to_end, peer_works.end_to_end, Load(20_000), 6_000, 10_000),
    Contest("whatsapp", kurir_works.whatsapp, peer_works.whatsapp, Load(20_000, channel="whatsapp"), 6_000, 10_000),
    Contest("large", kurir_works.large, peer_works.large, _LARGE, 1_000, 1_500),
    Contest("single", kurir_works.single, peer_works.single, Load(5_000), 1_500, 5_000),
    Contest("queue", kurir_works.queue_alone, peer_works.queue_alone, Load(40_000, 50), 10_000, 20_000),
    Contest("enqueue", kurir_works.enqueue, peer_works.enqueue, Load(30_000), 10_000, 30_000),
    Contest("latency", kurir_works.latency, peer_works.latency, Load(300), 100, 300),
)
# as many statuses as three messages each have, while these go out
_HOOKS = Wanted(messages=600, statuses=1_800, batch=10, seconds=10.0)
WORKS = (*(contest.name for contest in CONTESTS), "senders", "far", "hooks", "webhooks", signing.WORK)


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
    for name, steps in _ALONE.items():
        if name in options.works:
            yield from steps(options)


def _load(options: Options, jobs: int) -> Load:
    return Load(6_000 if options.quick else jobs, append_fsync=options.append_fsync)


def _signing_steps(options: Options) -> Iterator[Step]:
    for _ in range(options.rounds):
        for kind in signing.KINDS:
            yield partial(_signing_step, kind, _load(options, 12_000))


def _hooks_steps(options: Options) -> Iterator[Step]:
    for _ in range(options.rounds):
        yield lambda _: [hooks.measurement(_HOOKS)]


def _webhooks_steps(options: Options) -> Iterator[Step]:
    load = _load(options, 20_000)
    for _ in range(options.rounds):
        yield lambda _: [webhooks.measure(load, work) for work in (scaling.WITHOUT, scaling.WITH)]


def _senders_steps(options: Options) -> Iterator[Step]:
    yield lambda folder: scaling.with_senders(_load(options, 20_000), folder)


def _far_steps(options: Options) -> Iterator[Step]:
    concurrencies = (5,) if options.quick else scaling.CONCURRENCIES
    yield lambda folder: scaling.far_away(folder, options.append_fsync, concurrencies)


_ALONE: Mapping[str, Callable[[Options], Iterator[Step]]] = {
    signing.WORK: _signing_steps,
    "hooks": _hooks_steps,
    "webhooks": _webhooks_steps,
    "senders": _senders_steps,
    "far": _far_steps,
}


def _contest_step(contest: Contest, side: Side, options: Options) -> Step:
    work = contest.peer if side == "peer" else contest.kurir
    load = contest.sized(side, options)
    return lambda folder: [work(load, folder)]


def _signing_step(kind: str, load: Load, folder: Path) -> list[Measurement]:
    return [signing.signed(kind, load, folder)]


def line(measurement: Measurement) -> str:
    """Return a measurement as one line of the progress."""
    figures = ", ".join(f"{value:,.4g} {name}" for name, value in measurement.figures.items())
    cpu = sum(measurement.cpu_ms_per_thousand.values())
    return f"{measurement.work}: {measurement.side}: {figures}; {cpu:,.0f} ms of processor time per 1,000"
