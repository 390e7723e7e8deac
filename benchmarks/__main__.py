"""Run the benchmarks: `python -m benchmarks [--quick] [--works … | --dkim] [--against COMMIT] [--json FILE]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from benchmarks import against, machine, peer, report, signing, suite
from benchmarks.measured import Measurement
from benchmarks.processes import BenchmarkError

README = Path(__file__).parent / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and print the report; return the exit code."""
    wanted = _read(arguments)
    works = [signing.WORK] if wanted.dkim else wanted.works or list(suite.WORKS)
    options = suite.Options(works, wanted.rounds or (1 if wanted.quick else 3), wanted.quick, wanted.appendfsync)
    facts = machine.describe()
    _print([f"{name}: {value}" for name, value in facts.items()])
    begun = time.monotonic()

    def announce(line: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {line}", flush=True)

    try:
        if wanted.against:
            found = against.run(wanted.against, options, announce)
        else:
            if any(contest.name in works for contest in suite.CONTESTS):
                peer.install()
            found = suite.run(options, announce)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    _print(_tables(found))
    print(f"\n{options.rounds} rounds, appendfsync {options.append_fsync}, {time.monotonic() - begun:.0f} s")
    if wanted.readme:
        report.write_readme(README, _results(facts, options, found))
    if wanted.json:
        wanted.json.write_bytes(orjson.dumps(report.as_json(facts, found), option=orjson.OPT_INDENT_2))
    return 0


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of smaller works, about two minutes")
    parser.add_argument("--works", nargs="+", choices=suite.WORKS, help="only these works")
    parser.add_argument("--dkim", action="store_true", help="only the cost of signing: unsigned, RSA-2048 and Ed25519")
    parser.add_argument(
        "--against", metavar="COMMIT", help="instead of the peer, this tree and another commit in turns"
    )
    parser.add_argument("--rounds", type=int, help="rounds per work (3; 1 with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to a file")
    parser.add_argument("--readme", action="store_true", help="replace the results in benchmarks/README.md")
    parser.add_argument("--appendfsync", choices=("always", "everysec", "no"), default="always", help="for both sides")
    return parser.parse_args(arguments)


def _tables(found: Sequence[Measurement]) -> list[str]:
    lines: list[str] = []
    for table in (
        report.against_table(found),
        report.goals_table(found),
        report.dkim_table(found),
        report.scaling_table(found),
        report.hooks_table(found),
        report.usage_table(found),
    ):
        if table:
            lines += ["", *table]
    return lines


def _results(facts: Mapping[str, str], options: suite.Options, found: Sequence[Measurement]) -> list[str]:
    machine_line = "; ".join(f"{name} {value}" for name, value in facts.items())
    run_line = f"{options.rounds} rounds, `appendfsync {options.append_fsync}`, {datetime.now(UTC):%Y-%m-%d}"
    return [f"{machine_line}. {run_line}.", *_tables(found)]


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
