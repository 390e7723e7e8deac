"""`kurir up`: starts, stops in time, and says in one line what keeps it from starting."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import KURIR, System, free_base
from tests.servers import RedisServer


def _refused(system: System, *options: str) -> str:
    """Run `kurir up`, expect exit code 2, and return the one line it said."""
    system.start("up", options)
    assert system.wait(30) == 2, system.output()
    lines = system.output().strip().splitlines()
    assert len(lines) == 1, system.output()
    assert lines[0].startswith("kurir up: ")
    return lines[0]


def test_ctrl_c_stops_everything_within_ten_seconds(make_system: MakeSystem) -> None:
    """The exit code is 0, no child is left, and the ports are free again."""
    system = make_system()
    system.up()
    children = system.children()
    assert len(children) == 6
    assert system.interrupt() < 10
    assert system.process.returncode == 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_up_says_where_to_look_and_what_is_sandboxed(make_system: MakeSystem) -> None:
    """The URL to open, and loudly that nothing is delivered."""
    system = make_system()
    system.up()
    assert f"http://127.0.0.1:{system.port}/docs" in system.output()
    assert "SANDBOX: email and whatsapp messages are NOT delivered" in system.output()
    assert system.get("/health")["status"] == "ok"


def test_a_child_that_is_killed_comes_back(make_system: MakeSystem) -> None:
    """The terminal says which child died, and the service answers again."""
    system = make_system()
    system.up()
    child = system.child("logger")
    assert child is not None
    child.kill()
    child.wait(10)
    _wait_until(lambda: (found := system.child("logger")) is not None and found.pid != child.pid)
    assert "logger was ended by SIGKILL; starting it again" in system.output()


def _wait_until(true: object) -> None:
    import time

    deadline = time.monotonic() + 20
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
