"""The Grafana dashboards: what is checked in is what the generator makes, and every panel explains itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GRAFANA = Path(__file__).resolve().parents[3] / "deploy" / "grafana"
PAGES = sorted((GRAFANA / "dashboards").glob("*.json"))


def panels(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in page["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_generator_makes() -> None:
    """A panel changed in one place only is found here."""
    command = [sys.executable, str(GRAFANA / "make_dashboards.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.stem))
def test_every_panel_has_a_unit_a_description_and_queries(path: Path) -> None:
    """Nobody has to guess what a line is."""
    found = panels(json.loads(path.read_text()))
    assert len(found) >= 10
    for panel in found:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_the_three_pages_are_there() -> None:
    """An overview, a page for one channel, one for the system, each with an id of its own for links."""
    assert {json.loads(path.read_text())["uid"] for path in PAGES} == {
        "kurir-overview",
        "kurir-channel",
        "kurir-system",
    }
