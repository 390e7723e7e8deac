"""Child processes of a benchmark: start them, talk to them through pipes, and measure processor time and memory."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import uvloop

from shared.errors import KurirError
from tests.servers import INTERNAL_SECRET

STOP_TIMEOUT_S = 20.0


class BenchmarkError(KurirError):
    """A benchmark could not be run, or its processes did not do their work."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of processes: seconds of processor time, and the sum of their peak resident memory in MiB."""

    cpu_s: Mapping[str, float]
    peak_mib: Mapping[str, float]

    def since(self, before: Usage) -> Usage:
        """Return the processor time since an earlier reading, with the current peaks."""
        spent = {name: seconds - before.cpu_s.get(name, 0.0) for name, seconds in self.cpu_s.items()}
        return Usage(spent, self.peak_mib)


class Child:
    """A running child process; its stdout is read line by line, its stderr goes to a file."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._errors = folder / f"{name}.stderr"
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                list(command), env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return the next JSON object that it prints; raise BenchmarkError on timeout or if it ends."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise BenchmarkError(
                    f"{self.name} printed nothing within {timeout_s:g} s: {self.complaints()}"
                ) from None
            if not line:
                raise BenchmarkError(f"{self.name} ended: {self.complaints()}")
            if line.startswith(b"{"):
                found: dict[str, Any] = orjson.loads(line)
                return found

    def send_line(self, line: str = "go") -> None:
        """Write a line to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def complaints(self) -> str:
        """Return the end of its stderr."""
        return self._errors.read_text(errors="replace")[-2000:].strip()

    def check(self) -> None:
        """Raise BenchmarkError if it has ended."""
        if self._process.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with {self._process.returncode}: {self.complaints()}")

    def stop(self) -> None:
        """Stop it with SIGTERM, or with SIGKILL if it does not stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def usage_of(pids: Iterable[tuple[str, int]]) -> Usage:
    """Return the usage so far of processes given by (name, pid), each with its children; add up equal names."""
    cpu: dict[str, float] = {}
    peak: dict[str, float] = {}
    for name, pid in pids:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            times = process.cpu_times()
            cpu[name] = cpu.get(name, 0.0) + times.user + times.system
            peak[name] = peak.get(name, 0.0) + _peak_mib(process)
    return Usage(cpu, peak)


def _peak_mib(process: psutil.Process) -> float:
    """Return the peak resident memory on Linux, elsewhere the current one."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return float(process.memory_info().rss) / 2**20
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float(process.memory_info().rss) / 2**20


def clean_environment() -> dict[str, str]:
    """Return this environment without the caller's settings, with the services' secret."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
    return own | {"KURIR_INTERNAL_SECRET": INTERNAL_SECRET}


async def _answer_counts(make: Callable[[], asyncio.BaseProtocol], counts: Callable[[], object], port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", port)
    print("{}", flush=True)
    async with server:
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(orjson.dumps(counts()).decode(), flush=True)


def serve_counts(make: Callable[[], asyncio.BaseProtocol], counts: Callable[[], object]) -> None:
    """Serve connections on the port in the first argument; answer each line of stdin with the counts, until it ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer_counts(make, counts, int(sys.argv[1])))
