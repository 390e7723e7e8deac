"""Debian's smtp-sink as the provider: a mail server that shares no code with Kurir and keeps the mails it accepts.

It comes from PATH, else from Debian's postfix package, unpacked into `tests/.cache` without installing it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import servers
from tests.servers import free_port

_CACHE = Path(__file__).resolve().parents[1] / ".cache" / "postfix"
_RECIPIENT = re.compile(rb"^X-Rcpt-Args: (?:TO:)?<([^>]+)>", re.MULTILINE | re.IGNORECASE)


class SmtpSink:
    """A running smtp-sink that dumps each accepted message into a file; `options` for its command line."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = list(options)
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="kurir-smtp-sink-", dir=servers.data_parent))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the KURIR_SMTP_URL to send there."""
        return f"smtp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        binary, environment = find_smtp_sink()
        # as root it insists on dropping privileges, and must then still be able to write
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        if user:
            self._folder.chmod(0o755)
            os.chown(self._folder, pwd.getpwnam("nobody").pw_uid, -1)
        command = [str(binary), *user, *self._options, "-d", f"{self._folder}/m.", f"127.0.0.1:{self.port}", "256"]
        self._process = subprocess.Popen(command, env={**os.environ, **environment})
        _wait_for_port(self.port)

    def stop(self) -> None:
        """Stop it and delete its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def deliveries(self) -> Counter[str]:
        """Count the received mails by recipient."""
        found: Counter[str] = Counter()
        for path in self._folder.iterdir():
            found.update(match.decode() for match in _RECIPIENT.findall(path.read_bytes()))
        return found


def find_smtp_sink() -> tuple[Path, dict[str, str]]:
    """Return the program and its environment; without it skip the test, or fail in CI."""
    installed = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin:/sbin")
    if installed:
        return Path(installed), {}
    binary = _CACHE / "usr" / "sbin" / "smtp-sink"
    if not binary.exists():
        _unpack_postfix()
    return binary, {"LD_LIBRARY_PATH": str(_CACHE / "usr" / "lib" / "postfix")}


def _unpack_postfix() -> None:
    problem = "no smtp-sink on PATH, and Debian's postfix package cannot be unpacked"
    try:
        _CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "postfix"], cwd=_CACHE, check=True, capture_output=True, timeout=60)
        (package,) = _CACHE.glob("postfix_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(_CACHE)], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"{problem}: {error}")
        pytest.skip(f"{problem}: {error}")


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "smtp-sink is not listening"
            time.sleep(0.02)
        else:
            return
