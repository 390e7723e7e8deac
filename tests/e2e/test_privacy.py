"""No log file and no console line contains an address, a name, a phone number, a body or a secret.

Recognisable values take every path through a real system: accepted, refused, deferred, lost, suppressed, malformed,
unauthorised, previewed, searched for, and in processing when a process is killed.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeSystem
from tests.e2e.system import System
from tests.servers import wait_for

KEY = "sk-quetzal-0123456789-abcdefgh"
WRONG_KEY = "sk-axolotl-9876543210-zyxwvuts"
NAME = "Xiomara Quetzalcoatl"
TAG = "quetzalmail"
DOMAIN = "axolotl.example.com"
PHONES = ("6281234560017", "6281280131026")
BODY = "pangolin-body-word"
CODE = "pangolin-otp-493817"
SECRETS = (KEY, WRONG_KEY, NAME, "Xiomara", TAG, DOMAIN, *PHONES, "0812-3456-0017", BODY, CODE)
TERMINAL_S = 60.0


def _call(system: System, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Make a request whose answer may be an error; `content_type` and `authorization` are headers."""
    named = {
        "Authorization": f"Bearer {KEY}",
        **{name.replace("_", "-").title(): text for name, text in headers.items()},
    }
    request = urllib.request.Request(f"http://127.0.0.1:{system.port}{path}", body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def _post(system: System, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    return _call(system, "POST", path, json.dumps(body).encode(), content_type="application/json")


def _recipient(local: str, **more: Any) -> dict[str, Any]:
    return {"name": NAME, "email": f"{local}+{TAG}@{DOMAIN}", **more}


def _invoice(recipients: list[dict[str, Any]], *channels: str, **more: Any) -> dict[str, Any]:
    values = {"order_number": BODY, "amount": 493817, "due_date": "2026-02-01"}
    wanted = {"templateId": "invoice_reminder", "channels": list(channels), "globalVariables": values}
    return {"recipients": recipients, **wanted, **more}


async def _accept(system: System, body: Mapping[str, Any]) -> str:
    """Post a blast, repeating while a service restarts, and return its id."""

    def post() -> str:
        status, answer = _post(system, "/api/messages/blast", body)
        assert status in {202, 503}, answer
        return str(answer["blastId"]) if status == 202 else ""

    return await wait_for(post, TERMINAL_S, "the blast to be accepted")


async def _accepted_and_refused(system: System) -> list[str]:
    """Send messages for every kind of provider answer; return the blasts."""
    local_parts = ("someone", "bounce", "greylist", "flaky", "drop")
    mails = _invoice([_recipient(local) for local in local_parts], "email", replyTo=f"reply+{TAG}@{DOMAIN}")
    calls = _invoice([{"name": NAME, "phone": f"+{phone}"} for phone in PHONES], "whatsapp")
    attached = [{"filename": f"{NAME}.txt", "contentType": "text/plain", "content": "cGFuZ29saW4="}]
    blasts = [
        await _accept(system, body)
        for body in (mails, calls, _invoice([_recipient("attached")], "email", attachments=attached))
    ]
    single = {"recipient": _recipient("single", variables={"code": CODE, "minutes": 5}), "templateId": "otp"}
    _post(system, "/api/messages", {**single, "channels": ["email"]})
    return blasts


def _malformed_and_unauthorised(system: System) -> None:
    """Send all kinds of invalid requests, with the recognisable values in every place."""
    missing = _invoice([_recipient("x", variables={"amount": NAME})], "email")
    missing["globalVariables"] = {"order_number": CODE}
    bad_address = _invoice(
        [{"name": NAME, "email": f"{TAG}@@{DOMAIN}", "phone": "0812-3456-0017-1"}], "email", "whatsapp"
    )
    for body in (missing, bad_address, _invoice([_recipient("x")], "email", **{"from": f"{NAME} <{TAG}@{DOMAIN}>"})):
        status, answer = _post(system, "/api/messages/blast", body)
        assert status >= 400, answer
        _post(system, "/api/messages/blast", {**body, "validation": "permissive", "dryRun": True})
    raw = json.dumps(missing).encode()
    _call(system, "POST", "/api/messages/blast", raw[:-20], content_type="application/json")
    _call(system, "POST", "/api/messages/blast", raw, content_type=f"text/{TAG}")
    _call(
        system,
        "POST",
        "/api/messages/blast",
        raw + b'\n{"email": "' + TAG.encode(),
        content_type="application/x-ndjson",
    )
    table = f'name,email,wrong\n{NAME},{TAG}@{DOMAIN},{BODY}\n"{NAME}'.encode()
    _call(system, "POST", "/api/messages/blast?templateId=otp&channels=email", table, content_type="text/csv")
    status, _ = _call(system, "GET", "/api/messages/stats", authorization=f"Bearer {WRONG_KEY}")
    assert status == 401
    _call(system, "GET", f"/api/nothing/{TAG}@{DOMAIN}?token={CODE}")
    _call(system, "GET", f"/u/{CODE}{TAG}")


def _looked_for(system: System) -> None:
    """Search, preview, suppress and unsuppress by address."""
    _post(system, "/api/messages/preview", {**_invoice([_recipient("seen")], "email"), "recipient": _recipient("seen")})
    _post(system, "/api/suppressions", {"channel": "email", "address": f"stop+{TAG}@{DOMAIN}", "reason": BODY})
    for path in ("messages", "messages/stats"):
        status, _ = _call(system, "GET", f"/api/logs/{path}?recipient=someone%2B{TAG}@{DOMAIN}")
        assert status == 200
    _call(system, "GET", f"/api/logs/messages?recipient={PHONES[0]}&status=gone")
    _call(system, "GET", f"/api/logs/messages?reference={CODE}&cursor={TAG}")
    _call(system, "DELETE", f"/api/suppressions/{TAG}@{DOMAIN}")


async def _ended(system: System, blasts: list[str]) -> None:
    """Wait until every message of the blasts has ended."""

    def over() -> bool:
        answers = [_call(system, "GET", f"/api/blasts/{blast}") for blast in blasts]
        # 503 while a killed service restarts
        return all(status == 200 and shown["blast"]["state"].startswith("completed") for status, shown in answers)

    await wait_for(over, TERMINAL_S, "all blasts to end")


@pytest.mark.timeout(300)
async def test_no_log_contains_personal_data(make_system: MakeSystem) -> None:
    """This holds at level debug, in files and on the console, with two killed services and a restart of Redis."""
    system = make_system(
        KURIR_API_KEYS=f"test:{KEY}:send+read+admin", KURIR_LOG_LEVEL="debug", KURIR_LOG_CONSOLE="debug",
        KURIR_EMAIL_RATE="off", KURIR_WHATSAPP_RATE="off",
    )  # fmt: skip
    system.up()
    blasts = await _accepted_and_refused(system)
    _malformed_and_unauthorised(system)
    _looked_for(system)
    for service in ("email_sender", "logger", "redis"):
        child = system.child(service)
        assert child is not None
        child.kill()
        await wait_for(lambda: _is_well(system), TERMINAL_S, f"{service} to be back")
    blasts += await _accepted_and_refused(system)
    await _ended(system, blasts)
    status, events = _call(system, "GET", "/api/logs/system?limit=1000")
    assert status == 200
    assert events["logs"], "warnings and errors reach the system log"
    system.interrupt()
    _assert_silent(system.data / "logs", system.output(), json.dumps(events))


def _is_well(system: System) -> bool:
    try:
        return _call(system, "GET", "/health")[0] == 200
    except OSError:
        return False


def _assert_silent(folder: Path, console: str, system_log: str) -> None:
    files = {path.name: path.read_text(errors="replace") for path in folder.iterdir()}
    assert "sent" in files["combined.log"], "the log has lines about the attempts"
    texts = {**files, "the console": console, "system_logs": system_log}
    found = {(name, secret) for name, text in texts.items() for secret in SECRETS if secret.lower() in text.lower()}
    lines = [line[:400] for text in texts.values() for line in text.splitlines() if _tells(line)]
    assert found == set(), "\n".join(lines[:10])


def _tells(line: str) -> bool:
    return any(secret.lower() in line.lower() for secret in SECRETS)
