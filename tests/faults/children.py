"""The processes of a system, which the test starts, freezes and kills."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.servers import freeze

_END_TIMEOUT_S = 30.0


class Child:
    """One process of a system under test; its output is kept for the failure message."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.env = dict(env)
        self.lives = 0
        self.retired = False
        self._command = list(command)
        self._folder = folder
        self._output = folder / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def process(self) -> psutil.Process:
        """The process, for reading what the kernel reports about it."""
        return psutil.Process(self.pid)

    def runs(self) -> bool:
        """Return whether it runs (a frozen process counts as running)."""
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """Return its exit code, None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it without waiting until it is ready."""
        assert not self.runs(), f"{self.name} runs already"
        assert not self.retired, f"{self.name} is not to be started again"
        self.lives += 1
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self.env, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self._folder
            )

    def kill(self) -> None:
        """End it with SIGKILL, frozen or not."""
        if self._process is not None and self.runs():
            self._process.kill()
            self._process.wait(_END_TIMEOUT_S)

    def freeze(self) -> None:
        """Freeze it (SIGSTOP); return once it is stopped."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Resume a frozen process (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    async def stop(self, timeout_s: float = _END_TIMEOUT_S) -> int:
        """Ask it to stop (SIGTERM) and return its exit code."""
        assert self._process is not None
        if self.runs():
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
        return await asyncio.to_thread(self._process.wait, timeout_s)

    def limit_files(self, most_bytes: int | None) -> None:
        """Limit every file that it writes to `size` bytes, as if the disk were full; None lifts the limit.

        The limit (RLIMIT_FSIZE) also applies to root, needs no mount, and can be changed while the process runs.
        """
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        soft = hard if most_bytes is None else most_bytes
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def output(self) -> str:
        """Return the end of its terminal output."""
        return self._output.read_text(errors="replace")[-3000:] if self._output.exists() else ""
