"""The Grafana dashboards: the files match the generator's output, and every panel has a description."""

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


def test_the_files_match_the_generators_output() -> None:
    """A panel edited in only one of the two places fails."""
    command = [sys.executable, str(GRAFANA / "make_dashboards.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.stem))
def test_every_panel_has_a_unit_a_description_and_queries(path: Path) -> None:
    """A reader never has to guess what a line shows."""
    found = panels(json.loads(path.read_text()))
    assert len(found) >= 10
    for panel in found:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_the_three_dashboards_exist() -> None:
    """The overview, one channel and the system each have a stable id for links."""
    assert {json.loads(path.read_text())["uid"] for path in PAGES} == {
        "kurir-overview",
        "kurir-channel",
        "kurir-system",
    }
