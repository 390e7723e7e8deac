"""The image: its contents, its lock files, and its health check against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


def _pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", (ROOT / path).read_text(), re.MULTILINE))


def test_every_package_comes_from_a_lock_with_its_hash() -> None:
    """Packages that pip downloads are hashed; installs from files use no index."""
    for command in re.findall(r"python -m pip .*?(?=&&|\n\n)", DOCKERFILE, re.DOTALL):
        assert "--require-hashes" in command or "--no-index" in command, command


def test_the_build_lock_agrees_with_the_others() -> None:
    """The image builds the wheel with the same backend as the tests."""
    everything = _pins("requirements-dev.lock")
    build = _pins("deploy/build.lock")
    assert build
    assert {name: everything[name] for name in build} == build


def test_the_image_gets_what_it_needs_and_nothing_else() -> None:
    """Only listed paths get in, so no data, secret or history can; every listed path exists."""
    assert IGNORED[1] == "*"
    allowed = [line.removeprefix("!") for line in IGNORED if line.startswith("!")]
    assert [name for name in allowed if not (ROOT / name).exists()] == []
    assert not {name for name in allowed if name.startswith((".env", "secrets", "data", "tests", ".git"))}


def test_the_process_is_locked_down() -> None:
    """It has a numeric non-root user, no imports from the working folder, precompiled byte code, and no shell."""
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", final, re.MULTILINE)
    assert "PYTHONSAFEPATH=1" in final
    assert re.search(r'^CMD \["python", "-m", "services\.ingest"\]$', final, re.MULTILINE)
    assert "HEALTHCHECK" in final
    assert "KURIR_LOG_DIR=off" in final  # a container logs to stdout, once
    assert "compileall" in DOCKERFILE


class _Service(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(b'{"status":"reported"}')

    def log_message(self, *_args: object) -> None:
        return


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_passes_on_the_services_answer(status: int, code: int) -> None:
    """Only 200 is healthy, and the container's state shows the service's own answer."""
    handler = type("Service", (_Service,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        ran = _health_check(server.server_port)
    assert (ran.returncode, ran.stdout.strip()) == (code, '{"status":"reported"}')


def test_a_service_that_does_not_listen_is_unhealthy() -> None:
    """The output names the port that did not answer."""
    ran = _health_check(1)
    assert ran.returncode == 1
    assert "port 1:" in ran.stdout


def _health_check(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-ISB", str(ROOT / "deploy" / "healthcheck.py")]
    return subprocess.run(command, env={"KURIR_PORT": str(port)}, capture_output=True, text=True, check=False)
