"""The override for a cluster in real use: six nodes of Redis carry blasts, and find each other after a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from tests.compose.stack import Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

OVERRIDE = "docker-compose.cluster.yml"
NODES = ["redis", *(f"redis-{number}" for number in range(2, 7))]
# six chunks of 500 for each channel, in as many partitions; where a disk syncs slowly, six nodes take their time
RECIPIENTS = 3000
TEMPLATE: dict[str, Any] = {"templateId": "welcome", "globalVariables": {"start_url": "https://example.com/start"}}
CHANNELS = ["email", "whatsapp"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run the whole project with the override, two email senders, and the sandbox as provider."""
    found = Stack(tmp_path_factory.mktemp("compose"), OVERRIDE)
    found.make_secrets()
    # the sandbox need not be slow here
    for channel in ("EMAIL", "WHATSAPP"):
        found.set(f"KURIR_{channel}_RATE", "5000/1s")
    try:
        found.up(email_senders=2, build=True)
        yield found
    finally:
        found.destroy()


def _send(stack: Stack, name: str) -> str:
    recipients = [
        {"name": f"No {number}", "email": f"{name}{number}@example.com", "phone": f"+62812{number:08}"}
        for number in range(RECIPIENTS)
    ]
    answer = stack.call("POST", "/api/messages/blast", {**TEMPLATE, "channels": CHANNELS, "recipients": recipients})
    return str(answer["blastId"])


def _wait_until_sent(stack: Stack, blast_id: str) -> None:
    def blast() -> dict[str, Any]:
        found: dict[str, Any] = stack.call("GET", f"/api/blasts/{blast_id}")["blast"]
        return found

    stack.wait(lambda: blast()["state"].startswith("completed"), 900, f"blast {blast_id} to end")
    assert (blast()["state"], blast()["counts"]["sent"]) == ("completed", 2 * RECIPIENTS)


def _assert_delivered_once(stack: Stack, blast_id: str) -> None:
    jobs = Counter(one["jobId"] for one in stack.delivered() if one["jobId"].startswith(blast_id))
    assert (len(jobs), jobs.total()) == (2 * RECIPIENTS, 2 * RECIPIENTS)


def _ask(stack: Stack, node: str, command: str) -> list[str]:
    """Return the lines of a node's answer to its administrator."""
    redis = f"REDISCLI_AUTH=$(cat /run/secrets/redis_admin_password) redis-cli --user admin --no-auth-warning {command}"
    return stack.execute(node, "sh", "-c", redis).split("\n")


def _works_of(stack: Stack) -> dict[str, int]:
    """Return how many scripts each master has run."""
    found = {}
    for node in NODES:
        if any(line.strip() == "role:master" for line in _ask(stack, node, "INFO replication")):
            calls = [line for line in _ask(stack, node, "INFO commandstats") if line.startswith("cmdstat_evalsha:")]
            found[node] = sum(int(line.partition("calls=")[2].partition(",")[0]) for line in calls)
    return found


def test_a_blast_goes_through_every_master(stack: Stack) -> None:
    """Every recipient gets one message in each channel; the queue works on all three masters."""
    services = yaml.safe_load((stack.folder / OVERRIDE).read_text())["services"]
    assert set(NODES) < set(services) <= set(stack.services)
    blast_id = _send(stack, "first")
    _wait_until_sent(stack, blast_id)
    _assert_delivered_once(stack, blast_id)
    works = _works_of(stack)
    print("scripts run by each master:", works)  # noqa: T201 - the point of running `make test-compose`
    assert len(works) == 3
    assert min(works.values()) > sum(works.values()) / 10


def test_the_cluster_survives_new_containers(stack: Stack) -> None:
    """After `down` and `up` the nodes have other addresses; they find each other, and nothing is lost."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    later = {**TEMPLATE, "channels": ["email"], "recipients": [{"name": "L", "email": "later@example.com"}]}
    scheduled = stack.call("POST", "/api/messages/blast", {**later, "scheduledAt": tomorrow})["blastId"]
    stack.down()
    assert not stack.is_healthy()
    stack.up(email_senders=2)
    assert stack.call("GET", f"/api/blasts/{scheduled}")["blast"]["state"] == "scheduled"
    assert stack.call("GET", "/api/messages/stats")["stats"]["scheduled"] == 1
    blast_id = _send(stack, "second")
    _wait_until_sent(stack, blast_id)
    _assert_delivered_once(stack, blast_id)
