"""The service as a process, with Redis unavailable at its start and in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.web import credentials
from tests.e2e.smtp_sink import SmtpSink
from tests.integration.queue.world import open_world
from tests.integration.sending.running import QUARTER
from tests.servers import INTERNAL_SECRET, RedisServer, free_port, wait_for


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer("valkey")
    yield server
    server.destroy()


@pytest.fixture
async def sender(
    redis: RedisServer, sink: SmtpSink, tmp_path: Path
) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    env = {
        **os.environ,
        "KURIR_SMTP_URL": sink.url,
        "KURIR_EMAIL_FROM": "Kurir <kurir@example.com>",
        "KURIR_EMAIL_RATE": "off",
        "KURIR_PUBLIC_URL": "http://127.0.0.1:3000",
        "KURIR_SECRET": "secret",
        "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
        "KURIR_REDIS_URL": redis.url,
        "KURIR_PORT": str(port),
        "KURIR_DATA_DIR": str(tmp_path),
        "KURIR_TIME_SCALE": "0.25",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.email_sender"], env=env, stderr=subprocess.DEVNULL)
    yield process, port
    process.kill()
    process.wait()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=credentials(INTERNAL_SECRET))
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def test_service_lives_without_redis_sends_and_stops(
    sender: tuple[subprocess.Popen[bytes], int], redis: RedisServer, sink: SmtpSink
) -> None:
    """It starts without Redis, reports that, sends once Redis is up, survives its restart, and exits 0 on SIGTERM."""
    process, port = sender
    await wait_for(lambda: get(port, "/health")[0] == 503, 30, "the service to say that Redis is away")
    redis.start()
    await wait_for(lambda: get(port, "/health")[0] == 200, what="the service to be healthy")
    world = open_world(redis.url, QUARTER)
    blast = await world.given(20)

    async def sent(count: int) -> bool:
        return (await world.progress(blast)).counts["sent"] == count

    await wait_for(lambda: sent(20), what="the first twenty")
    await asyncio.to_thread(redis.restart)
    blast = await world.given(30)
    await wait_for(lambda: sent(30), what="thirty more after the restart of Redis")
    await world.redis.aclose()
    assert sum(sink.deliveries().values()) == 50
    status = json.loads(get(port, "/status")[1])
    assert (status["reachable"], status["authenticated"]) == (True, True)
    check_metrics(get(port, "/metrics")[1])
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) == 0


def check_metrics(exposition: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposition)}
    assert {name for name in families if name.startswith("kurir_")} == {
        "kurir_attempts", "kurir_send_duration_seconds", "kurir_queue_latency_seconds", "kurir_build_info",
        "kurir_server_available", "kurir_server_refuses_us", "kurir_redis_unsafe", "kurir_housekeeping_errors",
    }  # fmt: skip
    (sample,) = [one for one in families["kurir_attempts"].samples if one.name == "kurir_attempts_total"]
    assert sample.labels == {"channel": "email", "outcome": "sent", "error_class": ""}
    assert sample.value == 50
    (count,) = [one for one in families["kurir_send_duration_seconds"].samples if one.name.endswith("_count")]
    assert (count.labels, count.value) == ({"channel": "email"}, 50)
    (count,) = [one for one in families["kurir_queue_latency_seconds"].samples if one.name.endswith("_count")]
    assert (count.labels, count.value) == ({"channel": "email", "lane": "normal"}, 50)
    assert "process_resident_memory_bytes" in families
    assert all(family.documentation.endswith(".") for name, family in families.items() if name.startswith("kurir_"))
