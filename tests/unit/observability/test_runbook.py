"""What the runbook tells a person to type and to look at is there: commands with their options, paths, panels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from services.cli.main import app
from services.ingest.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("runbook.md", "operations.md", "providers.md")
_COMMAND = re.compile(r"`(?:docker compose exec (?:-e \S+ )?\w+ )?kurir ([a-z]+)([^`]*)`")
_OPTION = re.compile(r"--[a-z-]+")
_PATH = re.compile(r"(?:localhost:3000|(?:GET|POST|PATCH|PUT|DELETE) )(/api/[\w/{}-]+)")
_PANEL = re.compile(r"\*(Kurir \w+) → ([^*]+)\*")


def page(name: str) -> str:
    """Return a page on one line, since commands are broken over lines."""
    return " ".join((ROOT / "docs" / name).read_text().split())


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one(name: str) -> None:
    """With each option that stands behind it."""
    group = typer.main.get_command(app)
    commands = getattr(group, "commands")  # noqa: B009 -- typer has a click of its own, whose types it does not show
    found = _COMMAND.findall(page(name))
    for command, rest in found:
        assert command in commands, command
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert set(_OPTION.findall(rest)) <= known, f"kurir {command}{rest}"
    assert found or name == "providers.md"
    every = {option for command in commands.values() for parameter in command.params for option in parameter.opts}
    alone = re.findall(r"`(--[a-z-]+)`", page(name)) if name == "runbook.md" else []
    assert set(alone) <= every


@pytest.mark.parametrize("name", PAGES)
def test_every_path_is_in_the_api(name: str) -> None:
    """Whatever stands in the place of a parameter."""
    shapes = [re.sub(r"\{\w+\}", "[^/]+", operation.path) for operation in OPERATIONS]
    found = _PATH.findall(page(name))
    for path in found:
        asked = path.removeprefix("/api")
        assert any(re.fullmatch(shape, asked) for shape in shapes), path
    assert found or name == "operations.md"


def test_every_panel_is_on_its_dashboard() -> None:
    """Under the name that the runbook gives."""
    pages = [json.loads(path.read_text()) for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")]
    panels = {one["title"]: {panel["title"] for panel in one["panels"]} for one in pages}
    found = _PANEL.findall(page("runbook.md"))
    assert len(found) >= 5
    assert [(board, panel) for board, panel in found if panel not in panels.get(board, set())] == []
