"""The receipts service as a process: health, metrics, outages of Redis, and a stop that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.receipts.world import World, statuses
from tests.servers import PATIENCE_S, RedisServer, free_port, wait_for

_READY_S = 60.0


class ReceiptsProcess:
    """`python -m services.receipts` on a free port."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
        self._env = clean | {
            "KURIR_REDIS_URL": redis_url,
            "KURIR_DATA_DIR": str(folder),
            "KURIR_PORT": str(self.port),
            "KURIR_LOG_CONSOLE": "off",
            "KURIR_TIME_SCALE": "0.01",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with (self.folder / "stderr.txt").open("ab") as errors:
            self._process = subprocess.Popen([sys.executable, "-m", "services.receipts"], env=self._env, stderr=errors)
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "stderr.txt").read_text(errors="replace")
            try:
                self.get("/metrics")
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the receipts service did not come up")

    def end(self, number: signal.Signals) -> int:
        """Send a signal, and return the exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(60)

    def get(self, path: str) -> tuple[int, str]:
        """GET a path; return the status and the body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        """Return the health check's answer."""
        found: dict[str, Any] = json.loads(self.get("/health")[1])
        return found

    def sample(self, start: str) -> float:
        """Return the first sample of `/metrics` whose line begins with `start`."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(start)]
        assert lines, start
        return float(lines[0].rpartition(" ")[2])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Start a server that a test may stop."""
    server = RedisServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture
async def own(server: RedisServer) -> AsyncIterator[World]:
    """The stream of that server."""
    world = World(server.url)
    yield world
    await world.aclose()


@pytest.fixture
def service(server: RedisServer, tmp_path: Path) -> Iterator[ReceiptsProcess]:
    """Start the service on that server."""
    process = ReceiptsProcess(server.url, tmp_path)
    process.start()
    yield process
    process.end(signal.SIGKILL)


async def test_reads_and_counts(own: World, service: ReceiptsProcess) -> None:
    """The process emits events, counts by provider and kind, and writes its log file; SIGTERM ends it with 0."""
    await own.inbox.add("meta", statuses("wamid.A", "wamid.B"))
    await own.inbox.add("meta", b"nonsense")
    await own.emptied()
    assert service.get("/health")[0] == 200
    assert service.health()["service"] == "receipts"
    assert service.sample('kurir_receipts_read_total{kind="delivered",provider="meta"}') == 2
    # counted once its answer has come, which the stream is ahead of
    aside = 'kurir_receipts_set_aside_total{provider="meta"} 1.0'
    await wait_for(lambda: aside in service.get("/metrics")[1], what="the count of those set aside")
    await wait_for(lambda: service.sample("kurir_receipts_kept_aside") == 1, what="the check of the stream")
    await wait_for(lambda: service.sample("kurir_receipts_waiting") == 0, what="the next one, if it came in between")
    assert service.get("/anything")[0] == 404
    assert service.end(signal.SIGTERM) == 0
    assert "unreadable receipt set aside" in (service.folder / "logs" / "combined.log").read_text()


async def test_survives_an_outage_of_redis(own: World, server: RedisServer, service: ReceiptsProcess) -> None:
    """While Redis is away the health says so; what was accepted before, and what comes after, is read."""
    server.kill()
    await wait_for(lambda: service.get("/health")[0] == 503, what="the outage in the health")
    assert "redis" in service.health()["reasons"]
    server.start()
    await own.inbox.add("meta", statuses("wamid.A"))
    await own.emptied(30)
    await wait_for(lambda: service.get("/health")[0] == 200, 30, "the health is restored")
    assert len(await own.receipts()) == 1


async def test_killed_while_it_reads(own: World, server: RedisServer, tmp_path: Path) -> None:
    """Kill -9 at any moment loses no entry: after the restart each has taken effect under one name."""
    service = ReceiptsProcess(server.url, tmp_path)
    expected = set()
    for turn in range(4):
        service.start()
        for n in range(60):
            provider_id = f"wamid.{turn}.{n}"
            expected.add(provider_id)
            await own.inbox.add("meta", statuses(provider_id))
        await wait_for(own.receipts, what="the first events")
        service.end(signal.SIGKILL)
    service.start()
    await own.emptied(30)
    assert service.end(signal.SIGTERM) == 0
    named = {(batch.producer, batch.sequence): batch for batch in await own.batches()}
    assert len(named) == len(expected)
    assert {one.provider_id for one in await own.receipts()} == expected


def test_settings_that_cannot_work_end_it(tmp_path: Path) -> None:
    """A wrong setting is one line on stderr and exit code 2."""
    env = {**os.environ, "KURIR_PORT": "much", "KURIR_DATA_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "services.receipts"], env=env, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "kurir receipts: KURIR_PORT" in ended.stderr.decode()
