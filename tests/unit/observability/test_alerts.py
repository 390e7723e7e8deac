"""The alert rules, checked with Prometheus's own tools, and the targets of their annotations."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.debian import program

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = [RULES.with_name(f"{name}.yml") for name in ("alerts_test", "alerts_hourly_test", "alerts_daily_test")]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.timeout(300)
def test_promtool_cases_hold() -> None:
    """Each alert fires when it should, and only then."""
    command = [program("promtool"), "test", "rules", *map(str, CASES)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    """Every alert has a case that expects it and one that expects nothing."""
    cases: dict[str, set[bool]] = {}
    for test in (test for file in CASES for test in yaml.safe_load(file.read_text())["tests"]):
        for case in test["alert_rule_test"]:
            cases.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    assert cases == {rule["alert"]: {True, False} for rule in alerts()}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_the_runbook_has_a_section_for_the_alert(rule: dict[str, Any]) -> None:
    """The annotation links to a section that says what it means, how to investigate and what to do."""
    path, anchor = rule["annotations"]["runbook"].split("#")
    sections = re.split(r"^## ", (ROOT / path).read_text(), flags=re.MULTILINE)
    (section,) = [one for one in sections if one.split("\n")[0].lower() == anchor]
    assert "**Meaning.**" in section
    assert "**Investigate" in section
    assert "**Do.**" in section or "**Investigate and do.**" in section


def test_alertmanager_accepts_its_configuration() -> None:
    """Every severity of the rules has its own route or is the default receiver."""
    path = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    checked = subprocess.run(
        [program("amtool"), "check-config", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    route = yaml.safe_load(path.read_text())["route"]
    routed = {one["receiver"] for one in route["routes"]} | {route["receiver"]}
    assert routed == {rule["labels"]["severity"] for rule in alerts()}
