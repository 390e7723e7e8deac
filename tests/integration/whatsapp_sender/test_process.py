"""The WhatsApp sender as a process between a real queue and the sandbox."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.blasts import Blast
from shared.jobs import Job, Recipient
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.producer import Chunk, Producer
from shared.templates import Template, WhatsAppContent
from shared.web import credentials
from tests.integration.sandbox.running import Sandbox
from tests.servers import INTERNAL_SECRET, RedisServer, free_port, wait_for

TEMPLATE = Template("t", "T", ["whatsapp"], whatsapp=WhatsAppContent("hello", "id", body_variables=["name"]))
ROOT = Path(__file__).resolve().parents[3]
_APART_S = 2


@dataclass
class System:
    """A queue, a sandbox, and the URL of the sender's HTTP server."""

    redis: Redis
    sandbox: Sandbox
    port: int

    async def blast(self, blast_id: str, phones: list[str]) -> Blast:
        """Enqueue one message to each number."""
        blast = Blast(blast_id, TEMPLATE, ["whatsapp"], "normal", 0, {"whatsapp": len(phones)}, len(phones))
        await BlastStore(self.redis, f"store-{blast_id}").create(blast)
        jobs = [
            Job(blast_id, index, "whatsapp", "normal", Recipient(phone, f"R{index}"), time.time_ns() // 1_000_000)
            for index, phone in enumerate(phones)
        ]
        await Producer(self.redis, f"producer-{blast_id}").enqueue(Chunk(blast, "whatsapp", 0, jobs))
        return blast

    async def counts(self, blast: Blast) -> dict[str, int]:
        """Return the blast's counts, without zeros."""
        progress = await BlastStore(self.redis, "reader").progress(blast.blast_id)
        assert progress is not None
        return {status: n for status, n in progress.channels["whatsapp"].counts.items() if n}

    async def ended(self, blast: Blast, expected: dict[str, int], timeout_s: float = 30.0) -> None:
        """Wait until the blast has these counts."""

        async def are_so() -> bool:
            return await self.counts(blast) == expected

        await wait_for(are_so, timeout_s, f"{expected}")

    def get(self, path: str) -> bytes:
        """GET a path of the sender's HTTP server."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=credentials(INTERNAL_SECRET))
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: bytes = answer.read()
            return found

    def attempts(self) -> Counter[tuple[str, str]]:
        """Return the sender's count of attempts, by outcome and error class."""
        found = re.findall(
            r'^kurir_attempts_total\{channel="whatsapp",error_class="(.*?)",outcome="(.*?)"\} (\d+)',
            self.get("/metrics").decode(),
            re.MULTILINE,
        )
        return Counter({(outcome, error_class): int(n) for error_class, outcome, n in found})

    def is_healthy(self) -> bool:
        """Return whether the sender is healthy."""
        try:
            return bool(self.get("/health"))
        except OSError:
            return False


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    sandbox.start()
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer("valkey")
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="module")
def sender(server: RedisServer, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run a sender and yield its port; time constants are a tenth, and one recipient gets a burst of three."""
    folder, port = tmp_path_factory.mktemp("sender"), free_port()
    own = {
        "KURIR_REDIS_URL": server.url,
        "KURIR_PORT": str(port),
        "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
        "KURIR_DATA_DIR": str(folder),
        "KURIR_TIME_SCALE": "0.1",
        "KURIR_WHATSAPP_RATE": "off",
        "KURIR_WHATSAPP_PAIR_RATE": f"1/{_APART_S}s",
        "KURIR_WHATSAPP_PAIR_BURST": "3",
        "KURIR_QISCUS_URL": sandbox.url,
        "KURIR_QISCUS_APP_CODE": "sandbox",
        "KURIR_QISCUS_CHANNEL_ID": "1",
        "KURIR_QISCUS_SECRET_KEY": "sandbox",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
    command = [sys.executable, "-m", "services.whatsapp_sender"]
    with (folder / "out").open("wb") as output:
        process = subprocess.Popen(command, env={**env, **own}, stdout=output, stderr=output, cwd=ROOT)
    try:
        yield port
        process.terminate()
        assert process.wait(60) == 0, (folder / "out").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def system(server: RedisServer, sandbox: Sandbox, sender: int) -> AsyncIterator[System]:
    """A ready sender, and a sandbox without messages or faults."""
    sandbox.call("DELETE", "/messages")
    sandbox.call("DELETE", "/faults")
    redis = connect(server.url)
    system = System(redis, sandbox, sender)
    await wait_for(system.is_healthy, 30, "the sender")
    yield system
    await redis.aclose()


async def test_a_blast_with_simulated_failures(system: System) -> None:
    """Each number gets one message; a permanent code fails immediately, 131000 after three attempts."""
    before = system.attempts()
    phones = [f"6281234{number:05d}" for number in range(120)]
    blast = await system.blast("b1", [*phones, "62812131026", "62812131050", "62812131000"])
    await system.ended(blast, {"sent": 120, "failed": 3})
    assert sorted(line["to"] for line in system.sandbox.delivered()) == phones
    attempts = system.attempts() - before
    # a sender that stood still before a start gives the job back, which uses no attempt
    assert {(outcome, why): n for (outcome, why), n in attempts.items() if outcome != "returned"} == {
        ("sent", ""): 120,
        ("failed", "permanent"): 2,
        ("retrying", "transient"): 2,
        ("failed", "transient"): 1,
    }
    metrics = system.get("/metrics").decode()
    for name in ("send_duration_seconds_count{", "queue_latency_seconds_count{", "build_info{"):
        assert f"kurir_{name}" in metrics


async def test_one_recipient_is_not_flooded(system: System) -> None:
    """Of five messages to one number, three start immediately and the rest apart; another number goes first."""
    began = time.time()
    blast = await system.blast("b2", ["628111111111"] * 5 + ["628222222222"])
    await system.ended(blast, {"sent": 6})
    times: dict[str, list[float]] = {}
    for line in system.sandbox.delivered():
        times.setdefault(line["to"], []).append(line["at_ms"] / 1000)
    flooded = times["628111111111"]
    assert flooded[2] - flooded[0] < _APART_S * 0.9
    # from before the first, since each may take some time on its way
    assert all(at - began > number * _APART_S * 0.99 for number, at in enumerate(flooded[3:], 1))
    assert times["628222222222"][0] < flooded[3]


async def test_a_refused_secret_pauses_the_channel(system: System) -> None:
    """The first 401 pauses the channel with the provider's words; a resume sends all, and no attempt was used."""
    before = system.attempts()
    system.sandbox.fault(channel="whatsapp", answer="190")
    blast = await system.blast("b3", [f"6281235{number:05d}" for number in range(20)])
    control = Control(system.redis, "test")

    async def reason() -> str:
        return (await control.channel_stats("whatsapp")).pause_reason

    assert "Access token has expired" in await wait_for(reason, what="the pause")

    async def is_quiet() -> bool:
        return (await control.channel_stats("whatsapp")).active == 0

    await wait_for(is_quiet, what="what was in flight to be given back")
    status = json.loads(system.get("/status"))
    assert (status["reachable"], status["authenticated"]) == (True, True)  # an empty message triggers no fault
    system.sandbox.call("DELETE", "/faults")
    await control.resume_channel("whatsapp")
    await system.ended(blast, {"sent": 20})
    assert {outcome for outcome, _ in system.attempts() - before} == {"returned", "sent"}


async def test_a_lost_answer_is_sent_again_once(system: System) -> None:
    """A message accepted without a response is sent exactly once more, as the policy says."""
    system.sandbox.fault(channel="whatsapp", answer="drop", times=1)
    blast = await system.blast("b4", ["6281236000001"])
    await system.ended(blast, {"sent": 1})
    assert len(system.sandbox.delivered()) == 2


async def test_a_provider_that_is_away_costs_no_attempt(system: System) -> None:
    """While the provider is down no job is begun, so no message fails; soon after its return all are sent."""
    before = system.attempts()
    system.sandbox.kill()
    blast = await system.blast("b5", [f"6281237{number:05d}" for number in range(30)])

    def is_open() -> Any:
        return json.loads(system.get("/status"))["breaker"] == "open"

    await wait_for(is_open, what="the breaker")
    assert (await system.counts(blast)).keys() <= {"queued", "processing"}
    system.sandbox.start()
    await system.ended(blast, {"sent": 30}, 30.0)
    # only jobs begun on a connection that closed were returned
    assert (system.attempts() - before).keys() <= {("returned", "unavailable"), ("sent", "")}
