"""`kurir up` starts, stops in time, and explains in one line why it cannot start."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import psutil

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import KURIR, System, clean_environment
from tests.servers import wait_for

_TOO_OLD = """#!/bin/sh
echo "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=0"
"""


def _refused(system: System, *options: str) -> str:
    """Run `kurir up`, expect exit code 2, and return its single line of output."""
    system.start("up", options)
    assert system.wait(30) == 2, system.output()
    lines = system.output().strip().splitlines()
    assert len(lines) == 1, system.output()
    assert lines[0].startswith("kurir up: ")
    return lines[0]


def test_a_system_without_log_files(make_system: MakeSystem) -> None:
    """With `KURIR_LOG_DIR=off` every service runs and none writes a log file; the size of the logs is 0."""
    system = make_system(KURIR_LOG_DIR="off")
    system.up()
    assert system.get("/health")["status"] == "ok"
    assert system.get("/api/dashboard")["success"] is True
    assert system.interrupt() < 10
    assert [path.name for path in system.data.rglob("*.log")] == ["redis.log"]


async def test_a_system_starts_recovers_and_stops(make_system: MakeSystem) -> None:
    """It prints its address and the sandboxed channels, restarts a killed child, and stops within 10 s of Ctrl-C.

    The exit code is then 0 and no child is left.
    """
    system = make_system()
    system.up()
    assert f"http://127.0.0.1:{system.port}/console/" in system.output()
    assert "SANDBOX: email and whatsapp messages are NOT delivered" in system.output()
    assert system.get("/health")["status"] == "ok"

    child = system.child("logger")
    assert child is not None
    child.kill()
    await wait_for(lambda: (found := system.child("logger")) is not None and found.pid != child.pid, 20)
    assert "logger was ended by SIGKILL; restarting it" in system.output()

    children = system.children()
    assert len(children) == 8
    assert system.interrupt() < 10
    assert system.process.returncode == 0
    assert not any(map(_runs, children))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_taken_port_is_one_line(make_system: MakeSystem) -> None:
    """The line names the port in use and the service that needs it."""
    system = make_system()
    with socket.socket() as other:
        other.bind(("127.0.0.1", system.port + 30))
        other.listen()
        line = _refused(system)
    assert f"{system.port + 30} (logger)" in line


def test_data_folder_in_use_is_one_line(make_system: MakeSystem, tmp_path: Path) -> None:
    """A file in the data folder's place is refused immediately."""
    system = make_system()
    (tmp_path / "system" / "data").write_text("a file where a folder should be")
    assert "cannot write the data folder" in _refused(system)


def test_redis_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    """A server older than the baseline is refused with its version and the required one."""
    old = tmp_path / "redis-server"
    old.write_text(_TOO_OLD)
    old.chmod(0o755)
    words = (
        "import sys; from pathlib import Path; from services.cli.embedded import find_server;"
        "find_server(which=lambda name: sys.argv[1], bundled=Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [str(KURIR.with_name("python")), "-c", words, str(old)],
        env=clean_environment(), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert "Redis 6.0.16" in done.stderr
    assert "install Redis 7.0.5 or Valkey 8.0.0 or later" in done.stderr


def test_no_sandbox_without_a_provider_is_one_line(make_system: MakeSystem) -> None:
    """`--no-sandbox` without a configured provider names the settings to set."""
    assert "KURIR_SMTP_URL" in _refused(make_system(), "--no-sandbox")


def test_folder_that_cannot_be_written_is_one_line(make_system: MakeSystem) -> None:
    """A data folder that cannot be created, here because of a file in its place, is named with the reason."""
    system = make_system()
    system.data.write_text("not a folder")
    said = _refused(system)
    assert f"cannot write the data folder {system.data}: File exists" in said
