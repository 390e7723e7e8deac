"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.smtp_sink import SmtpSink
from tests.e2e.system import System

MakeSystem = Callable[..., System]


@pytest.fixture
def make_system(tmp_path: Path) -> Iterator[MakeSystem]:
    """Create systems; at the end of the test none of their processes may be left."""
    systems: list[System] = []

    def make(folder: str = "system", **env: str) -> System:
        (tmp_path / folder).mkdir(exist_ok=True)
        systems.append(System(tmp_path / folder, env))
        return systems[-1]

    yield make
    children = [child for system in systems for child in system.children()]
    for system in systems:
        system.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == [], f"processes outlived their supervisor: {alive}"


@pytest.fixture
def smtp_sink() -> Iterator[SmtpSink]:
    """Run a real third-party mail server that counts the mails it receives."""
    sink = SmtpSink()
    sink.start()
    yield sink
    sink.stop()
