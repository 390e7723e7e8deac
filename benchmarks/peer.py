"""The peer: BullMQ with nodemailer's pool or with undici, as `peer/peer.mjs` runs it on its own Redis."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from benchmarks import workload
from benchmarks.processes import BenchmarkError, Child, Usage, clean_environment, usage_of
from benchmarks.workload import Load
from tests.servers import RedisServer

FOLDER = Path(__file__).parent / "peer"
ADD_CHUNK = 1000
MOST_CHUNK_BYTES = 10_000_000
_READY_TIMEOUT_S = 30.0
_WORK_TIMEOUT_S = 240.0
_CI_TIMEOUT_S = 300.0


def install() -> None:
    """Install the peer's packages from its lock file unless they are installed; raises BenchmarkError."""
    lock = FOLDER / "package-lock.json"
    stamp = FOLDER / "node_modules" / ".lock"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    if shutil.which("npm") is None:
        raise BenchmarkError("the peer needs node and npm on PATH")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=_CI_TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchmarkError(f"npm ci: {done.stderr[-2000:]}")
    stamp.write_bytes(lock.read_bytes())


@contextmanager
def redis_for(load: Load) -> Iterator[RedisServer]:
    """Run an empty Valkey with the load's AOF policy while the block runs."""
    server = RedisServer("valkey", ["--appendfsync", load.append_fsync])
    server.start()
    try:
        yield server
    finally:
        server.destroy()


class Peer:
    """The peer's processes on one Redis; use as a context manager through `running`."""

    def __init__(self, server: RedisServer, load: Load, folder: Path) -> None:
        self._server = server
        self._load = load
        self._folder = folder
        self._children: list[Child] = []

    def start(self, role: str, extra: Mapping[str, object] | None = None) -> Child:
        """Start a role and wait until it is ready to begin."""
        config = {
            "redisPort": self._server.port,
            "jobs": self._load.jobs,
            "concurrency": self._load.concurrency,
            "connections": self._load.concurrency,
            "messagesPerConnection": self._load.messages_per_connection,
            "autorun": True,
            "chunk": min(ADD_CHUNK, MOST_CHUNK_BYTES // self._load.html_bytes),
            "rate": workload.SINGLES_A_SECOND,
            "dkim": self._signing(),
            "channel": self._load.channel,
            "firstPhone": workload.FIRST_PHONE,
            "template": workload.TEMPLATE_ID,
            "from": workload.SENDER,
            "subject": workload.SUBJECT,
            "html": workload.html(self._load.html_bytes),
            "text": workload.TEXT,
            **(extra or {}),
        }
        command = ["node", str(FOLDER / "peer.mjs"), role, orjson.dumps(config).decode()]
        child = Child(f"node-{role}", command, clean_environment(), self._folder)
        self._children.append(child)
        with_packages = child.answer(_READY_TIMEOUT_S)
        if not with_packages.get("ready"):
            raise BenchmarkError(f"{child.name} is not ready: {with_packages}")
        return child

    def _signing(self) -> dict[str, str] | None:
        """Return nodemailer's options that sign messages as the load requires."""
        if not self._load.dkim:
            return None
        path = self._folder / "peer-dkim.pem"
        if not path.exists():
            workload.write_key(self._load.dkim, path)
        domain = workload.SENDER.partition("@")[2]
        return {"domainName": domain, "keySelector": "bench", "privateKey": path.read_text(encoding="ascii")}

    def usage(self, others: Mapping[str, int]) -> Usage:
        """Return the usage of the peer's processes, its Redis and `others` (name to pid)."""
        named = [(child.name, child.pid) for child in self._children]
        return usage_of([*named, ("valkey", self._server.pid), *others.items()])

    def stop(self) -> None:
        """Stop its processes."""
        for child in self._children:
            child.stop()


@contextmanager
def running(load: Load, folder: Path) -> Iterator[tuple[Peer, RedisServer]]:
    """Run the peer's Redis while the block runs; processes started on the peer stop with it."""
    with redis_for(load) as server:
        peer = Peer(server, load, folder)
        try:
            yield peer, server
        finally:
            peer.stop()


def work_answer(child: Child) -> dict[str, Any]:
    """Return a role's result once it is done."""
    return child.answer(_WORK_TIMEOUT_S)
