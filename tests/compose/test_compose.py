"""The compose file in real use: build images, start containers, send a blast, kill a sender, restart everything.

`make test-compose` runs it; it takes minutes and needs a container engine, so `make test` leaves it out.
"""

from __future__ import annotations

import base64
import re
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.compose.stack import Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

SENDERS = 3
RECIPIENTS = 5000
PORTS = {
    "ingest": 3000, "grafana": 3000, "redis": 6379, "logger": 3030, "email_sender": 3010, "whatsapp_sender": 3020,
    "receipts": 3040, "webhook_sender": 3050, "sandbox": 3090, "prometheus": 9090, "alertmanager": 9093,
}  # fmt: skip
# the jobs that a killed sender had begun may arrive twice; at 50 a second it begins far fewer than its window allows
MOST_TWICE = 5 * 8
TEMPLATE: dict[str, Any] = {"templateId": "welcome", "globalVariables": {"start_url": "https://example.com/start"}}
SECRET = "whsec_" + base64.b64encode(b"a secret of the receiver's own..").decode()
# a user's own service in the network from which requests leave
SHOP = {
    "image": "${KURIR_IMAGE:-kurir:latest}",
    "command": ["python", "/examples/webhook_receiver.py", "8080"],
    # as the first process of a container, it would ignore SIGTERM
    "init": True,
    "environment": {"WEBHOOK_SECRET": SECRET, "WEBHOOK_HOST": "0.0.0.0"},
    "working_dir": "/tmp",
    "volumes": ["./examples:/examples:ro"],
    "networks": ["outside"],
}  # fmt: skip
# all processes except the first, which only forwards signals
KILL_SENDER = """
import os
for pid in filter(str.isdigit, os.listdir('/proc')):
    if pid != '1' and int(pid) != os.getpid():
        if b'services.email_sender' in open(f'/proc/{pid}/cmdline', 'rb').read():
            os.kill(int(pid), 9)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run the whole project with three email senders and the sandbox as provider."""
    found = Stack(tmp_path_factory.mktemp("compose"))
    found.make_secrets()
    found.set("KURIR_WEBHOOK_ALLOW", "shop")
    try:
        found.up(email_senders=SENDERS, build=True)
        yield found
    finally:
        found.destroy()


def _send(stack: Stack, name: str, channels: list[str]) -> str:
    recipients = [
        {"name": f"No {number}", "email": f"{name}{number}@example.com", "phone": f"+62812{number:08}"}
        for number in range(RECIPIENTS)
    ]
    answer = stack.call("POST", "/api/messages/blast", {**TEMPLATE, "channels": channels, "recipients": recipients})
    assert answer["totalMessages"] == RECIPIENTS * len(channels)
    return str(answer["blastId"])


