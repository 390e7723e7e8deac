"""The commands, options, paths and panels that the documents name exist."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import typer
import yaml

from services.cli.main import app
from services.ingest.api.operations import OPERATIONS
from services.logger.schema import migrate

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("runbook.md", "operations.md", "providers.md")
_COMMAND = re.compile(r"`(?:docker compose exec (?:-e \S+ )?\w+ )?kurir ([a-z]+)([^`]*)`")
_OPTION = re.compile(r"--[a-z-]+")
_PATH = re.compile(r"(?:localhost:3000|(?:GET|POST|PATCH|PUT|DELETE) )(/api/[\w/{}-]+)")
_ASKED_PORT = re.compile(r"curl [^`]*?localhost:(\d+)")
_IN_CONTAINER = re.compile(r"docker compose (?:exec|run)((?: -\S+(?: KURIR_\S+)?)*) (\w+) ?([\w-]*)")
_PROGRAMS = {"python", "sh", "kurir", "ls", "df", ""}
_PANEL = re.compile(r"\*(Kurir \w+) → ([^*]+)\*")


def page(name: str) -> str:
    """Return a page as one line, since commands are wrapped."""
    return " ".join((ROOT / "docs" / name).read_text().split())


def run_in_logger(section: str, folder: Path) -> str:
    """Run the commands of a section for the logger's container on the files in `folder`; return their output."""
    text = (ROOT / "docs" / "runbook.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    script = re.sub(r"^docker compose (?:stop|start) logger\n", "", blocks, flags=re.MULTILINE)
    script = re.sub(r"^docker compose (?:exec|run --rm --no-deps) logger ", "", script, flags=re.MULTILINE)
    script = script.replace("python -c", f"{sys.executable} -c").replace("/var/lib/kurir", str(folder))
    assert "docker" not in script
    return subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("name", PAGES)
def test_every_command_exists(name: str) -> None:
    """So does each option that follows it."""
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
    """Any text may take the place of a parameter."""
    shapes = [re.sub(r"\{\w+\}", "[^/]+", operation.path) for operation in OPERATIONS]
    found = _PATH.findall(page(name))
    for path in found:
        asked = path.removeprefix("/api")
        assert any(re.fullmatch(shape, asked) for shape in shapes), path
    assert found or name == "operations.md"


@pytest.mark.parametrize("name", ["runbook.md", "operations.md"])
def test_every_command_works_under_compose(name: str) -> None:
    """Curl uses only published ports, and programs run in a container are in the slim image."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ports = " ".join(port for service in services.values() for port in service.get("ports", []))
    published = set(re.findall(r":-(\d+)\}", ports))
    asked = _ASKED_PORT.findall(page(name))
    assert asked
    assert set(asked) <= published
    inside = [(service, program) for _, service, program in _IN_CONTAINER.findall(page(name))]
    assert {service for service, _ in inside} <= set(services)
    assert {program for service, program in inside if service != "grafana"} <= _PROGRAMS


def test_every_panel_is_on_its_dashboard() -> None:
    """It has the title that the runbook gives."""
    pages = [json.loads(path.read_text()) for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")]
    panels = {one["title"]: {panel["title"] for panel in one["panels"]} for one in pages}
    found = _PANEL.findall(page("runbook.md"))
    assert len(found) >= 5
    assert [(board, panel) for board, panel in found if panel not in panels.get(board, set())] == []


def test_the_runbooks_commands_shrink_the_database_without_loss(tmp_path: Path) -> None:
    """Deleted rows leave the file; the other rows and the schema's version stay."""
    path = tmp_path / "logs.db"
    rows = [("{email}:events", f"{number}-0", "e", b"x" * 1000, "2026-01-01") for number in range(2000)]
    with closing(sqlite3.connect(path)) as log:
        log.execute("PRAGMA auto_vacuum = INCREMENTAL")
        log.execute("PRAGMA journal_mode = WAL")
        migrate(log)
        log.executemany(
            "INSERT INTO undecodable_events (stream, entry_id, error, raw, created_at) VALUES (?,?,?,?,?)", rows
        )
        log.execute("DELETE FROM undecodable_events WHERE id > 10")
        log.commit()
        version = log.execute("PRAGMA user_version").fetchone()
    before = path.stat().st_size
    assert "ok" in run_in_logger("KurirDatabaseLarge", tmp_path).split()
    assert path.stat().st_size < before / 2
    assert [one.name for one in tmp_path.iterdir()] == ["logs.db"]
    with closing(sqlite3.connect(path)) as log:
        assert log.execute("SELECT count(*) FROM undecodable_events").fetchone() == (10,)
        assert log.execute("PRAGMA user_version").fetchone() == version
        assert log.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_the_runbooks_query_shows_events_set_aside(tmp_path: Path) -> None:
    """It shows the error, and the job's id is legible in the bytes."""
    with closing(sqlite3.connect(tmp_path / "logs.db")) as log:
        migrate(log)
        row = ("{email}:events", "1-0", "cannot decode event batch", b"\xc1 b1:7:email", "2026-01-01")
        log.execute("INSERT INTO undecodable_events (stream, entry_id, error, raw, created_at) VALUES (?,?,?,?,?)", row)
        log.commit()
    shown = run_in_logger("KurirEventsSetAside", tmp_path)
    assert "cannot decode event batch" in shown
    assert "b1:7:email" in shown
