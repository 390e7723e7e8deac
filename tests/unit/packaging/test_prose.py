"""The prose check: `scripts/check_prose.py`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "check_prose.py"


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = spec_from_file_location("check_prose", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["check_prose"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text",
    [
        "Each row bears its id.",
        "The event tells that it ended.",
        "Say whether the key fits.",
        "The name is none of these.",
        "It was read of late.",
        "Whoever asks, gets it.",
        "What\n# became of each message",
        "-- the sender goes\n-- on without it",
        "- it stands\n  in the list",
        "The blast has ended, so this can no longer be done to it.",
    ],
)
def test_a_tic_is_found(prose: ModuleType, text: str) -> None:
    """A listed phrase is found in any case, and across line breaks and comment signs."""
    assert list(prose.findings("a.md", text))


@pytest.mark.parametrize(
    "text",
    [
        "if value is None of",  # Python
        "A stand-in for the provider; it stands in for the real one.",
        "It may be as long as you like, so long as it ends.",
        "The forebears; unbearable; a new key.",
    ],
)
def test_plain_english_passes(prose: ModuleType, text: str) -> None:
    """Code and ordinary phrases that resemble listed ones pass."""
    assert not list(prose.findings("a.md", text))


@pytest.mark.parametrize("name", ["a_change_is_told", "what_is_no_job_is_left", "it_goes_on", "each_harm_is_mended"])
def test_a_tic_in_the_name_of_a_test_is_found(prose: ModuleType, name: str) -> None:
    """A name is read with spaces for its underscores."""
    (found,) = prose.findings("a.py", f"\nasync def test_{name}() -> None:\n")
    assert (found.line, found.words.partition(":")[0]) == (2, f"test_{name}")


def test_a_plain_name_of_a_test_passes(prose: ModuleType) -> None:
    """Other names in code are not read as sentences."""
    assert not list(prose.findings("a.py", "def test_a_change_is_reported() -> None: told = is_no_job(tells)"))


def test_a_finding_names_its_line_and_the_replacement(tmp_path: Path) -> None:
    """The command prints the file, the line, the words and the replacement, and exits with 1."""
    copy = tmp_path / "scripts" / "check_prose.py"
    copy.parent.mkdir()
    copy.write_text(SCRIPT.read_text())
    (tmp_path / "README.md").write_text("# Fine\n\nThis one goes on.\n")
    done = subprocess.run([sys.executable, str(copy)], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert done.stdout == "README.md:3: 'goes on': write continues, uses\n"
    assert done.stderr == "1 phrases to rewrite in 1 files\n"


@pytest.mark.parametrize("folder", ["tests/.cache/debian", "benchmarks/peer/node_modules/pkg", "tests/__pycache__"])
def test_files_of_other_projects_are_not_checked(prose: ModuleType, tmp_path: Path, folder: str) -> None:
    """Unpacked and installed packages are skipped, as their prose is not ours."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "README.md").write_text("This one goes on.\n")
    (tmp_path / "README.md").write_text("Ours.\n")
    assert list(prose.files(tmp_path)) == [tmp_path / "README.md"]
