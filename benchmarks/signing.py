"""The cost of DKIM: the whole system unsigned, and signed with each kind of key, in turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import kurir_works
from benchmarks.measured import Measurement
from benchmarks.workload import Load

WORK = "dkim"
UNSIGNED = "unsigned"
# all kinds run in every round, so other load on the machine affects them alike
KINDS = (UNSIGNED, "rsa-2048", "ed25519")
# the goal: the least share of the unsigned rate
LEAST = {"rsa-2048": 0.4, "ed25519": 0.85}


def name(kind: str) -> str:
    """Return the work's name in the report."""
    return f"{WORK}, {kind}"


def signed(kind: str, load: Load, folder: Path) -> Measurement:
    """Run the whole system once, its messages signed with a key of this kind."""
    load = replace(load, dkim="" if kind == UNSIGNED else kind)
    return replace(kurir_works.end_to_end(load, folder), work=name(kind))
