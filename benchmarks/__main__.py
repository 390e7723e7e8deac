"""Run the benchmarks: `python -m benchmarks [--quick] [--works …] [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks import machine, peer, report, suite
from benchmarks.measured import Measurement
from benchmarks.processes import BenchmarkError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and print the report; returns the exit code."""
    wanted = _read(arguments)
    works = wanted.works or list(suite.WORKS)
    options = suite.Options(works, wanted.rounds or (1 if wanted.quick else 3), wanted.quick, wanted.appendfsync)
    facts = machine.describe()
    _print([f"{name}: {value}" for name, value in facts.items()])
    begun = time.monotonic()
    try:
        peer.install()
        found = suite.run(options, lambda line: print(f"{time.monotonic() - begun:6.0f} s  {line}", flush=True))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    _print_report(found)
    print(f"\n{options.rounds} rounds, appendfsync {options.append_fsync}, {time.monotonic() - begun:.0f} s")
    if wanted.json:
        wanted.json.write_bytes(orjson.dumps(report.as_json(facts, found), option=orjson.OPT_INDENT_2))
    return 0


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of smaller works, in about two minutes")
    parser.add_argument("--works", nargs="+", choices=suite.WORKS, help="only these works")
    parser.add_argument("--rounds", type=int, help="rounds of A B (3; 1 with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to a file")
    parser.add_argument("--appendfsync", choices=("always", "everysec", "no"), default="always", help="for both sides")
    return parser.parse_args(arguments)


def _print_report(found: Sequence[Measurement]) -> None:
    for table in (report.goals_table(found), report.scaling_table(found), report.usage_table(found)):
        if table:
            _print(["", *table])


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
