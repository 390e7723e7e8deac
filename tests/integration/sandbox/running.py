"""The sandbox as a separate process, as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import free_port

CREDENTIALS = {"Qiscus-App-Id": "sandbox", "Qiscus-Secret-Key": "sandbox"}
MESSAGES_PATH = "/whatsapp/v1/sandbox/1/messages"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Sandbox:
    """`python -m services.sandbox` on free ports."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    smtp_port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL of its HTTP server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait until it is healthy."""
        own = {
            "KURIR_PORT": str(self.port),
            "KURIR_SMTP_PORT": str(self.smtp_port),
            "KURIR_DATA_DIR": str(self.folder),
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
        with (self.folder / "sandbox.out").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.sandbox"],
                env={**env, **own, **self.env},
                stdout=output,
                stderr=output,
                cwd=Path(__file__).resolve().parents[3],
            )
        deadline = time.monotonic() + 60
        while not self._is_healthy():
            assert self._process.poll() is None, (self.folder / "sandbox.out").read_text()
            assert time.monotonic() < deadline, "the sandbox does not answer"
            time.sleep(0.02)

    def _is_healthy(self) -> bool:
        try:
            return self.call("GET", "/health").status == 200
        except OSError:
            return False

    def stop(self) -> int:
        """Stop the process with SIGTERM and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send one HTTP request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Reply(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, dict(error.headers), error.read())

    def fault(self, **fault: Any) -> None:
        """Set a fault."""
        reply = self.call("PUT", "/faults", fault)
        assert reply.status == 200, reply.body

    def delivered(self) -> list[dict[str, Any]]:
        """Return the accepted messages from the sandbox's file."""
        path = self.folder / "sandbox" / "delivered.ndjson"
        return [json.loads(line) for line in path.read_text().splitlines()]
