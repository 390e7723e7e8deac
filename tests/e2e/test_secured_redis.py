"""A secured Redis: the whole system over TLS, as a user with only the rights that the services need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.e2e.webhook_endpoint import client_endpoint
from tests.servers import RedisServer, free_port, wait_for

ACL = Path(__file__).resolve().parents[2] / "deploy" / "redis" / "users.acl"
PASSWORD, ADMIN_PASSWORD = "p@ss:w/rd-of-kurir", "password-of-the-admin"
RECIPIENTS = 40


class SecuredRedis:
    """Debian's Redis with the users of deploy/redis and a certificate from its own authority."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self.tls_port = free_port()
        key = folder / "server.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(key))
        users = folder / "users.acl"
        users.write_text(_with_hashes(ACL.read_text()))
        tls = ("--tls-port", str(self.tls_port), "--tls-cert-file", str(key), "--tls-key-file", str(key))
        only_ours = ("--tls-ca-cert-file", str(self.ca_file), "--tls-auth-clients", "no", "--aclfile", str(users))
        self.server = RedisServer("redis", [*tls, *only_ours])

    def client(self, user: str, password: str) -> redis.Redis:
        """Connect as one of its users, with a client that is independent of Kurir."""
        return redis.Redis(
            port=self.tls_port, username=user, password=password, ssl=True, ssl_ca_certs=str(self.ca_file),
            decode_responses=True,
        )  # fmt: skip

    def refusals(self) -> list[tuple[str, str, str]]:
        """Return why, what and to whom it refused something."""
        admin = self.client("admin", ADMIN_PASSWORD)
        try:
            return [(str(entry["reason"]), str(entry["object"]), str(entry["username"])) for entry in admin.acl_log()]
        finally:
            admin.close()


def _with_hashes(text: str) -> str:
    for name, password in (("KURIR_SHA256", PASSWORD), ("ADMIN_SHA256", ADMIN_PASSWORD)):
        text = text.replace(name, hashlib.sha256(password.encode()).hexdigest())
    return text


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[SecuredRedis]:
    """Run one."""
    found = SecuredRedis(tmp_path)
    found.server.start()
    yield found
    found.server.destroy()


async def test_the_system_runs_under_the_least_rights(make_system: MakeSystem, secured: SecuredRedis) -> None:
    """Over TLS and with the documented ACL line, a blast through both channels completes and Redis refuses nothing."""
    system = _system(make_system, secured)
    system.up("--redis-url", f"rediss://kurir@localhost:{secured.tls_port}/0")
    recipients = [
        {"name": f"No {number}", "email": f"r{number}@example.com", "phone": f"+62812345{number:05}"}
        for number in range(RECIPIENTS)
    ]
    common = {"templateId": "welcome", "globalVariables": {"start_url": "https://example.com/start"}}
    body = {**common, "channels": ["email", "whatsapp"], "recipients": recipients}
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    flaky = {"name": "F", "email": "flaky@example.com"}
    high = {**common, "channels": ["email"], "recipients": [flaky], "priority": 0}
    later = {**high, "recipients": [{"name": "L", "email": "late@example.com"}], "scheduledAt": in_an_hour}
    bulk = {**body, "priority": 2}
    system.post("/api/channels/email/pause", {})
    blasts = [system.post("/api/messages/blast", each)["blastId"] for each in (body, high, bulk, later)]
    system.post(f"/api/blasts/{blasts[3]}/cancel", {})
    # pause the channel first, so that the blast cannot end between its pause and its resume
    blast = f"/api/blasts/{blasts[2]}"
    for path in ("/api/channels/email/pause", f"{blast}/pause", f"{blast}/resume", "/api/channels/email/resume"):
        system.post(path, {})

    def all_ended() -> bool:
        states = {system.get(f"/api/blasts/{blast}")["blast"]["state"] for blast in blasts}
        return states <= {"completed", "completed_with_failures", "cancelled"}

    await wait_for(all_ended, 60, "all blasts to end")
    assert len(system.delivered()) == 4 * RECIPIENTS + 1

    assert secured.refusals() == [], "Redis refused something that a service needs"
    admin = secured.client("admin", ADMIN_PASSWORD)
    kurir: Any = secured.client("kurir", PASSWORD)
    for command in ("FLUSHALL", "KEYS *", "CONFIG GET dir", "SHUTDOWN", "GET other:key", "ACL LIST"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            kurir.execute_command(*command.split())
    for client in (admin, kurir):
        client.close()


async def test_webhooks_work_under_the_least_rights(make_system: MakeSystem, secured: SecuredRedis) -> None:
    """An endpoint is served, switched off and on, and deleted with its keys, and Redis refuses nothing."""
    system = _system(make_system, secured)
    system.up("--redis-url", f"rediss://kurir@localhost:{secured.tls_port}/0")
    common = {"templateId": "welcome", "globalVariables": {"start_url": "https://example.com/start"}}
    admin = secured.client("admin", ADMIN_PASSWORD)

    def send(count: int) -> None:
        recipients = [{"name": f"No {number}", "email": f"r{number}@example.com"} for number in range(count)]
        system.post("/api/messages/blast", {**common, "channels": ["email"], "recipients": recipients})

    with client_endpoint() as endpoint:
        added = system.post("/api/webhooks", {"url": endpoint.url, "events": ["message.sent"]})
        path = f"/api/webhooks/{added['webhook']['id']}"
        send(20)
        await wait_for(lambda: len(endpoint.jobs("message.sent")) == 20, 60, "the events")
        system.send("PATCH", path, {"enabled": False})
        send(10)
        system.send("PATCH", path, {"enabled": True})
        await wait_for(lambda: len(endpoint.jobs("message.sent")) == 30, 60, "the events since")
        assert list(admin.scan_iter("{webhook.*")) != []
        system.send("DELETE", path, {})
        await wait_for(lambda: not list(admin.scan_iter("{webhook.*")), 60, "the end of its keys")
    admin.close()
    assert secured.refusals() == [], "Redis refused something that a service needs"


def _system(make_system: MakeSystem, secured: SecuredRedis) -> System:
    return make_system(
        KURIR_WEBHOOK_ALLOW="127.0.0.1",
        KURIR_REDIS_PASSWORD=PASSWORD,
        KURIR_REDIS_CA_FILE=str(secured.ca_file),
        KURIR_EMAIL_RATE="off",
        KURIR_WHATSAPP_RATE="off",
    )
