"""Other users of the machine can reach only health and metrics of `kurir up`, and no secret."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import KURIR, System, clean_environment
from tests.servers import PATIENCE_S, wait_for

SECRETS = ("internal_secret", "redis_password", "secret", "redis.conf")


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _is_up(port: int) -> bool:
    try:
        return _status(port, "/health") == 200
    except OSError:
        return False


def _is_open(path: Path) -> bool:
    """Return whether other users may do something with a file; not with one that is gone meanwhile."""
    try:
        return bool(path.lstat().st_mode & 0o007) and not path.is_symlink()
    except FileNotFoundError:
        return False


def _ask_server(system: System, *commands: str) -> str:
    with socket.create_connection(("127.0.0.1", system.port + 79), timeout=PATIENCE_S) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in commands).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("r").read()


def _words_of(process: psutil.Process) -> str:
    return " ".join([*process.cmdline(), *process.environ().values()])


def _doctor(system: System, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(KURIR), "doctor", "--json", "--port", str(system.port), "--data-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)


@pytest.mark.timeout(300)
async def test_other_users_reach_only_health_and_metrics(make_system: MakeSystem, tmp_path: Path) -> None:
    """The logger, the senders' status and the embedded server require secrets, which are in private files."""
    system = make_system()
    system.up()
    ports = [system.port + offset for offset in (10, 20, 30)]
    await wait_for(lambda: all(map(_is_up, ports)), 30, "every service to be well")
    assert system.data.stat().st_mode & 0o777 == 0o700
    assert {name: (system.data / name).stat().st_mode & 0o777 for name in SECRETS} == dict.fromkeys(SECRETS, 0o600)
    # even if the folder is open, as an older one may be
    assert not [str(path) for path in system.data.rglob("*") if _is_open(path)]
    for offset in (10, 20, 30):
        assert [_status(system.port + offset, path) for path in ("/health", "/metrics")] == [200, 200]
    assert _status(system.port + 30, "/api/logs/messages") == 401
    assert [_status(system.port + offset, "/status") for offset in (10, 20)] == [401, 401]
    assert _status(system.port, "/api/smtp/status") == 200
    assert _ask_server(system, "PING").startswith("-NOAUTH")

    secrets = [(system.data / name).read_text().strip() for name in SECRETS[:3]]
    processes = [psutil.Process(system.process.pid), *system.children()]
    assert len(processes) > 5
    shown = " ".join(_words_of(process) for process in processes)
    logs = " ".join(path.read_text(errors="replace") for path in (system.data / "logs").iterdir())
    assert not [secret for secret in secrets if secret in shown + logs + system.output()]

    found = _doctor(system, system.data)
    assert (found.returncode, json.loads(found.stdout)["notCompared"]) == (0, ""), found.stderr
    assert _doctor(system, tmp_path).returncode == 3


@pytest.mark.timeout(300)
def test_a_data_folder_of_an_earlier_version_gets_its_secrets(make_system: MakeSystem) -> None:
    """Its contents stay; an empty file left by a killed start does not count as a secret."""
    system = make_system()
    system.up()
    template = {"id": "kept", "name": "Kept", "channels": ["email"], "subject": "s", "text": "t", "variables": []}
    system.post("/api/templates", template)
    links = (system.data / "secret").read_text()
    system.interrupt()
    for name in ("redis_password", "redis.conf"):
        (system.data / name).unlink()
    (system.data / "internal_secret").write_text("")
    (system.data / "secret").chmod(0o644)
    system.data.chmod(0o755)
    system.up()
    assert system.get("/api/templates/kept")["template"]["name"] == "Kept"
    assert (system.data / "secret").read_text() == links
    assert {(system.data / name).stat().st_mode & 0o777 for name in SECRETS} == {0o600}
    assert len((system.data / "internal_secret").read_text()) > 32
    assert _ask_server(system, "PING").startswith("-NOAUTH")
    assert "chmod 700" in system.output()
