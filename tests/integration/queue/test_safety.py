"""A Redis that would lose jobs: every service reports it, in its log, its health and a metric, while it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shared.queue.connection import connect
from shared.queue.safety import REASONS, SafetyCheck
from shared.redis_safety import RedisSafety
from shared.web import Health
from tests.servers import INTERNAL_SECRET, Kind, RedisServer, free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]
UNSAFE = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")


@contextmanager
def server(*options: str, kind: Kind = "valkey") -> Iterator[RedisServer]:
    """Run a separate server."""
    found = RedisServer(kind, options)
    found.start()
    try:
        yield found
    finally:
        found.destroy()


def url_of(found: RedisServer, user: str = "") -> str:
    return f"redis://{user}@127.0.0.1:{found.port}/0" if user else found.url


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_dangers_of_a_real_server_are_found(kind: Kind) -> None:
    """The check reads the current settings, whatever they were at the start."""
    with server(kind=kind) as found:
        redis = connect(found.url)
        check = SafetyCheck(redis)
        assert await check.run() == await check.run()
        assert not (await check.run()).dangers
        for name, value, reason in (
            ("appendfsync", "no", "fsync"),
            ("maxmemory-policy", "volatile-ttl", "eviction"),
            ("appendonly", "no", "append_only_file"),
        ):
            before = str((await redis.config_get(name))[name])
            await redis.config_set(name, value)
            assert [danger.reason for danger in (await check.run()).dangers] == [reason]
            await redis.config_set(name, before)
            assert not (await check.run()).dangers
        await redis.aclose()


async def test_a_user_with_few_rights_reads_info() -> None:
    """INFO is enough for all but appendfsync, which is not requested: a refusal looks like an attack."""
    with server(*UNSAFE) as found:
        found.command("ACL", "SETUSER", "few", "on", "nopass", "~*", "+info", "+ping")
        found.command("ACL", "SETUSER", "none", "on", "nopass", "~*", "+ping")
        few, none = connect(url_of(found, "few:x")), connect(url_of(found, "none:x"))
        check = SafetyCheck(few)
        for _ in range(3):
            seen = await check.run()
            assert [danger.reason for danger in seen.dangers] == ["eviction", "append_only_file"]
        await few.aclose()
        assert (await SafetyCheck(none).run()).unchecked == REASONS
        await none.aclose()
        admin = connect(found.url)
        refusals = [entry for entry in await admin.acl_log() if "config" in str(entry)]
        await admin.aclose()
    assert refusals == []


async def test_the_user_default_without_the_right_asks_once() -> None:
    """It does not ask again after a refusal."""
    with server() as found:
        found.command("ACL", "SETUSER", "admin", "on", "nopass", "~*", "+@all")
        found.command("ACL", "SETUSER", "default", "-config|get")
        redis, admin = connect(found.url), connect(url_of(found, "admin:x"))
        check = SafetyCheck(redis)
        for _ in range(3):
            assert (await check.run()).unchecked == ("fsync",)
        (refusal,) = [entry for entry in await admin.acl_log() if "config" in str(entry)]
        assert str(refusal["count"]) == "1"
        await redis.aclose()
        await admin.aclose()


async def test_a_server_without_config_is_reported_as_unchecked() -> None:
    """Managed services remove the command; INFO is still checked."""
    with server("--rename-command", "CONFIG", "") as found:
        redis = connect(found.url)
        seen = await SafetyCheck(redis).run()
        await redis.aclose()
    assert (seen.dangers, seen.unchecked) == ((), ("fsync",))


async def test_a_replaced_server_is_checked_again() -> None:
    """After a failover the new master may have other settings; while no master answers, the last result stays."""
    port = free_port()
    health, registry = Health("thing"), CollectorRegistry()
    redis = connect(f"redis://127.0.0.1:{port}/0")
    safety = RedisSafety(redis, health)
    registry.register(safety)
    assert not await safety.check()
    assert b"kurir_redis_unsafe{" not in generate_latest(registry)
    for options, unsafe in (((), False), (UNSAFE, True), ((), False)):
        one = RedisServer("valkey", options)
        one.port = port
        one.start()
        await wait_for(safety.check, what="the server to answer")
        one.destroy()
        assert not await safety.check()
        assert set(health.warnings()) == ({"redis_eviction", "redis_append_only_file"} if unsafe else set())
        text = generate_latest(registry).decode()
        assert f'kurir_redis_unsafe{{reason="eviction"}} {float(unsafe)}' in text
        assert 'kurir_redis_unsafe{reason="version"} 0.0' in text
    await redis.aclose()


SERVICES: dict[str, dict[str, str]] = {
    "ingest": {},
    "logger": {},
    "email_sender": {
        "KURIR_SMTP_URL": "smtp://127.0.0.1:1",
        "KURIR_EMAIL_FROM": "kurir@example.com",
        "KURIR_PUBLIC_URL": "https://kurir.example.com",
        "KURIR_SMTP_HELO": "kurir.example.com",
    },
    "whatsapp_sender": {
        "KURIR_QISCUS_URL": "http://127.0.0.1:1",
        "KURIR_QISCUS_APP_CODE": "app",
        "KURIR_QISCUS_CHANNEL_ID": "1",
        "KURIR_QISCUS_SECRET_KEY": "secret",
    },
}


@contextmanager
def running(service: str, redis_url: str, folder: Path) -> Iterator[int]:
    """Run a service as a process whose time constants are a twentieth; yields its port."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")} | SERVICES[service]
    env |= {
        "KURIR_REDIS_URL": redis_url,
        "KURIR_PORT": str(port),
        "KURIR_DATA_DIR": str(folder),
        "KURIR_TIME_SCALE": "0.05",
        "KURIR_SECRET": "a secret that signs links in tests",
        "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
        "KURIR_ENV": "production",
    }
    with (folder / "out").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{service}"], env=env, stdout=output, stderr=output, cwd=ROOT
        )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


def get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def health_of(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(port, "/health") or "{}")
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_reports_it_and_stays_healthy(service: str, tmp_path: Path) -> None:
    """From its start until the repair, without any restart; /health stays 200 throughout."""
    with server(*UNSAFE) as found, running(service, found.url, tmp_path) as port:
        await wait_for(lambda: health_of(port).get("warnings"), 30, "the warnings")
        health = health_of(port)
        assert health["status"] == "ok"
        assert set(health["warnings"]) == {"redis_eviction", "redis_append_only_file"}
        assert "allkeys-lru" in health["warnings"]["redis_eviction"]
        assert 'kurir_redis_unsafe{reason="append_only_file"} 1.0' in get(port, "/metrics")
        told = tmp_path / "out"
        await wait_for(lambda: len(re.findall("redis would lose messages", told.read_text())) == 2, what="the log")
        assert "set maxmemory-policy noeviction" in told.read_text()
        found.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        found.command("CONFIG", "SET", "appendonly", "yes")
        await wait_for(lambda: "warnings" not in health_of(port), 30, "the warnings to go")
        assert 'kurir_redis_unsafe{reason="append_only_file"} 0.0' in get(port, "/metrics")
        await wait_for(lambda: "redis is safe again" in told.read_text(), what="the log")
