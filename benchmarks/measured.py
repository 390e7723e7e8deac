"""The result of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from benchmarks.processes import Usage

Side = Literal["kurir", "peer", "before"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one work by one side: named figures, and the usage of its processes for `jobs` messages."""

    work: str
    side: Side
    jobs: int
    figures: Mapping[str, float]
    cpu_ms_per_thousand: Mapping[str, float] = field(default_factory=dict)
    peak_mib: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def measured(work: str, side: Side, jobs: int, figures: Mapping[str, float], used: Usage) -> Measurement:
    """Combine a run's figures with the processes' usage; processor time in ms per thousand messages."""
    per_thousand = {name: seconds * 1e6 / jobs for name, seconds in used.cpu_s.items()}
    return Measurement(work, side, jobs, figures, per_thousand, dict(used.peak_mib))
