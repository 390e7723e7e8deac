"""The report of a run: medians over its rounds, ratios and goals, as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import hook_load, scaling, signing
from benchmarks.measured import Measurement, Side


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal for a figure of a work: at least a multiple of the peer's, or an absolute bound (`most`, `least`)."""

    work: str
    figure: str
    what: str
    bound: float
    most: bool = False
    least: bool = False

    def judged(self, peer: float, ours: float) -> tuple[str, bool]:
        """Return what is to be reached, and whether it is."""
        if self.most:
            return f"≤ {self.bound:g}", ours <= self.bound
        if self.least:
            return f"≥ {self.bound:g}", ours >= self.bound
        return f"≥ {self.bound:g} ×", ours / peer >= self.bound


# a run without a peer, and the one that it is compared with
_COMPARED = {
    **{f"{count} senders": f"{scaling.SENDERS[0]} senders" for count in scaling.SENDERS[1:]},
    scaling.PINNED: f"{scaling.SENDERS[-1]} senders",
    scaling.WITH: scaling.WITHOUT,
}
_START, _END = "<!-- results -->", "<!-- end of results -->"

GOALS = (
    Goal("end-to-end", "msg/s", "POST to sent, the whole system with logging on, msg/s", 3),
    Goal("whatsapp", "msg/s", "the same by WhatsApp, to an HTTP server, msg/s", 2),
    Goal("large", "msg/s", "100 KB of HTML, signed with RSA-2048, msg/s", 2),
    Goal("large", "msg/s a core", "the same, for each core used without the sink, msg/s", 375, least=True),
    Goal("single", "msg/s", "single messages, 500 a second asked for, msg/s", 0.97),
    Goal("single", "p50 ms", "the same, due to answered, p50 ms", 20, most=True),
    Goal("single", "p99 ms", "the same, p99 ms", 100, most=True),
    Goal("queue", "jobs/s", "queue alone, nothing sent, jobs/s", 2),
    Goal("enqueue", "jobs/s", "enqueue through the API, validated and logged, jobs/s", 1),
    Goal("enqueue", "bytes/job", "Redis memory of a waiting message, bytes", 500, most=True),
    Goal("latency", "p50 ms", "idle latency, POST answered to provider called, p50 ms", 3, most=True),
    Goal("latency", "p99 ms", "the same, p99 ms", 10, most=True),
)


def median(found: Sequence[Measurement], work: str, side: Side, figure: str) -> float | None:
    """Return the median of a figure over the rounds, or None if it was not measured."""
    values = [one.figures[figure] for one in found if (one.work, one.side) == (work, side) and figure in one.figures]
    return statistics.median(values) if values else None


def goals_table(found: Sequence[Measurement]) -> list[str]:
    """Return a table of the works: the peer's median, ours, the ratio, the goal, and whether it is reached."""
    rows = []
    for goal in GOALS:
        peer = median(found, goal.work, "peer", goal.figure)
        ours = median(found, goal.work, "kurir", goal.figure)
        if peer is None or ours is None:
            continue
        wanted, reached = goal.judged(peer, ours)
        rows.append(
            [goal.what, _number(peer), _number(ours), f"{ours / peer:.2f} ×", wanted, "yes" if reached else "no"]
        )
    return table(["work", "peer", "Kurir", "ratio", "to reach", "reached"], rows)


def against_table(found: Sequence[Measurement]) -> list[str]:
    """Return a table of the two versions: their medians, and the median of the rounds' own ratios.

    A ratio of a rate above 1, and of a time or a size below 1, is better than before.
    """
    rows = []
    for work in dict.fromkeys(one.work for one in found if one.side == "before"):
        old, new = ([one for one in found if (one.work, one.side) == (work, side)] for side in ("before", "kurir"))
        for what, read in _READINGS.get(work, {}).items():
            pairs = [(read(one), read(other)) for one, other in zip(old, new, strict=True)]
            ratio = statistics.median(after / before for before, after in pairs)
            medians = [_number(statistics.median(values)) for values in zip(*pairs, strict=True)]
            rows.append([work, what, *medians, f"{ratio:.2f} ×"])
    return table(["work", "figure", "before", "now", "ratio"], rows)


def _figure(name: str) -> Callable[[Measurement], float]:
    return lambda one: one.figures[name]


def _processor_ms(one: Measurement) -> float:
    return sum(one.cpu_ms_per_thousand.values())


