"""Ten thousand recipients in one POST, sent to a mail server that shares no code with Kurir."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.smtp_sink import SmtpSink
from tests.servers import wait_for

_COUNT = 10_000
# takes several times as long to send as the system takes to stop
_SECOND = 4_000
_TIMEOUT_S = 120.0


@pytest.mark.timeout(300)
async def test_ten_thousand_recipients_arrive_exactly_once(make_system: MakeSystem, smtp_sink: SmtpSink) -> None:
    """Each mail arrives once, the statistics agree, and Ctrl-C in the middle of a second blast loses nothing."""
    env = {"KURIR_SMTP_URL": smtp_sink.url, "KURIR_EMAIL_FROM": "Shop <shop@example.com>", "KURIR_EMAIL_RATE": "off"}
    system = make_system(**env)
    system.up("--no-sandbox")
    answer = system.post("/api/messages/blast", _blast("first", _COUNT))
    assert answer["totalMessages"] == _COUNT
    await wait_for(lambda: _sent(system.get("/api/logs/messages/stats")) == _COUNT, _TIMEOUT_S, "all to be sent")
    assert smtp_sink.deliveries() == Counter({f"first{n}@example.com": 1 for n in range(_COUNT)})

    # if this process stands still for seconds, nothing is left to be sent when the system stops: then once more
    for turn in range(1, 5):
        second = system.post("/api/messages/blast", _blast(f"second{turn}-", _SECOND))
        assert system.interrupt() < 10
        assert system.process.returncode == 0
        wanted = _COUNT + turn * _SECOND
        is_middle = smtp_sink.deliveries().total() < wanted
        system.up("--no-sandbox")
        if is_middle:
            break
    assert is_middle, "the system stopped too late to prove anything"
    await wait_for(lambda: _sent(system.get("/api/logs/messages/stats")) == wanted, _TIMEOUT_S, "the rest")
    assert set(smtp_sink.deliveries().values()) == {1}
    assert system.get(f"/api/blasts/{second['blastId']}")["blast"]["state"] == "completed"


def _blast(label: str, count: int) -> dict[str, object]:
    variables = {"order_number": "INV-1", "amount": 1000, "due_date": "2026-02-01"}
    recipients = [{"name": f"R {n}", "email": f"{label}{n}@example.com"} for n in range(count)]
    return {
        "recipients": recipients,
        "channels": ["email"],
        "templateId": "invoice_reminder",
        "globalVariables": variables,
    }


def _sent(answer: dict[str, Any]) -> int:
    return int(answer["stats"]["sent"])
