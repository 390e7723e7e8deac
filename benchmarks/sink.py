"""smtp-sink as the provider of both sides: accepts every message, keeps none, and counts them itself.

`tests.e2e.smtp_sink` finds it, or unpacks it from Debian's postfix package. Its own count checks a run: every message
sent must have arrived.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.processes import BenchmarkError
from tests.e2e.smtp_sink import find_smtp_sink
from tests.servers import free_port

_COUNT = re.compile(rb"mesg=(\d+)")
_START_TIMEOUT_S = 10.0


class Sink:
    """A running smtp-sink; without `pipelining` it does not offer RFC 2920, so that clients wait for each answer."""

    name = "smtp-sink"

    def __init__(self, folder: Path, *, pipelining: bool = True) -> None:
        self.port = free_port()
        self._counter = folder / f"sink-{self.port}.count"
        binary, environment = find_smtp_sink()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        quiet = [] if pipelining else ["-p"]
        command = [str(binary), "-c", *quiet, *user, f"127.0.0.1:{self.port}", "1024"]
        with self._counter.open("wb") as counter:
            self._process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=counter)
        self._wait()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def count(self) -> int:
        """Return the number of messages it has accepted."""
        with self._counter.open("rb") as counter:
            counter.seek(max(0, self._counter.stat().st_size - 400))
            found = _COUNT.findall(counter.read())
        return int(found[-1]) if found else 0

    def stop(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise BenchmarkError("smtp-sink does not listen")
