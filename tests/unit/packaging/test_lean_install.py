"""`make demo` and `make up` install what Kurir runs with and no developers' tools; that is enough to run everything."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_IMPORT = re.compile(r"^ *(?:from (\w+)[\w.]* import |import (\w+)[\w.]*(?: as \w+)?$)", re.MULTILINE)


def _pins(path: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / path).read_text(), re.MULTILINE))


def _installs(target: str, folder: Path) -> list[str]:
    """Return the pip commands that a target would run in a fresh clone."""
    command = ["make", "-n", target, f"VENV={folder}/venv", "PYTHON=python3"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if " -m pip " in line]


@pytest.mark.parametrize("target", ["demo", "up"])
def test_running_installs_no_tools(target: str, tmp_path: Path) -> None:
    """The locks are those of running and of building; every package comes with its hash."""
    installs = _installs(target, tmp_path)
    locks = [re.sub(r".*/", "", name) for line in installs for name in re.findall(r"-r (\S+)", line)]
    assert locks == ["pip.lock", "requirements.lock", "build.lock"]
    assert all("--require-hashes" in line or "--editable ." in line for line in installs)


@pytest.mark.parametrize("target", ["test", "check", "setup"])
def test_working_on_kurir_installs_everything(target: str, tmp_path: Path) -> None:
    """The tools come last, on top of what Kurir runs with."""
    assert _installs(target, tmp_path)[-1].endswith("-r requirements-dev.lock")


def test_the_lock_brings_every_package_that_is_imported() -> None:
    """No service imports a package that only the developers' lock has."""
    brought = {top for name in _pins("requirements.lock") for top in _tops(name)}
    sources = [path for top in ("services", "shared") for path in (ROOT / top).rglob("*.py")]
    imported = {one or other for path in sources for one, other in _IMPORT.findall(path.read_text())}
    foreign = imported - sys.stdlib_module_names - {"services", "shared"}
    assert len(foreign) > 10
    assert foreign - brought == set()


def _tops(name: str) -> set[str]:
    """Return the top-level modules of a distribution; none for one of another platform."""
    try:
        record = distribution(name).read_text("RECORD") or ""
    except PackageNotFoundError:
        return set()
    return set(re.findall(r"^(\w+)(?:/__init__)?\.py,", record, re.MULTILINE))
