"""PostgreSQL clusters of the tests: each in a folder of its own, as an unprivileged user, gone after the tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from tests import servers
from tests.debian import missing
from tests.servers import free_port

_START_S = 60.0
# a crash of the machine is not what these clusters are for: tests kill the loggers and the server, not the kernel
_FAST = ("-c", "fsync=off", "-c", "full_page_writes=off")
_SETTINGS = (
    "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60", "-c", "shared_buffers=64MB",
    "-c", "autovacuum_naptime=10s",
)  # fmt: skip


class PostgresServer:
    """A cluster that a test may start, kill and start again; `durable` syncs its log at each commit."""

    def __init__(self, *settings: str, durable: bool = False) -> None:
        self._binaries = _binaries()
        self._user = _user()
        self._folder = Path(tempfile.mkdtemp(prefix="kurir-pg-", dir=servers.data_parent))
        self._settings = (*_SETTINGS, *(() if durable else _FAST), *settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self.port = free_port()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "--no-sync", "-A", "trust", "-U", "kurir", "-E", "UTF8", "--locale=C", "-D", self._data)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    @property
    def pid(self) -> int:
        """The pid of the running server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://kurir@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            str(self._binaries / "postgres"), "-D", self._data, "-p", str(self.port), "-k", str(self._folder),
            *self._settings,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        deadline = time.monotonic() + _START_S
        ready = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not come up"
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server and its backends without a shutdown, as after a crash."""
        self._stop(signal.SIGQUIT)

    def stop(self) -> None:
        """End the server by a fast shutdown."""
        self._stop(signal.SIGINT)

    def _stop(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def destroy(self) -> None:
        """End the server and delete its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def cpu_s(self) -> float:
        """Return the processor time that the server and its backends have used, ended ones included."""
        server = psutil.Process(self.pid)
        used = server.cpu_times()
        total = used.user + used.system + used.children_user + used.children_system
        for child in server.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                own = child.cpu_times()
                total += own.user + own.system
        return float(total)

    def make_database(self, template: str = "template0") -> str:
        """Make a database, a copy of another one; return its URL.

        Nobody connects to `template0`, which is empty: autovacuum may be at work in any other and keep it from a copy.
        """
        name = f"kurir{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement and return what psql prints."""
        psql = str(self._binaries / "psql")
        command = [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def make_user(self, name: str, password: str) -> None:
        """Make a user who needs a password; all others need none."""
        self.sql(f"CREATE USER {name} PASSWORD '{password}'")
        rules = Path(self._data) / "pg_hba.conf"
        rules.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.sql("SELECT pg_reload_conf()")

    def drop(self, url: str) -> None:
        """Drop a database."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.sql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, user=self._user, cwd=self._folder, timeout=120
        )
        assert done.returncode == 0, done.stderr


def _binaries() -> Path:
    """Return the folder of the newest PostgreSQL; skip the test without one, or fail it in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else Path(missing("PostgreSQL's server is not installed"))


def _user() -> str | None:
    """Return who runs the server: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return missing("no unprivileged user can run PostgreSQL")
