"""Kurir as users run it: its real services as separate processes, with their own Valkey and folder."""

from __future__ import annotations

import http.client
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import redis

from benchmarks import http_sink, workload
from benchmarks.peer import redis_for
from benchmarks.processes import BenchmarkError, Child, Usage, clean_environment, usage_of
from benchmarks.workload import Load
from tests.servers import RedisServer, free_port

READY_TIMEOUT_S = 60.0
WORK_TIMEOUT_S = 240.0
_POLL_S = 0.005
_EVENTS = ("{email}:events", "{whatsapp}:events", "gateway:events")
_HTTP_TIMEOUT_S = 120.0
LOCALHOST = "127.0.0.1"


class Kurir:
    """The services on one Redis; `provider_port` is that of the SMTP server or of WhatsApp's API."""

    def __init__(self, server: RedisServer, load: Load, folder: Path, provider_port: int) -> None:
        self.server = server
        self.load = load
        self.folder = folder
        self.redis = redis.Redis(port=server.port)
        self.port = free_port()
        self._ports = {"ingest": self.port, "logger": free_port()}
        self._children: list[Child] = []
        workload.write_template(folder / "templates", load)
        self.env = self._environment(provider_port)

    def _environment(self, provider_port: int) -> dict[str, str]:
        load = self.load
        return clean_environment() | {
            "KURIR_REDIS_URL": self.server.url,
            "KURIR_DATA_DIR": str(self.folder / "data"),
            "KURIR_LOGGER_URL": f"http://{LOCALHOST}:{self._ports['logger']}",
            "KURIR_PUBLIC_URL": f"http://{LOCALHOST}:{self.port}",
            "KURIR_SECRET": "a secret of the benchmarks, which signs nothing",
            "KURIR_TEMPLATES_DIR": str(self.folder / "templates"),
            **(self._whatsapp(provider_port) if load.channel == "whatsapp" else self._email(provider_port)),
            "KURIR_RATE_LIMIT": "off",
            "KURIR_MAX_BACKLOG": "100000000",
            "KURIR_LOG_CONSOLE": "off",
        }

    def _email(self, port: int) -> dict[str, str]:
        return {
            "KURIR_SMTP_URL": f"smtp://{LOCALHOST}:{port}",
            "KURIR_SMTP_MAX_MESSAGES": str(self.load.messages_per_connection),
            "KURIR_EMAIL_FROM": workload.SENDER,
            "KURIR_EMAIL_RATE": "off",
            "KURIR_EMAIL_CONCURRENCY": str(self.load.concurrency),
            **self._signing(),
        }

    def _whatsapp(self, port: int) -> dict[str, str]:
        return {
            "KURIR_META_URL": f"http://{LOCALHOST}:{port}/{http_sink.VERSION}",
            "KURIR_META_PHONE_NUMBER_ID": http_sink.NUMBER_ID,
            "KURIR_META_ACCESS_TOKEN": http_sink.TOKEN,
            "KURIR_WHATSAPP_RATE": "off",
            "KURIR_WHATSAPP_PAIR_RATE": "off",
            "KURIR_WHATSAPP_CONCURRENCY": str(self.load.concurrency),
        }

    def _signing(self) -> dict[str, str]:
        """Return the settings that sign messages as the load requires."""
        if not self.load.dkim:
            return {}
        path = self.folder / "dkim.pem"
        workload.write_key(self.load.dkim, path)
        return {"KURIR_DKIM_KEYS": f"{workload.SENDER.partition('@')[2]}:bench:{path}"}

    def start(self, services: Sequence[str]) -> None:
        """Start services (a name given twice starts two) and wait until each is healthy."""
        ports = [self._start(service, number) for number, service in enumerate(services)]
        for port in ports:
            self.until(lambda port=port: _healthy(port), READY_TIMEOUT_S, "healthy services")  # type: ignore[misc]

    def _start(self, service: str, number: int) -> int:
        port = self._ports.get(service) or free_port()
        env = {**self.env, "KURIR_PORT": str(port)}
        command = [sys.executable, "-P", "-m", f"services.{service}"]
        self._children.append(Child(f"{service}-{number}", command, env, self.folder))
        return port

    def pin(self, name: str) -> None:
        """Keep the processes of that name on one core each, in turn."""
        cores = sorted(os.sched_getaffinity(0))
        pids = [child.pid for child in self._children if child.name.rpartition("-")[0] == name]
        for number, pid in enumerate(pids):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cores[number % len(cores)]})

    def add(self, child: Child) -> None:
        """Adopt another process: account for it and stop it with the services."""
        self._children.append(child)

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """POST a JSON body and return the answer; raises BenchmarkError unless it was accepted."""
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=_HTTP_TIMEOUT_S)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status not in {http.client.ACCEPTED, http.client.CREATED}:
            raise BenchmarkError(f"POST {path}: {answer.status} {text[:500]!r}")
        found: dict[str, Any] = orjson.loads(text)
        return found

    def sent(self) -> int:
        """Return the number of messages that the queue counts as sent."""
        return int(self.redis.hget(f"{{{self.load.channel}}}:counters", "sent") or 0)

    def until_sent(self, jobs: int) -> float:
        """Wait until that many are sent; return the time on the monotonic clock."""
        self.until(lambda: self.sent() >= jobs, WORK_TIMEOUT_S, f"{jobs} messages sent")
        return time.monotonic()

    def until_logged(self) -> float:
        """Wait until the logger has committed every event; return the time on the monotonic clock."""
        self.until(self._all_logged, WORK_TIMEOUT_S, "events written")
        return time.monotonic()

    def _all_logged(self) -> bool:
        with self.redis.pipeline(transaction=False) as pipe:
            for stream in _EVENTS:
                pipe.xlen(stream)
            return not any(pipe.execute())

    def rows(self, status: str) -> int:
        """Return the number of message log rows with a status."""
        with closing(self.database()) as database:
            (count,) = database.execute("SELECT count(*) FROM message_logs WHERE status = ?", (status,)).fetchone()
        return int(count)

    def database(self) -> sqlite3.Connection:
        """Open the log's database to read it."""
        return sqlite3.connect(f"file:{self.folder / 'data' / 'logs.db'}?mode=ro", uri=True)

    def usage(self, others: Mapping[str, int]) -> Usage:
        """Return the usage of the services, their Redis and `others` (name to pid)."""
        named = [(child.name.rpartition("-")[0], child.pid) for child in self._children]
        return usage_of([*named, ("valkey", self.server.pid), *others.items()])

    def until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll until a condition holds; raise BenchmarkError on timeout or if a process has ended."""
        deadline = time.monotonic() + timeout_s
        while not done():
            for child in self._children:
                child.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no {what} within {timeout_s:g} s; sent {self.sent()}")
            time.sleep(_POLL_S)

    def stop(self, name: str = "") -> None:
        """Stop the services of that name, or all, in reverse order of their start."""
        for child in reversed(self._children):
            if not name or child.name.rpartition("-")[0] == name:
                child.stop()
        if name:
            self._children = [child for child in self._children if child.name.rpartition("-")[0] != name]


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(LOCALHOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def running(load: Load, folder: Path, provider_port: int = 9) -> Iterator[Kurir]:
    """Run a Redis for Kurir while the block runs; services started on it stop with it."""
    with redis_for(load) as server:
        kurir = Kurir(server, load, folder, provider_port)
        try:
            yield kurir
        finally:
            kurir.stop()
            kurir.redis.close()
