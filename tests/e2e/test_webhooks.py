"""Webhooks through the whole system: what happens to messages reaches the client, signed, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.e2e.webhook_endpoint import ClientEndpoint, client_endpoint
from tests.servers import free_port, wait_for
from tests.unit.cli.test_api_client import run

VARIABLES = {"order_number": "INV-1", "amount": 1000, "due_date": "2026-02-01"}
PATH = "/api/webhooks"
_SOON_S = 60.0
EXAMPLE = Path(__file__).parents[2] / "examples" / "webhook_receiver.py"


@pytest.fixture
def system(make_system: MakeSystem) -> System:
    """A system in the sandbox whose webhooks may reach this machine.

    It waits longer for an answer than this process may stand still: an event whose answer is late comes again.
    """
    patient = {"KURIR_WEBHOOK_TIMEOUT": "2m", "KURIR_WEBHOOK_CONNECT_TIMEOUT": "2m"}
    allowed = {"KURIR_RATE_LIMIT": "off", "KURIR_WEBHOOK_ALLOW": "127.0.0.0/8"}
    system = make_system(KURIR_TIME_SCALE="0.25", **allowed, **patient)
    system.up()
    return system


@pytest.fixture
def endpoint() -> Iterator[ClientEndpoint]:
    with client_endpoint() as endpoint:
        yield endpoint


def add(system: System, url: str, **fields: Any) -> tuple[str, str]:
    """Add a webhook; return its id and its secret."""
    answer = system.post(PATH, {"url": url, "events": ["*"], **fields})
    return str(answer["webhook"]["id"]), str(answer["secret"])


def mail(name: str, number: int = 0) -> dict[str, str]:
    return {"name": "R", "email": f"{name}+{number}@example.com", "reference": f"order {number}"}


def blast(system: System, recipients: list[dict[str, str]], channel: str = "email", key: str = "", **terms: Any) -> str:
    """Send a blast and return its id."""
    body = {"recipients": recipients, "channels": [channel], "templateId": "invoice_reminder", **terms}
    headers = {"Idempotency-Key": key} if key else {}
    answer = system.send("POST", "/api/messages/blast", {**body, "globalVariables": VARIABLES}, headers)
    return str(answer["blastId"])


def jobs(blast_id: str, *indexes: int, channel: str = "email") -> set[str]:
    return {f"{blast_id}:{index}:{channel}" for index in indexes}


def show(system: System, webhook: str) -> dict[str, Any]:
    found: dict[str, Any] = system.get(f"{PATH}/{webhook}")["webhook"]
    return found


async def test_every_event_of_a_blast_arrives(system: System, endpoint: ClientEndpoint) -> None:
    """Each message's end and what receipts say about it, the blast's end, pauses and suppressions, each signed."""
    _, secret = add(system, endpoint.url)
    people = [mail("budi", 0), mail("bounce", 1), mail("late-bounce", 2), mail("complaint", 3), mail("siti", 4)]
    sent = blast(system, people, reference="november", metadata={"tenant": 7})
    chat = blast(system, [{"name": "W", "phone": "+6281224770001"}], "whatsapp")
    late = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    cancelled = blast(system, [mail("wati", 0)], scheduledAt=late)
    system.post(f"/api/blasts/{cancelled}/cancel", {})
    system.post("/api/channels/email/pause", {"reason": "maintenance"})
    system.post("/api/channels/email/resume", {})
    system.post("/api/suppressions", {"channel": "email", "address": "stop@example.com", "reason": "asked"})
    expected = {
        "message.sent": jobs(sent, 0, 2, 3, 4) | jobs(chat, 0, channel="whatsapp"),
        "message.failed": jobs(sent, 1),
        "message.cancelled": jobs(cancelled, 0),
        "message.bounced": jobs(sent, 2),
        "message.complained": jobs(sent, 3),
        "message.delivered": jobs(chat, 0, channel="whatsapp"),
        "message.read": jobs(chat, 0, channel="whatsapp"),
    }
    for kind, about in expected.items():
        await wait_for(partial(has_jobs, endpoint, kind, about), _SOON_S, f"{kind} of {about}")
    await wait_for(lambda: {*of(endpoint, "blast.completed", "blastId")} >= {sent, chat}, _SOON_S)
    await wait_for(lambda: endpoint.events("channel.resumed"), _SOON_S)
    await wait_for(lambda: "asked" in of(endpoint, "suppression.added", "reason"), _SOON_S)
    endpoint.check_signatures([secret])
    (failed,) = endpoint.events("message.failed")
    assert failed["data"]["error"]["code"].startswith("550")
    first = next(one for one in endpoint.events("message.sent") if one["data"]["jobId"] == f"{sent}:0:email")
    assert (first["data"]["reference"], first["data"]["blastReference"]) == ("order 0", "november")
    assert first["data"]["metadata"] == {"tenant": 7}
    whole = " ".join(request.body.decode() for request in endpoint.arrived)
    assert not any(word in whole for word in ("budi+0", "bounce+1", "late-bounce", "6281224770001", "stop@"))
    (done,) = [one for one in endpoint.events("blast.completed") if one["data"]["blastId"] == sent]
    assert (done["data"]["state"], done["data"]["channels"]["email"]["sent"]) == ("completed_with_failures", 4)
    assert of(endpoint, "channel.paused", "reason") == ["maintenance"]
    ids = [one["id"] for one in endpoint.events()]
    assert len(ids) == len(set(ids))


def has_jobs(endpoint: ClientEndpoint, kind: str, about: set[str]) -> bool:
    return endpoint.jobs(kind) == about


def of(endpoint: ClientEndpoint, kind: str, name: str) -> list[Any]:
    """Return a field of all events of a type."""
    return [one["data"].get(name) for one in endpoint.events(kind)]


async def test_nothing_is_missed_while_services_die(system: System, endpoint: ClientEndpoint) -> None:
    """Kill -9 of the webhook sender, the logger and Redis, an endpoint that fails at first; each event has one id."""
    endpoint.answers += [500]
    webhook, secret = add(system, endpoint.url, events=["message.sent"], batch={"max": 20, "withinMs": 200})
    every: set[str] = set()
    for service in ("webhook_sender", "logger", "redis", "webhook_sender"):
        people = [mail("budi", number) for number in range(100)]
        blast_id = await wait_for(
            partial(accepted, system, people, f"before {len(every)}"), 60, "the blast's acceptance"
        )
        every |= jobs(blast_id, *range(100))
        process = await wait_for(partial(system.child, service), 30, service)
        assert process is not None
        process.kill()
    await wait_for(lambda: endpoint.jobs("message.sent") == every, 120, "every message that was sent")
    endpoint.check_signatures([secret])
    by_job: dict[str, set[str]] = {}
    for one in endpoint.events():
        by_job.setdefault(one["data"]["jobId"], set()).add(one["id"])
    assert all(len(ids) == 1 for ids in by_job.values())
    await wait_for(lambda: show(system, webhook)["waiting"] == 0, 60, "nothing to wait")
    assert show(system, webhook)["enabled"]


def accepted(system: System, recipients: list[dict[str, str]], key: str) -> str:
    """Send a blast under an idempotency key; return its id, "" where the system cannot accept it now."""
    try:
        return blast(system, recipients, key=key)
    except OSError:
        return ""


async def test_a_disabled_webhook_misses_nothing_and_can_be_replayed(system: System, endpoint: ClientEndpoint) -> None:
    """What happens while it is disabled arrives once it is enabled; a replay has the same ids."""
    webhook, secret = add(system, endpoint.url, events=["message.sent"])
    began = datetime.now(UTC) - timedelta(seconds=1)
    first = blast(system, [mail("budi", 0)])
    await wait_for(lambda: endpoint.jobs("message.sent") == jobs(first, 0), _SOON_S)
    system.send("PATCH", f"{PATH}/{webhook}", {"enabled": False})
    second = blast(system, [mail("budi", 1)])
    await wait_for(lambda: show(system, webhook)["waiting"] == 1, _SOON_S)
    assert endpoint.jobs("message.sent") == jobs(first, 0)
    system.send("PATCH", f"{PATH}/{webhook}", {"enabled": True})
    await wait_for(lambda: endpoint.jobs("message.sent") == jobs(first, 0) | jobs(second, 0), _SOON_S)
    before = sorted(one["id"] for one in endpoint.events())
    again = system.post(f"{PATH}/{webhook}/replay", {"from": began.isoformat()})
    assert again["events"] == 2
    await wait_for(lambda: len(endpoint.events()) == 4, _SOON_S, "both events once more")
    assert sorted(one["id"] for one in endpoint.events()) == sorted(before * 2)
    endpoint.check_signatures([secret])


async def test_a_rotation_signs_with_both_secrets(system: System, endpoint: ClientEndpoint) -> None:
    """Within seconds, when senders have heard of it; test events show it, and the list of deliveries shows them."""
    webhook, old = add(system, endpoint.url, events=["message.sent"])
    new = str(system.post(f"{PATH}/{webhook}/rotate", {})["secret"])
    tests: list[str] = []

    async def is_signed_by_both() -> bool:
        tests.append(system.post(f"{PATH}/{webhook}/test", {})["deliveryId"])
        await wait_for(lambda: len(endpoint.events("webhook.test")) == len(tests), _SOON_S)
        return endpoint.arrived[-1].signed_by(new)

    await wait_for(is_signed_by_both, _SOON_S)
    endpoint.check_signatures([old])
    assert [one.webhook_id for one in endpoint.arrived] == tests
    wanted = sorted((one, "delivered", 204) for one in tests)
    await wait_for(lambda: sorted(delivered(system, webhook)) == wanted, _SOON_S)


def delivered(system: System, webhook: str) -> list[tuple[str, str, int]]:
    """Return the ids, the statuses and the answers of a webhook's deliveries."""
    rows = system.get(f"{PATH}/{webhook}/deliveries")["deliveries"]
    return [(one["id"], one["status"], one["responseStatus"]) for one in rows]