def _blast(stack: Stack, blast_id: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.call("GET", f"/api/blasts/{blast_id}")["blast"]
    return found


def _wait_until_sent(stack: Stack, blast_id: str, messages: int) -> None:
    stack.wait(lambda: _blast(stack, blast_id)["state"].startswith("completed"), 900, f"blast {blast_id} to end")
    blast = _blast(stack, blast_id)
    assert (blast["state"], blast["counts"]["sent"]) == ("completed", messages)


def _mails(stack: Stack, blast_id: str) -> Counter[str]:
    """Count the delivered mails of a blast by recipient."""
    return Counter(
        mail["to"] for mail in stack.delivered() if mail["channel"] == "email" and mail["jobId"].startswith(blast_id)
    )


def test_a_blast_is_shared_by_all_senders(stack: Stack) -> None:
    """With 5,000 recipients and both channels, every message is sent once, and each of three senders does its share."""
    sent = 'sum by (instance) (kurir_attempts_total{job="email_sender",outcome="sent"})'
    before = stack.query(sent)
    blast_id = _send(stack, "shared", ["email", "whatsapp"])
    _wait_until_sent(stack, blast_id, 2 * RECIPIENTS)
    mails = _mails(stack, blast_id)
    assert (len(mails), mails.total()) == (RECIPIENTS, RECIPIENTS)

    def shares() -> dict[str, float] | None:
        found = {instance: count - before.get(instance, 0) for instance, count in stack.query(sent).items()}
        return found if sum(found.values()) == RECIPIENTS else None

    # Prometheus scrapes every 15 s
    by_sender = stack.wait(shares, 120, "Prometheus to have counted every mail")
    print("mails by sender:", by_sender)  # noqa: T201 - the point of running `make test-compose`
    assert len(by_sender) == SENDERS
    assert min(by_sender.values()) > RECIPIENTS / SENDERS / 2


def test_prometheus_sees_every_replica(stack: Stack) -> None:
    """Each replica is a separate target, found by DNS, and up."""
    up = stack.wait(
        lambda: len(found := stack.query('up{job="email_sender"} == 1')) == SENDERS and found,
        120,
        "three email senders",
    )
    print("email senders in Prometheus:", sorted(up))  # noqa: T201
    for job in ("ingest", "whatsapp_sender", "webhook_sender", "logger", "receipts", "alertmanager"):
        assert list(stack.query(f'up{{job="{job}"}}').values()) == [1], job


def test_a_killed_sender_loses_nothing(stack: Stack) -> None:
    """If one of three senders is killed in the middle of 5,000 mails, all arrive, few twice, and it restarts."""
    # slow enough that the blast is still running at the kill
    stack.call("PATCH", "/api/channels/email", {"rate": "50/1s"})
    blast_id = _send(stack, "killed", ["email"])
    stack.wait(lambda: _blast(stack, blast_id)["counts"].get("sent", 0) > 200, 120, "the blast to be under way")
    stack.execute("email_sender", "python", "-c", KILL_SENDER, index=2, check=False)
    at_the_kill = _blast(stack, blast_id)["counts"]["sent"]
    assert at_the_kill < RECIPIENTS, "the blast ended before the sender was killed"
    _wait_until_sent(stack, blast_id, RECIPIENTS)
    mails = _mails(stack, blast_id)
    print(f"killed after {at_the_kill} mails; {mails.total() - RECIPIENTS} arrived twice")  # noqa: T201
    assert len(mails) == RECIPIENTS
    assert mails.total() - RECIPIENTS <= MOST_TWICE

    def is_back() -> bool:
        return "alive" in stack.execute("email_sender", "echo", "alive", index=2, check=False)

    stack.wait(is_back, 120, "the killed sender to be started again")


def test_a_webhook_reaches_a_service_of_the_project(stack: Stack) -> None:
    """The example receiver in a container of its own gets signed events; only names that are allowed are accepted."""
    for url in ("http://redis:6379/", "http://logger:3030/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            stack.call("POST", "/api/webhooks", {"url": url, "events": ["*"], "secret": SECRET})
        with refused.value as answer:
            assert answer.code == 422, url
    stack.add_service("shop", SHOP)
    webhook = {"url": "http://shop:8080/kurir", "events": ["message.sent"], "secret": SECRET}
    path = f"/api/webhooks/{stack.call('POST', '/api/webhooks', webhook)['webhook']['id']}"
    blast_id = str(stack.call("POST", "/api/messages/blast", {**TEMPLATE, "channels": ["email"], "recipients": [
        {"name": "W", "email": "webhook@example.com"},
    ]})["blastId"])  # fmt: skip
    stack.wait(
        lambda: blast_id in stack.compose("logs", "shop", check=False), 120, "the event in the receiver's output"
    )
    shown = stack.wait(lambda: (found := _shown(stack, path))["lastDeliveredAt"] and found, 60, "its delivery")
    print("a webhook in the project's network:", shown)  # noqa: T201
    assert (shown["enabled"], shown["failingSince"]) == (True, None)
    assert stack.call("DELETE", path)["success"]


def _shown(stack: Stack, path: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.call("GET", path)["webhook"]
    return found


def test_data_survives_the_containers(stack: Stack) -> None:
    """The log, scheduled messages and templates created through the API survive `down` and `up`."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    later = {**TEMPLATE, "channels": ["email"], "recipients": [{"name": "L", "email": "later@example.com"}]}
    scheduled = stack.call("POST", "/api/messages/blast", {**later, "scheduledAt": tomorrow})["blastId"]
    now = stack.call("POST", "/api/messages/blast", later)["blastId"]
    _wait_until_sent(stack, now, 1)
    template = {"id": "kept", "name": "Kept", "type": "test", "channels": ["email"], "subject": "S", "text": "T"}
    stack.call("POST", "/api/templates", {**template, "category": "transactional", "variables": []})

    began = time.monotonic()
    stack.down()
    # senders may take ten minutes: a quick stop shows that the signal reaches them
    assert time.monotonic() - began < 120
    assert not stack.is_healthy()
    stack.up(email_senders=SENDERS)

    assert stack.call("GET", f"/api/logs/messages?blast={now}")["logs"][0]["status"] == "sent"
    assert (blast := _blast(stack, now))["state"] == "completed", blast
    assert _blast(stack, scheduled)["state"] == "scheduled"
    assert stack.call("GET", "/api/messages/stats")["stats"]["scheduled"] == 1
    assert stack.call("GET", "/api/templates/kept")["template"]["name"] == "Kept"


def test_nothing_but_ingest_and_grafana_is_published(stack: Stack) -> None:
    """Redis, the logger and all other services are reachable only from inside."""
    asked = {name: port for name, port in PORTS.items() if name in stack.services}
    said = {name: stack.compose("port", name, str(port), check=False) for name, port in asked.items()}
    published = {name for name, text in said.items() if re.search(r"(^|:)[1-9]\d+\s*$", text)}
    assert published == {"ingest", "grafana"} & set(asked), said


def test_containers_are_locked_down(stack: Stack) -> None:
    """A service runs unprivileged on a read-only file system, and does not import from its working folder."""
    said = stack.execute(
        "email_sender", "sh", "-c", "id -u; touch /opt/kurir/x 2>&1; python -c 'import sys; print(sys.flags.safe_path)'"
    )
    assert "10001" in said
    assert "Read-only file system" in said
    assert "True" in said


@pytest.mark.parametrize("name", ["api_keys", "grafana_password"])
def test_a_missing_secret_stops_the_start(tmp_path: Path, name: str) -> None:
    """An empty secret stops the start with one line that names it and the remedy; Redis is not started."""
    stack = Stack(tmp_path)
    stack.make_secrets()
    secret = stack.folder / "secrets" / name
    secret.chmod(0o644)
    secret.write_text("")
    try:
        said = stack.compose("up", "-d", "check-secrets", "redis", check=False)
        said += stack.compose("logs", "check-secrets", check=False)
        assert f"kurir: secrets/{name} is empty or shorter than 16 characters: run deploy/make-secrets.sh" in said
        assert "PONG" not in stack.execute("redis", "redis-cli", "ping", check=False)
    finally:
        stack.destroy()
