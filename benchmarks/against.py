"""Two versions of Kurir in turns: the works of this tree and of another commit, each with its own packages.

Each version is measured by its own `benchmarks`, in a process of its own: a change of a script, a key or a setting
concerns both halves of a benchmark.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import orjson

from benchmarks.measured import Measurement, Side
from benchmarks.processes import BenchmarkError, Child, clean_environment
from benchmarks.suite import CONTESTS, Announce, Contest, Options, line

ROOT = Path(__file__).parent.parent
_GIT_TIMEOUT_S = 60.0
_SETUP_TIMEOUT_S = 900.0
_WORK_TIMEOUT_S = 600.0
_MEASURE = """
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
import orjson
from benchmarks.suite import CONTESTS
from benchmarks.workload import Load
name, load, folder, tree = sys.argv[1:]
os.chdir(tree)
contest = next((one for one in CONTESTS if one.name == name), None)
if contest is None:
    sys.exit(f"this version does not know the work {name}: name the others with --works")
# an earlier version does not know every part of a load
known = {one.name for one in fields(Load)}
parts = {part: value for part, value in orjson.loads(load).items() if part in known}
found = contest.kurir(Load(**parts), Path(folder))
print(orjson.dumps(asdict(found)).decode(), flush=True)
"""


def run(commit: str, options: Options, announce: Announce) -> list[Measurement]:
    """Run the works of both versions in turns, round after round; the one that begins alternates.

    Raises BenchmarkError for an unknown commit, and for a version that does not do its work.
    """
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="kurir-bench-") as folder, checked_out(commit, announce) as before:
        trees: list[tuple[Side, Path]] = [("before", before), ("kurir", ROOT)]
        for number in range(options.rounds):
            for contest in CONTESTS:
                if contest.name not in options.works:
                    continue
                for side, tree in trees if number % 2 == 0 else reversed(trees):
                    own = Path(folder) / f"{number}-{contest.name}-{side}"
                    own.mkdir()
                    found.append(_measure(side, tree, own, contest, options))
                    announce(line(found[-1]))
    return found


@contextmanager
def checked_out(commit: str, announce: Callable[[str], None]) -> Iterator[Path]:
    """Unpack a commit into a folder and install its packages there while the block runs."""
    git = shutil.which("git")
    make = shutil.which("make")
    if git is None or make is None:
        raise BenchmarkError("--against needs git and make on PATH")
    with tempfile.TemporaryDirectory(prefix="kurir-before-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        archive = Path(folder) / "tree.tar"
        _do([git, "archive", "--output", str(archive), commit], ROOT, _GIT_TIMEOUT_S)
        shutil.unpack_archive(archive, tree)
        announce(f"installing what {commit} runs with")
        # both sides run with one interpreter
        _do([make, "setup", f"PYTHON={Path(sys.executable).resolve()}"], tree, _SETUP_TIMEOUT_S)
        yield tree


def _do(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)}: {done.stderr[-2000:].strip()}")


def _measure(side: Side, tree: Path, folder: Path, contest: Contest, options: Options) -> Measurement:
    python = sys.executable if tree == ROOT else str(tree / ".venv" / "bin" / "python")
    load = orjson.dumps(asdict(contest.sized(side, options))).decode()
    work = [contest.name, load, str(folder), str(tree)]
    # its services are started with -P, which leaves out the working folder but not PYTHONPATH
    env = clean_environment() | {"PYTHONPATH": str(tree)}
    child = Child(f"benchmarks-{side}", [python, "-P", "-c", _MEASURE, *work], env, folder)
    try:
        answer = child.answer(_WORK_TIMEOUT_S)
    finally:
        child.stop()
    return Measurement(**{**answer, "side": side})
