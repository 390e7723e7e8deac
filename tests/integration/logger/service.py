"""The logger as a separate process, used over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from shared.web import credentials
from tests.servers import INTERNAL_SECRET, free_port

_READY_S = 60.0


class LoggerProcess:
    """`python -m services.logger` on a free port with its data in `folder`."""

    def __init__(self, redis_url: str, folder: Path, more: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
        self._env = clean | {
            "KURIR_REDIS_URL": redis_url,
            "KURIR_DATA_DIR": str(folder),
            "KURIR_PORT": str(self.port),
            "KURIR_LOG_CONSOLE": "off",
            "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
            # a minute after its start it deletes old rows, and the tests' events have a time that is past
            "KURIR_RETENTION_DAYS": "36500",
            **(more or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._process = self.spawn()
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"the logger ended: {self.errors()}"
            try:
                self.get("/health")
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the logger did not come up")

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting."""
        with (self.folder / "stderr.txt").open("ab") as errors:
            return subprocess.Popen([sys.executable, "-m", "services.logger"], env=self._env, stderr=errors)

    def errors(self) -> str:
        """Return the process's stderr."""
        return (self.folder / "stderr.txt").read_text(errors="replace")

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End the process with SIGTERM and return its exit code."""
        return self._end(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self._process is not None:
            self._process.send_signal(number)

    def client_ports(self) -> set[int]:
        """Return the local ports of the process's connections."""
        assert self._process is not None
        return {one.laddr.port for one in psutil.Process(self._process.pid).net_connections("tcp")}

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(60)

    def get(self, path: str) -> tuple[int, Any]:
        """GET a path; return the status and the body: parsed JSON, raw msgpack, or text."""
        return self.call(path, None, {})

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """POST a JSON body; return as `get` does."""
        return self.call(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def patch(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """PATCH a JSON body; return as `get` does."""
        return self._send("PATCH", path, json.dumps(body).encode())

    def delete(self, path: str) -> tuple[int, Any]:
        """DELETE a path; return as `get` does."""
        return self._send("DELETE", path, None)

    def _send(self, method: str, path: str, data: bytes | None) -> tuple[int, Any]:
        headers = credentials(INTERNAL_SECRET) | {"Content-Type": "application/json"}
        return self._call(urllib.request.Request(self._url(path), data, headers, method=method))

    def call(self, path: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Send a request with the services' secret, unless the headers override it."""
        return self._call(urllib.request.Request(self._url(path), data, credentials(INTERNAL_SECRET) | dict(headers)))

    def metrics(self) -> dict[str, float]:
        """Return the samples of `/metrics` by name and labels."""
        lines = [line for line in str(self.get("/metrics")[1]).splitlines() if line and not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _call(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _body(answer.headers.get_content_type(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _body(error.headers.get_content_type(), error.read())


def _body(content_type: str, raw: bytes) -> Any:
    if content_type == "application/json":
        return json.loads(raw)
    return raw if content_type == "application/msgpack" else raw.decode()
