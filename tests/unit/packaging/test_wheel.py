"""Packaging: the wheel's contents, and that no other distribution has its two common package names."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the current source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_exactly_both_packages(wheel: Path) -> None:
    """Only services, shared and the metadata are installed: no tests, no benchmarks."""
    tops = {name.partition("/")[0] for name in _names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"services", "shared"}


def test_the_wheel_holds_every_source_file(wheel: Path) -> None:
    """It includes every subpackage and every script that the queue loads at run time."""
    names = set(_names(wheel))
    wanted = [path for top in ("services", "shared") for path in (ROOT / top).rglob("*") if path.is_file()]
    sources = [path for path in wanted if path.suffix in {".py", ".lua", ".html", ".sql", ".json", ".css", ".js"}]
    missing = [str(path) for path in sources if path.relative_to(ROOT).as_posix() not in names]
    assert missing == []


def test_the_wheel_brings_templates_and_example(wheel: Path) -> None:
    """`kurir demo` works from an installed wheel, without the repository."""
    names = _names(wheel)
    assert "services/cli/bundled/recipients.csv" in names
    assert any(name.startswith("services/cli/bundled/templates/") for name in names)


def test_the_command_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Unpacked on its own, the wheel's code runs and finds its bundled files."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import services.cli.plan as plan, services.cli.main\n"
        "print(plan.__file__, plan.find_shipped('templates'), plan.find_shipped('examples/recipients.csv'))"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    command = [sys.executable, "-P", "-c", program]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert all(path.startswith(str(tmp_path / "site")) for path in answer.stdout.split()), answer.stdout


def test_both_names_belong_only_to_this_distribution() -> None:
    """Both names exist on public indexes, and pip would overwrite one with the other silently."""
    owners = packages_distributions()
    assert {name: set(owners.get(name, ["kurir"])) for name in ("services", "shared")} == {
        "services": {"kurir"},
        "shared": {"kurir"},
    }


def test_the_distribution_must_not_be_published() -> None:
    """It has the classifier that makes public indexes refuse an upload."""
    assert "Private :: Do Not Upload" in (metadata("kurir").get_all("Classifier") or [])