async def test_an_endpoint_that_is_gone_is_disabled(system: System, endpoint: ClientEndpoint) -> None:
    """410 disables it at once, and the other webhooks are told; they are not held up."""
    with client_endpoint() as gone:
        gone.answers += [410] * 1000
        webhook, _ = add(system, gone.url, events=["message.sent"])
        add(system, endpoint.url)
        sent = blast(system, [mail("budi", 0)])
        await wait_for(lambda: of(endpoint, "webhook.disabled", "webhookId") == [webhook], _SOON_S)
        # two events of one endpoint may be on their way at once
        await wait_for(lambda: endpoint.jobs("message.sent") == jobs(sent, 0), _SOON_S)
        await wait_for(lambda: show(system, webhook)["waiting"] == 1, _SOON_S, "the event to wait")
        found = show(system, webhook)
        assert (found["enabled"], "410" in found["disabledReason"]) == (False, True)


async def test_the_commands_and_the_example_receiver(system: System, tmp_path: Path) -> None:
    """A webhook is added, tested, listed and removed from a shell; the example prints the events once each."""
    port, output = free_port(), tmp_path / "printed"
    added = await kurir(system, "add", f"http://127.0.0.1:{port}/", "-e", "message.sent", "--batch", "10")
    webhook, secret = added.split()[0], added.splitlines()[1]
    command, env = [sys.executable, str(EXAMPLE), str(port)], {"WEBHOOK_SECRET": secret}
    with output.open("wb") as out:
        receiver = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=out, stderr=out)
    try:
        sent = blast(system, [mail("budi", 0)])
        await kurir(system, "test", webhook)
        await wait_for(lambda: sent in output.read_text() and "webhook.test" in output.read_text(), _SOON_S)
        await wait_for(lambda: len(accepted_deliveries(system, webhook)) == 2, _SOON_S)
        lines = output.read_text().splitlines()
        await kurir(system, "replay", webhook, "--from", "2020-01-01T00:00:00Z")
        await wait_for(lambda: len(accepted_deliveries(system, webhook)) == 3, _SOON_S)
        assert (await kurir(system, "deliveries", webhook)).count("delivered") == 3
        printed = [line for line in output.read_text().splitlines() if "message.sent" in line]
        assert printed == [line for line in lines if "message.sent" in line]
        assert await kurir(system, "disable", webhook) == f"{webhook} is disabled\n"
        assert "disabled" in await kurir(system, "list")
        assert await kurir(system, "remove", webhook)
        assert webhook not in await kurir(system, "list")
    finally:
        receiver.terminate()
        receiver.wait()


def accepted_deliveries(system: System, webhook: str) -> list[tuple[str, str, int]]:
    return [one for one in delivered(system, webhook) if one[1] == "delivered"]


async def kurir(system: System, *words: str) -> str:
    """Run `kurir webhooks` in this process, since each of its own takes a second to start; return what it prints."""
    url = f"http://127.0.0.1:{system.port}"
    done = await asyncio.to_thread(run, "webhooks", *words, "--url", url)
    assert done.exit_code == 0, done.output
    return str(done.stdout)