_READINGS: Mapping[str, Mapping[str, Callable[[Measurement], float]]] = {
    work: {
        **{name: _figure(name) for name in names},
        "CPU ms per 1,000": _processor_ms,
    }
    for work, names in {
        "end-to-end": ("msg/s", "logged msg/s"),
        "whatsapp": ("msg/s", "logged msg/s"),
        "large": ("msg/s", "msg/s a core"),
        "single": ("msg/s", "p50 ms", "p99 ms"),
        "queue": ("jobs/s",),
        "enqueue": ("jobs/s", "logged jobs/s", "bytes/job"),
        "latency": ("p50 ms", "p99 ms"),
    }.items()
}


def dkim_table(found: Sequence[Measurement]) -> list[str]:
    """Return the share of the unsigned rate that remains with signing: the median of the rounds' own shares."""
    rows = []
    unsigned = _rates(found, signing.UNSIGNED)
    for kind in signing.KINDS:
        rates = _rates(found, kind)
        if not rates or not unsigned:
            continue
        share = statistics.median(one / base for one, base in zip(rates, unsigned, strict=False))
        least = signing.LEAST.get(kind)
        wanted, reached = ("", "") if least is None else (f"≥ {least:.0%}", "yes" if share >= least else "no")
        rows.append([kind, _number(statistics.median(rates)), f"{share:.0%}", wanted, reached])
    return table(["DKIM", "msg/s to sent", "of unsigned", "to reach", "reached"], rows)


def _rates(found: Sequence[Measurement], kind: str) -> list[float]:
    return [one.figures["msg/s"] for one in found if one.work == signing.name(kind)]


def usage_table(found: Sequence[Measurement]) -> list[str]:
    """Return processor time (ms per thousand messages) and peak memory (MiB) by work, side and process."""
    rows = []
    for work, side in _pairs(found):
        same = [one for one in found if (one.work, one.side) == (work, side)]
        cpu = _medians([one.cpu_ms_per_thousand for one in same])
        peak = _medians([one.peak_mib for one in same])
        parts = ", ".join(f"{name} {value:.0f}" for name, value in cpu.items())
        memory = ", ".join(f"{name} {value:.0f}" for name, value in peak.items())
        rows.append([work, side, f"{sum(cpu.values()):.0f}", parts, f"{sum(peak.values()):.0f}", memory])
    return table(["work", "side", "CPU ms per 1,000", "of which", "peak MiB", "of which"], rows)


def scaling_table(found: Sequence[Measurement]) -> list[str]:
    """Return the runs without a peer: throughput to sent and to logged, and its ratio to the run it compares with."""
    works = {goal.work for goal in GOALS} | {signing.name(kind) for kind in signing.KINDS} | {hook_load.WORK}
    rows = []
    for work, side in _pairs(found):
        if work in works:
            continue
        sent = median(found, work, side, "msg/s")
        logged = median(found, work, side, "logged msg/s")
        other = median(found, _COMPARED.get(work, ""), side, "msg/s")
        ratio = f"{(sent or 0) / other:.2f} × {_COMPARED[work]}" if other else ""
        rows.append([work, _number(sent or 0), _number(logged or 0), ratio])
    return table(["run", "msg/s to sent", "msg/s to logged", "ratio"], rows)


def hooks_table(found: Sequence[Measurement]) -> list[str]:
    """Return what hooks took of what was asked for, and the times of their requests."""
    figures = {name: median(found, hook_load.WORK, "kurir", name) for name in hook_load.FIGURES}
    row = [_number(value) for value in figures.values() if value is not None]
    return table([f"hooks: {name}" for name in figures], [row] if row else [])


def as_json(machine: Mapping[str, str], found: Sequence[Measurement]) -> dict[str, object]:
    """Return the run as plain values: the machine, the goals with their medians, every measurement."""
    goals = []
    for goal in GOALS:
        peer = median(found, goal.work, "peer", goal.figure)
        ours = median(found, goal.work, "kurir", goal.figure)
        if peer is not None and ours is not None:
            goals.append({"what": goal.what, "peer": peer, "kurir": ours, "ratio": ours / peer, "bound": goal.bound})
    return {"machine": dict(machine), "goals": goals, "measurements": [one.as_json() for one in found]}


def write_readme(readme: Path, lines: Sequence[str]) -> None:
    """Replace the lines between the marks of the last results."""
    before, start, rest = readme.read_text(encoding="utf-8").partition(_START)
    _, end, after = rest.partition(_END)
    text = "\n".join(["", *lines, ""])
    readme.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def _pairs(found: Sequence[Measurement]) -> list[tuple[str, Side]]:
    return list(dict.fromkeys((one.work, one.side) for one in found))


def _medians(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for reading in readings for name in reading)
    return {name: statistics.median([reading.get(name, 0.0) for reading in readings]) for name in names}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table with aligned columns, or nothing if there are no rows."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[head[column].ljust(widths[column]) for column in range(len(head))]]
    lines.append(["-" * width for width in widths])
    lines += [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]
