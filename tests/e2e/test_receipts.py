"""What providers report afterwards, from their webhooks to the API, through all services."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import urllib.request
from typing import Any

from shared.queue.connection import connect
from shared.queue.receipts import ReceiptInbox
from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.servers import wait_for

TOKEN, APP_SECRET = "a-token-that-only-providers-know", "the secret of the app at Meta"
VARIABLES = {"order_number": "INV-1", "amount": 1000, "due_date": "2026-02-01"}


def send(system: System, **recipient: str) -> str:
    """Send one message, and return its job id."""
    channel = "email" if "email" in recipient else "whatsapp"
    body = {"recipients": [{"name": "R", **recipient}], "channels": [channel], "templateId": "invoice_reminder"}
    (job_id,) = system.post("/api/messages/blast", {**body, "globalVariables": VARIABLES})["jobIds"]
    return str(job_id)


def story(system: System, job_id: str) -> dict[str, Any]:
    """Return a message as the API shows it."""
    found: dict[str, Any] = system.get(f"/api/messages/{job_id}")["message"]
    return found


def delivery(system: System, job_id: str) -> str:
    """Return what the provider reported last about a message, "" if nothing."""
    return str((story(system, job_id)["delivery"] or {}).get("status", ""))


def suppressions(system: System) -> list[tuple[str, str, str]]:
    """Return the address, source and scope of each suppression of email."""
    found = system.get("/api/suppressions?channel=email")["suppressions"]
    return [(one["address"], one["source"], one["scope"]) for one in found]


async def sent(system: System, job_id: str) -> dict[str, Any]:
    """Wait until a message is sent, and return it."""
    await wait_for(lambda: story(system, job_id)["status"] == "sent", 30, "the message to be sent")
    return story(system, job_id)


def brevo(event: str, message_id: str, **more: object) -> bytes:
    """Return an event of Brevo about a mail."""
    return json.dumps({"event": event, "message-id": message_id, "ts_epoch": time.time_ns() // 10**6, **more}).encode()


def meta(status: str, wamid: str) -> bytes:
    """Return a status of Meta about a message."""
    one = {"id": wamid, "status": status, "timestamp": str(int(time.time())), "recipient_id": "6281234567890"}
    return json.dumps({"object": "x", "entry": [{"changes": [{"value": {"statuses": [one]}}]}]}).encode()


def report(system: System, provider: str, body: bytes) -> int:
    """Call the hook as the provider does, with its signature, and return the status."""
    request = urllib.request.Request(f"http://127.0.0.1:{system.port}/hooks/{provider}/{TOKEN}", body)
    request.add_header("X-Hub-Signature-256", "sha256=" + hmac.digest(APP_SECRET.encode(), body, "sha256").hex())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.status)


async def test_reports_reach_the_message_and_the_suppressions(make_system: MakeSystem) -> None:
    """A bounce and a read message are shown, the bounced address is suppressed; kill -9 of the reader loses nothing."""
    hooks = {"KURIR_HOOK_TOKEN": TOKEN, "KURIR_META_APP_SECRET": APP_SECRET}
    system = make_system(KURIR_TIME_SCALE="0.25", KURIR_RATE_LIMIT="off", **hooks)
    system.up()
    password = (system.data / "redis_password").read_text().strip()
    redis = connect(f"redis://:{password}@127.0.0.1:{system.port + 79}/0")
    try:
        mail, chat = send(system, email="jane@example.com"), send(system, phone="+6281234567890")
        mail_id, wamid = (await sent(system, mail))["message_id"], (await sent(system, chat))["message_id"]
        reader = system.child("receipts")
        assert reader is not None
        reader.kill()
        reason = "550 5.1.1 <jane@example.com>: Recipient address rejected: User unknown"
        for body in (brevo("hard_bounce", mail_id, reason=reason), brevo("delivered", mail_id)):
            assert report(system, "brevo", body) == 200
        for body in (meta("read", wamid), meta("delivered", wamid), b"nonsense"):
            assert report(system, "meta", body) == 200
        await wait_for(lambda: delivery(system, mail) == "bounced", 60, "the bounce")
        await wait_for(lambda: delivery(system, chat) == "read", 60, "the read message")
        # the logger suppresses an address after it has shown the bounce
        found = await wait_for(lambda: suppressions(system), 60, "the suppression")
        assert found == [("jane@example.com", "bounce", "all")]
        (aside,) = await ReceiptInbox(redis).list_set_aside(10)
        assert (aside.source, aside.body) == ("meta", b"nonsense")
    finally:
        await redis.aclose()
    assert await asyncio.to_thread(system.interrupt) < 10
