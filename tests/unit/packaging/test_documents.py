"""The documents: every link, command, make target and source file that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from services.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "benchmarks" / "README.md",
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path: Path) -> None:
    """The target of every relative link exists."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_targets_that_are_named_exist(path: Path) -> None:
    """`kurir x` is a command, `make x` a target."""
    text = path.read_text()
    commands = set(get_command(app).list_commands(None))  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`(?:\.venv/bin/)?kurir ([a-z][a-z-]*)", text)) <= commands
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_files_that_are_named_exist(path: Path) -> None:
    """If a module moves, the documents must follow."""
    named = set(
        re.findall(r"`((?:services|shared|tests|deploy|scripts|benchmarks)/[\w./-]+\.(?:py|lua))`", path.read_text())
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
