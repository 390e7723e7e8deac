"""What DKIM costs: the whole system unsigned, and signed with each kind of key, in turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import kurir_works
from benchmarks.measured import Measurement
from benchmarks.workload import Load

WORK = "dkim"
UNSIGNED = "unsigned"
# one after the other within a round, so that whatever else the machine does meets all of them
KINDS = (UNSIGNED, "rsa-2048", "ed25519")
# the least share of the unsigned rate that is to be reached
LEAST = {"rsa-2048": 0.4, "ed25519": 0.8}


def name(kind: str) -> str:
    """Return the work's name in the report."""
    return f"{WORK}, {kind}"


def signed(kind: str, load: Load, folder: Path) -> Measurement:
    """Run the whole system once, its messages signed with a key of this kind."""
    load = replace(load, dkim="" if kind == UNSIGNED else kind)
    return replace(kurir_works.end_to_end(load, folder), work=name(kind))
