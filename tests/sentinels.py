"""Redis Sentinels for tests: real processes on loopback that watch one master and fail over to its replica."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers import Kind, binary_of, free_port, freeze, send_inline

SERVICE = "kurir"
_READY_WITHIN_S = 60.0
# A master that stands still on a busy machine must not be replaced before a test says so (SENTINEL FAILOVER). Nor does
# a Sentinel promote a replica whose link has been down for ten times as long.
_DOWN_AFTER_MS = 60_000
FAILOVER_TIMEOUT_S = 90.0  # one that stood still for 2 s does nothing for 30 s (its TILT mode)


class Sentinel:
    """A Sentinel that fails over when it is told to; `lines` go to its configuration: passwords, as a rule."""

    def __init__(self, master_port: int, quorum: int = 1, *, lines: Sequence[str] = (), kind: Kind = "valkey") -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="kurir-test-sentinel-"))
        path = self._folder / "sentinel.conf"
        settings = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            f"logfile {self._folder}/sentinel.log",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {_DOWN_AFTER_MS}",
            *lines,
        ]
        path.write_text("\n".join(settings) + "\n")
        self._process = subprocess.Popen([binary_of(kind), str(path), "--sentinel"])

    @property
    def url(self) -> str:
        """The URL by which clients find the master, if no password is needed."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}/0"

    def await_ready(self) -> None:
        """Return once it names the master."""
        until = time.monotonic() + _READY_WITHIN_S
        while True:
            with suppress(OSError):
                if self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE).startswith(b"*2"):
                    return
            if time.monotonic() > until:
                pytest.fail(f"the Sentinel names no master within {_READY_WITHIN_S:g} s: {self.log()}")
            time.sleep(0.02)

    def command(self, *words: str) -> bytes:
        """Send one inline command and return the first line of the answer."""
        return send_inline(self.port, *words)

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP)."""
        freeze(self._process.pid)

    def log(self) -> str:
        """Return the end of what it logged."""
        path = self._folder / "sentinel.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def destroy(self) -> None:
        """Kill it and delete its files."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
