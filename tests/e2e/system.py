"""A whole system as a user starts it: the command `kurir` in its own process, observed only from outside."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.servers import WORKER

KURIR = Path(sys.executable).with_name("kurir")
_OFFSETS = (0, 10, 11, 20, 21, 30, 40, 41, 50, 79, 90, 91)
_FIRST_BASE, _BASES_EACH = 25_000, 875
_READY_TIMEOUT_S = 60.0
_INSISTS_S = 60.0


def free_base() -> int:
    """Return a base port such that all ports of a system are free.

    They are below the kernel's ephemeral ports, and above those of `free_port` and those, 10,000 higher, on which nodes
    of clusters talk to each other. Each test process has its own range: a system takes its ports a while after they
    were found free, and two processes would give them to two systems.
    """
    first = _FIRST_BASE + WORKER * _BASES_EACH
    while True:
        base = random.randrange(first, first + _BASES_EACH - max(_OFFSETS))
        if all(_is_free(base + offset) for offset in _OFFSETS):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class System:
    """`kurir <command>` on free ports and its own data folder; its output is kept for failure messages."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.port = free_base()
        self.data = folder / "data"
        self._env = {**clean_environment(), **(env or {})}
        self._output = folder / "output.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the running command."""
        assert self._process is not None, "not started"
        return self._process

    def output(self) -> str:
        """Return its output so far, stdout and stderr together."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def start(self, command: str, options: Sequence[str] = ()) -> None:
        """Start the command without waiting for anything."""
        words = [str(KURIR), command, "--port", str(self.port), "--data-dir", str(self.data), *options]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(words, env=self._env, stdout=output, stderr=output, cwd=self.data.parent)

    def up(self, *options: str) -> None:
        """Run `kurir up` and wait until it reports that it is ready."""
        said = self.output()
        self.start("up", options)
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while "Kurir is ready" not in self.output().removeprefix(said):
            assert self.process.poll() is None, f"kurir up ended with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < deadline, f"not ready:\n{self.output()}"
            time.sleep(0.05)

    def wait(self, timeout_s: float) -> int:
        """Wait until it exits and return the exit code."""
        return self.process.wait(timeout_s)

    def interrupt(self) -> float:
        """Press Ctrl-C, wait until it exits, and return how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def child(self, service: str) -> psutil.Process | None:
        """Return the running process of a service ("redis" for the embedded server), or None."""
        for child in self.children():
            try:
                words = child.cmdline()
            except psutil.Error:
                continue
            # the server replaces its command line with its address
            is_server = any(name in words[0] for name in ("valkey-server", "redis-server")) if words else False
            if f"services.{service}" in words or (service == "redis" and is_server):
                return child
        return None

    def children(self) -> list[psutil.Process]:
        """Return its child processes."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """GET a path of the API; as clients should, ask again after a 503, for at most a minute."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return self._insist(urllib.request.Request(url, headers=dict(headers or {})))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST a JSON body to a path of the API."""
        return self.send("POST", path, body)

    def send(
        self, method: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send a JSON body to a path of the API by any method, as `get` does; a blast under a key of its own."""
        url, data = f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode()
        named = {"Content-Type": "application/json", **(headers or {})}
        if path == "/api/messages/blast":
            named.setdefault("Idempotency-Key", uuid.uuid4().hex)
        return self._insist(urllib.request.Request(url, data, named, method=method))

    def delivered(self) -> list[dict[str, Any]]:
        """Return the messages that the sandbox has accepted so far."""
        path = self.data / "sandbox" / "delivered.ndjson"
        if not path.exists():
            return []
        whole_lines = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole_lines.splitlines()]

    def _insist(self, request: urllib.request.Request) -> dict[str, Any]:
        deadline = time.monotonic() + _INSISTS_S
        while True:
            try:
                return self._call(request)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != 503 or time.monotonic() > deadline:
                        raise
                    time.sleep(float(error.headers["Retry-After"]))

    def _call(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def clean_environment() -> dict[str, str]:
    """Return the environment without the settings of the user who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
