"""Measure one POST with very many recipients: ingest's memory and speed, and that each is queued exactly once.

    python -m benchmarks.ingest_million [--recipients 1000000] [--kill] [--json]

Starts its own Valkey (appendfsync always) and one ingest process, posts NDJSON that is generated on the fly, and then
reads the whole queue back. With `--kill`, ingest is killed with SIGKILL when half of the blast is queued and restarted,
and the client repeats its request with the same Idempotency-Key until it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import psutil
from redis import Redis

from services.cli.data_secrets import INTERNAL, REDIS_PASSWORD, SERVER_CONFIG, make_secrets, read_secret
from services.cli.embedded import find_server, server_command, wait_until_answering
from shared.jobs import unpack_job

ROOT = Path(__file__).parents[1]
_LINES_A_CHUNK = 500
_SAMPLE_S = 0.05
_PAGE = 5000
_CHANNEL = "{email}"
_ANSWER_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of a run: memory in MB, times in seconds, CPU of the ingest process that answered."""

    recipients: int
    killed: bool
    posts: int
    seconds: float
    jobs_per_second: float
    ingest_cpu_seconds: float
    redis_cpu_seconds: float
    rss_before_mb: float
    rss_peak_mb: float
    queued: int
    distinct: int
    body_mb: float


async def measure(recipients: int, *, kill: bool = False, time_scale: float = 1.0) -> Figures:
    """Run once in a temporary folder; `time_scale` shortens the lease of the killed process."""
    with tempfile.TemporaryDirectory(prefix="kurir-million-") as name:
        run = Run(Path(name), recipients, time_scale)
        try:
            await run.start_server()
            await run.start_ingest()
            return await run.measure(kill=kill)
        finally:
            run.end()


