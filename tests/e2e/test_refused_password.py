"""A whole system with a wrong password for Debian's postfix, diagnosed and fixed only through the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.integration.email_sender.postfix import Postfix
from tests.servers import wait_for

COUNT = 25


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    """Run a postfix with STARTTLS and AUTH."""
    server = Postfix()
    server.start()
    yield server
    server.stop()


def email(system: System) -> dict[str, Any]:
    """Return the channel as `GET /api/channels` shows it."""
    (channel,) = [one for one in system.get("/api/channels")["channels"] if one["name"] == "email"]
    return dict(channel)


async def test_a_refused_password_pauses_until_it_is_fixed_and_resumed(
    make_system: MakeSystem, postfix: Postfix
) -> None:
    """535 pauses the channel with its reason and loses nothing; after `POST …/resume` every message arrives once."""
    system = make_system(
        KURIR_SMTP_URL=postfix.url("new"),
        KURIR_SMTP_CA_FILE=str(postfix.ca_file),
        KURIR_EMAIL_FROM="news@example.com",
        KURIR_EMAIL_RATE="off",
    )
    system.up("--no-sandbox")
    recipients = [{"name": f"Person {index}", "email": f"user+{index}@example.com"} for index in range(COUNT)]
    values = {"order_number": "INV-1", "amount": 1000, "due_date": "2027-01-31"}
    blast = {"templateId": "invoice_reminder", "channels": ["email"], "globalVariables": values}
    blast_id = system.post("/api/messages/blast", {**blast, "recipients": recipients})["blastId"]

    await wait_for(lambda: "535 5.7.8" in (email(system)["paused"] or ""), what="the pause with its reason")
    await wait_for(lambda: email(system)["stats"]["active"] == 0, what="what was begun to be given back")
    assert email(system)["stats"]["waiting"] == COUNT

    postfix.set_password("new")
    system.post("/api/channels/email/resume", {})
    await wait_for(lambda: system.get(f"/api/blasts/{blast_id}")["blast"]["state"] == "completed", 30, "all to be sent")
    await wait_for(lambda: len(postfix.mailbox()) == COUNT, what="each message in the mailbox, once")
