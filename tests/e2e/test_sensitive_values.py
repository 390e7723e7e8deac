"""A one-time password is delivered, and is stored nowhere: not in a log, a file or an answer."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from collections import Counter
from contextlib import closing, suppress
from typing import Any

import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.servers import wait_for

CODES = ("7319460582", "8842017365", "9150273846", "6620184973")
ENDED_S = 60.0


def _fault(system: System, fault: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{system.port + 90}/faults"
    request = urllib.request.Request(
        url, json.dumps(fault).encode(), {"Content-Type": "application/json"}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=10).close()


def _text(system: System, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port}{path}", timeout=30) as answer:
        return str(answer.read().decode())


async def _ended(system: System, blast_id: str) -> dict[str, Any]:
    def over() -> dict[str, Any]:
        blast: dict[str, Any] = system.get(f"/api/blasts/{blast_id}")["blast"]
        return blast if blast["state"].startswith("completed") else {}

    return await wait_for(over, ENDED_S, "the blast to end")


def _logged(system: System) -> Counter[str]:
    return Counter(row["status"] for row in system.get("/api/logs/messages")["logs"])


def _at_rest(system: System) -> list[tuple[str, str]]:
    """Return the files of the data folder that contain a code, except the sandbox's deliveries."""
    found = {}
    for path in system.data.rglob("*"):
        # the server and the log remove files of theirs at any time
        with suppress(FileNotFoundError):
            if path.is_file() and "sandbox" not in path.parts:
                found[str(path)] = path.read_bytes()
    assert any("appendonly" in path for path in found)
    return [(path, code) for path, content in found.items() for code in CODES if code.encode() in content]


@pytest.mark.timeout(300)
async def test_a_code_is_delivered_and_kept_nowhere(make_system: MakeSystem) -> None:
    """It is sent, refused with a quote of it, kept as a dead letter and sent again, also as a global variable."""
    system = make_system(KURIR_EMAIL_RATE="off", KURIR_WHATSAPP_RATE="off", KURIR_LOG_LEVEL="debug")
    system.up()
    quoting = f"554 5.7.1 refused: {CODES[1]} looks like spam"
    _fault(system, {"channel": "email", "answer": quoting, "at": "data", "times": 1})
    refused = {"name": "B", "email": "refused@example.com", "variables": {"code": CODES[1]}}
    recipients = [
        {"name": "A", "email": "fine@example.com", "phone": "+6281224770000", "variables": {"code": CODES[0]}},
        {"name": "C", "email": "flaky@example.com", "phone": "+6281200132000", "variables": {"code": CODES[2]}},
    ]
    otp = {"templateId": "otp", "channels": ["email"]}
    first = system.post("/api/messages/blast", {**otp, "recipients": [refused]})["blastId"]
    assert (await _ended(system, first))["counts"]["failed"] == 1
    both = {**otp, "channels": ["email", "whatsapp"], "recipients": recipients}
    everybody = {"globalVariables": {"code": CODES[3]}, "recipients": [{"name": "D", "email": "all@example.com"}]}
    for body in (both, {**otp, **everybody}):
        await _ended(system, system.post("/api/messages/blast", body)["blastId"])

    # the log is behind what Redis says of the blasts
    await wait_for(lambda: _logged(system) == {"sent": 4, "failed": 2}, ENDED_S, "the rows")
    rows = {row["recipient_email"]: row for row in system.get("/api/logs/messages?channel=email")["logs"]}
    assert rows["refused@example.com"]["error_message"].endswith("refused: *** looks like spam")
    assert rows["fine@example.com"]["subject"] == "*** is your code"
    assert _at_rest(system) == []

    assert system.post(f"/api/blasts/{first}/retry-failed", {})["reopened"] == 1
    await wait_for(lambda: any("refused@" in json.dumps(one) for one in system.delivered()), ENDED_S, "the dead letter")
    await wait_for(lambda: _logged(system) == {"sent": 5, "failed": 1}, ENDED_S, "its end")
    delivered = json.dumps(system.delivered())
    assert [code for code in CODES if code not in delivered] == [], delivered

    jobs = [row["job_id"] for row in system.get("/api/logs/messages")["logs"]]
    paths = ["/api/logs/api", "/api/logs/system", "/api/logs/messages?format=csv", "/api/dashboard", "/api/blasts"]
    shown = "".join(_text(system, path) for path in [*paths, *(f"/api/messages/{job}" for job in jobs)])
    assert not [code for code in CODES if code in shown]
    assert '"***' in shown
    system.interrupt()
    assert _at_rest(system) == []
    assert not [code for code in CODES if code in system.output()]
    with closing(sqlite3.connect(system.data / "logs.db")) as database:
        assert database.execute("SELECT count(*) FROM dead_letters").fetchone() == (1,)