class Run:
    """A server and one ingest in one folder, and the client that posts."""

    def __init__(self, folder: Path, recipients: int, time_scale: float) -> None:
        self.folder = folder
        self._time_scale = time_scale
        self.recipients = recipients
        self.redis_port, self._port = free_port(), free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.ingest: subprocess.Popen[bytes] | None = None
        self._peak = 0
        self._sent_bytes = 0

    @property
    def redis(self) -> Redis:
        """Return a connection to the server."""
        return Redis(port=self.redis_port, password=read_secret(self.folder, REDIS_PASSWORD))

    @property
    def url(self) -> str:
        """Return ingest's URL."""
        return f"http://127.0.0.1:{self._port}"

    async def start_server(self) -> None:
        """Start a Valkey that syncs every write."""
        (self.folder / "redis").mkdir()
        log = self.folder / "redis.log"
        make_secrets(self.folder)
        config = self.folder / SERVER_CONFIG
        command = server_command(find_server(), self.redis_port, self.folder / "redis", config, log)
        self.server = started(command, dict(os.environ))
        await wait_until_answering(self.redis_port, read_secret(self.folder, REDIS_PASSWORD), 60, log)

    def environment(self) -> dict[str, str]:
        """Return the settings that all services of the run share."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
        return own | {
            "KURIR_PORT": str(self._port),
            "KURIR_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "KURIR_REDIS_PASSWORD_FILE": str(self.folder / REDIS_PASSWORD),
            "KURIR_INTERNAL_SECRET_FILE": str(self.folder / INTERNAL),
            "KURIR_DATA_DIR": str(self.folder / "data"),
            "KURIR_TEMPLATES_DIR": str(ROOT / "templates"),
            "KURIR_SMTP_URL": "smtp://127.0.0.1:25",
            "KURIR_EMAIL_FROM": "kurir@example.com",
            "KURIR_MAX_BACKLOG": str(self.recipients + 1_000_000),
            "KURIR_LOG_CONSOLE": "off",
            "KURIR_TIME_SCALE": str(self._time_scale),
        }

    async def start_ingest(self) -> None:
        """Start ingest and wait until it is healthy."""
        self.ingest = started([sys.executable, "-m", "services.ingest"], self.environment())
        async with aiohttp.ClientSession() as http:
            while not await _is_well(http, self.url):
                assert self.ingest.poll() is None, "ingest did not start"
                await asyncio.sleep(0.05)

    async def measure(self, *, kill: bool) -> Figures:
        """Post, and read the queue back."""
        before = self._rss()
        self._peak = before
        watching = asyncio.create_task(self._watch_memory())
        killing = asyncio.create_task(self._kill_half_way()) if kill else None
        began = time.monotonic()
        posts = await self.post_until_answered()
        seconds = time.monotonic() - began
        ingest_cpu_s, redis_cpu_s = cpu_s(self.ingest), cpu_s(self.server)
        watching.cancel()
        if killing is not None:
            await killing
        queued, distinct = self._read_back()
        return Figures(
            recipients=self.recipients,
            killed=kill,
            posts=posts,
            seconds=round(seconds, 2),
            jobs_per_second=round(self.recipients / seconds, 1),
            ingest_cpu_seconds=round(ingest_cpu_s, 2),
            redis_cpu_seconds=round(redis_cpu_s, 2),
            rss_before_mb=round(before / 1e6, 1),
            rss_peak_mb=round(self._peak / 1e6, 1),
            queued=queued,
            distinct=distinct,
            body_mb=round(self._sent_bytes / 1e6, 1),
        )

    async def post_until_answered(self) -> int:
        """POST the same body with the same key until the answer is 202; return the number of requests."""
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "the-million"}
        timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            for post in range(1, 200):
                try:
                    path = f"{self.url}/api/v1/messages/blast"
                    async with http.post(path, data=self._body(), headers=headers) as answer:
                        said = await answer.json()
                        if answer.status == 202:
                            assert said["totalMessages"] == self.recipients, said
                            return post
                        assert answer.status in {409, 429, 503}, said
                        await asyncio.sleep(float(answer.headers.get("Retry-After", "1")))
                except aiohttp.ClientError:
                    await asyncio.sleep(0.5)
        raise AssertionError("never answered")

    async def _body(self) -> AsyncIterator[bytes]:
        self._sent_bytes = 0
        head = json.dumps({"templateId": "invoice_reminder", "channels": ["email"], "reference": "the-million"})
        yield f"{head}\n".encode()
        for start in range(0, self.recipients, _LINES_A_CHUNK):
            numbers = range(start, min(start + _LINES_A_CHUNK, self.recipients))
            chunk = "".join(_line(number) for number in numbers).encode()
            self._sent_bytes += len(chunk)
            yield chunk

    async def _kill_half_way(self) -> None:
        while self.waiting() < self.recipients // 2:  # noqa: ASYNC110 - another process has no event to wait on
            await asyncio.sleep(0.01)
        assert self.ingest is not None
        self.ingest.send_signal(signal.SIGKILL)
        self.ingest.wait()
        await self.start_ingest()

    def waiting(self) -> int:
        """Return the number of jobs in the channel's streams."""
        with self.redis as redis:
            return sum(redis.xlen(key) for key in redis.keys(f"{_CHANNEL}:jobs:*"))

    def _read_back(self) -> tuple[int, int]:
        """Return the number of queued jobs and of their distinct recipients."""
        seen = bytearray(self.recipients)
        queued = 0
        with self.redis as redis:
            for key in redis.keys(f"{_CHANNEL}:jobs:*"):
                start = "-"
                while rows := redis.xrange(key, start, "+", count=_PAGE):
                    start = f"({rows[-1][0].decode()}"
                    queued += len(rows)
                    for _, fields in rows:
                        seen[unpack_job(fields[b"d"]).index] = 1
        return queued, sum(seen)

    async def _watch_memory(self) -> None:
        while True:
            self._peak = max(self._peak, self._rss())
            await asyncio.sleep(_SAMPLE_S)

    def _process(self) -> psutil.Process:
        assert self.ingest is not None
        return psutil.Process(self.ingest.pid)

    def _rss(self) -> int:
        try:
            return int(self._process().memory_info().rss)
        except psutil.Error:  # killed and not restarted yet
            return 0

    def end(self) -> None:
        """End the processes of the run."""
        for process in (self.ingest, self.server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def started(command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in the project's root."""
    return subprocess.Popen(command, env=env, cwd=ROOT)


def cpu_s(process: subprocess.Popen[bytes] | None) -> float:
    """Return the processor time of a process so far, in seconds."""
    return float(sum(psutil.Process(process.pid).cpu_times()[:2])) if process is not None else 0.0


def _line(number: int) -> str:
    return (
        f'{{"name":"Recipient {number}","email":"recipient{number}@example.com","variables":'
        f'{{"order_number":"INV-{number:07}","amount":{number * 1000},"due_date":"2026-02-01"}}}}\n'
    )


def free_port() -> int:
    """Return a loopback port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _is_well(http: aiohttp.ClientSession, url: str) -> bool:
    """Return whether a service reports that it is healthy."""
    try:
        async with http.get(f"{url}/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.recipients, kill=options.kill))
    if options.json:
        print(json.dumps(asdict(figures)))
    else:
        for name, value in asdict(figures).items():
            print(f"{name:<16} {value}")
    if not figures.queued == figures.distinct == figures.recipients:
        raise SystemExit("not every recipient was queued exactly once")


if __name__ == "__main__":
    main()
