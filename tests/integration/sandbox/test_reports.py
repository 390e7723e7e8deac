"""What the sandbox reports later: webhooks to a real HTTP server, and mail to a real SMTP server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import smtplib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.integration.sandbox.running import CREDENTIALS, MESSAGES_PATH, Sandbox
from tests.servers import free_port, wait_for

TOKEN = "t" * 32
META_PATH = "/v23.0/1/messages"
META_CREDENTIALS = {"Authorization": "Bearer sandbox"}


@dataclass
class Hooks:
    """A server for webhooks; it answers with `answers` in turn, then with 200."""

    port: int = field(default_factory=free_port)
    answers: list[int] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    def statuses(self) -> Counter[tuple[str, str]]:
        """Return the number, the status and how often each was reported, in whatever shape."""
        found: Counter[tuple[str, str]] = Counter()
        for _, _, raw in self.requests:
            for status in _statuses_of(json.loads(raw)):
                found[status["recipient_id"], status["status"]] += 1
        return found


def _statuses_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    if "payload" in body:
        return [body["payload"]]
    values = [change["value"] for entry in body["entry"] for change in entry["changes"]] if "entry" in body else [body]
    return [status for value in values for status in value.get("statuses", [])]


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    """Run a server for webhooks."""
    hooks = Hooks()
    app = web.Application()
    app.router.add_post("/{path:.*}", hooks.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", hooks.port).start()
    yield hooks
    await runner.cleanup()


@pytest.fixture
async def reporting(hooks: Hooks, tmp_path: Path) -> AsyncIterator[Sandbox]:
    """Run a sandbox that reports to these hooks, a twentieth of a second after each step."""
    sandbox = Sandbox(
        tmp_path,
        {
            "KURIR_SANDBOX_HOOKS_URL": f"http://127.0.0.1:{hooks.port}",
            "KURIR_HOOK_TOKEN": TOKEN,
            "KURIR_QISCUS_HOOK_SECRET": "of qiscus",
            "KURIR_META_APP_SECRET": "of meta",
            "KURIR_SANDBOX_REPORTS_AFTER": "50ms",
        },
    )
    await asyncio.to_thread(sandbox.start)
    yield sandbox
    assert await asyncio.to_thread(sandbox.stop) == 0


def _message(to: str, **changes: Any) -> dict[str, Any]:
    template = {"name": "order_update", "language": {"policy": "deterministic", "code": "id"}}
    message = {"to": to, "type": "template", "template": template, "biz_opaque_callback_data": f"job of {to}"}
    return {**message, **changes}


async def _send(sandbox: Sandbox, *numbers: str) -> None:
    for number in numbers:
        reply = await asyncio.to_thread(sandbox.call, "POST", MESSAGES_PATH, _message(number), CREDENTIALS)
        assert reply.status == 200, reply.body


async def test_as_qiscus_it_reports_the_outcome_of_messages(reporting: Sandbox, hooks: Hooks) -> None:
    """Messages are delivered and read, or fail later by the code in their number; each request is signed."""
    await _send(reporting, "6281234567891", "6281234567890", "62812131026")
    wanted = {
        *(("6281234567891", status) for status in ("sent", "delivered", "read")),
        *(("6281234567890", status) for status in ("sent", "delivered")),
        ("62812131026", "failed"),
    }
    await wait_for(lambda: set(hooks.statuses()) >= wanted, what="all statuses")
    assert set(hooks.statuses()) == wanted
    for path, headers, raw in hooks.requests:
        assert path == f"/hooks/qiscus/{TOKEN}"
        digest = hmac.new(b"of qiscus", raw, hashlib.sha256).digest()
        assert headers["Qiscus-Signature-Key"] == base64.b64encode(digest).decode()
    named = [status for _, _, raw in hooks.requests for status in _statuses_of(json.loads(raw))]
    assert {one["biz_opaque_callback_data"] for one in named if "id" in one} <= {f"job of {to}" for to, _ in wanted}


async def test_as_meta_it_reports_in_metas_envelope(reporting: Sandbox, hooks: Hooks) -> None:
    """Each request goes to the hook for Meta, with Meta's signature."""
    message = _message("6281234567891", messaging_product="whatsapp")
    reply = await asyncio.to_thread(reporting.call, "POST", META_PATH, message, META_CREDENTIALS)
    assert reply.status == 200
    await wait_for(lambda: ("6281234567891", "read") in hooks.statuses(), what="the last status")
    for path, headers, raw in hooks.requests:
        assert path == f"/hooks/meta/{TOKEN}"
        assert headers["X-Hub-Signature-256"] == "sha256=" + hmac.new(b"of meta", raw, hashlib.sha256).hexdigest()
        assert json.loads(raw)["object"] == "whatsapp_business_account"


async def test_a_hook_that_refuses_gets_everything_later(reporting: Sandbox, hooks: Hooks) -> None:
    """A 429, a 404 and a 500 are all tried again until the answer is 200."""
    hooks.answers[:] = [429, 404, 500]
    await _send(reporting, "6281234567890")
    await wait_for(lambda: {status for _, status in hooks.statuses()} == {"sent", "delivered"}, what="both statuses")
    await wait_for(lambda: len(hooks.requests) >= 5, what="the refused ones again")


async def test_an_opt_out_is_reported_beside_the_failure(reporting: Sandbox, hooks: Hooks) -> None:
    """131050 is a failed message and a preference of the person."""
    await _send(reporting, "62812131050")

    def reported() -> bool:
        return b'"stop"' in b"".join(raw for _, _, raw in hooks.requests) and bool(hooks.statuses())

    await wait_for(reported, what="the opt-out")
    assert set(hooks.statuses()) == {("62812131050", "failed")}


@pytest.mark.parametrize(
    ("path", "changes", "headers", "answer"),
    [
        (META_PATH, {"messaging_product": "sms"}, META_CREDENTIALS, (400, 100)),
        (META_PATH, {}, {"Authorization": "Bearer wrong"}, (401, 190)),
        (META_PATH, {}, {}, (401, 190)),
        ("/v23.0/2/messages", {}, META_CREDENTIALS, (400, 100)),
        (META_PATH, {"to": "62812132000"}, META_CREDENTIALS, (400, 132000)),
        (META_PATH, {"biz_opaque_callback_data": "x" * 513}, META_CREDENTIALS, (400, 131009)),
    ],
)
def test_as_meta_it_refuses_what_meta_refuses(
    sandbox: Sandbox, path: str, changes: dict[str, Any], headers: dict[str, str], answer: tuple[int, int]
) -> None:
    """Product, token and number are checked; errors are Meta's, and nothing is accepted."""
    message = _message("6281234567891", messaging_product="whatsapp")
    reply = sandbox.call("POST", path, {**message, **changes}, headers)
    assert (reply.status, reply.json["error"]["code"]) == answer
    assert sandbox.delivered() == []


def test_without_hooks_every_code_is_the_answer(sandbox: Sandbox) -> None:
    """A sandbox that can report nothing later refuses at once."""
    for code in (130472, 131026, 131047, 131049, 131050):
        reply = sandbox.call("POST", MESSAGES_PATH, _message(f"62812{code}"), CREDENTIALS)
        assert reply.json["error"]["code"] == code


@dataclass
class Mail:
    """A sandbox that returns mail to another one, which stands for the bounce listener."""

    sandbox: Sandbox
    listener: Sandbox

    def send(self, to: str, sender: str = "b-token@bounces.example.com") -> None:
        with smtplib.SMTP("127.0.0.1", self.sandbox.smtp_port, timeout=60) as client:
            client.sendmail(sender, [to], b"Message-ID: <b.0.email.1@example.com>\r\n\r\nhi\r\n")

    def returned(self) -> list[dict[str, Any]]:
        """Return what the listener has accepted, the newest first."""
        found: list[dict[str, Any]] = self.listener.call("GET", "/messages").json["messages"]
        return found


@pytest.fixture
def mail(tmp_path: Path) -> Any:
    """Run both."""
    for folder in ("sandbox", "listener"):
        (tmp_path / folder).mkdir()
    listener = Sandbox(tmp_path / "listener")
    env = {
        "KURIR_SANDBOX_BOUNCES_URL": f"smtp://127.0.0.1:{listener.smtp_port}",
        "KURIR_SANDBOX_REPORTS_AFTER": "50ms",
    }
    both = Mail(Sandbox(tmp_path / "sandbox", env), listener)
    both.sandbox.start()
    listener.start()
    yield both
    assert (both.sandbox.stop(), listener.stop()) == (0, 0)


@pytest.mark.parametrize(
    ("recipient", "sender", "subject"),
    [
        ("late-bounce@example.org", "", "Undelivered Mail Returned to Sender"),
        ("complaint+3@example.org", "feedback@sandbox.kurir", "Abuse report"),
    ],
)
async def test_bounces_and_complaints_come_back_by_mail(mail: Mail, recipient: str, sender: str, subject: str) -> None:
    """They go to the return path of the accepted mail, which is the recipient of their envelope."""
    await asyncio.to_thread(mail.send, recipient)
    await asyncio.to_thread(mail.send, "siti@example.org")
    (found,) = await wait_for(mail.returned, what="what comes back")
    assert (found["from"], found["to"], found["subject"]) == (sender, "b-token@bounces.example.com", subject)
    source = (await asyncio.to_thread(mail.listener.call, "GET", "/messages/1/source")).body
    assert b"<b.0.email.1@example.com>" in source
    assert len(await asyncio.to_thread(mail.sandbox.delivered)) == 2


@pytest.mark.parametrize(
    "fault", [{"answer": "451 4.3.0 try later", "at": "rcpt", "times": 1}, {"answer": "refuse", "seconds": 0.5}]
)
async def test_mail_that_is_not_taken_comes_again(mail: Mail, fault: dict[str, Any]) -> None:
    """A listener that is away or says "later" gets it once it takes mail."""
    await asyncio.to_thread(mail.listener.fault, channel="email", **fault)
    await asyncio.to_thread(mail.send, "late-bounce@example.org")
    assert len(await wait_for(mail.returned, what="what comes back")) == 1


async def test_mail_that_is_refused_for_good_is_dropped(mail: Mail) -> None:
    """The next one comes through: a mail server does not insist."""
    await asyncio.to_thread(mail.listener.fault, channel="email", answer="550 5.7.1 no", at="rcpt", times=1)
    await asyncio.to_thread(mail.send, "late-bounce+1@example.org")

    def dropped() -> bool:
        return (
            b'kurir_sandbox_reports_total{outcome="refused",way="mail"} 1' in mail.sandbox.call("GET", "/metrics").body
        )

    await wait_for(dropped, what="the refusal")
    await asyncio.to_thread(mail.send, "complaint@example.org")
    (found,) = await wait_for(mail.returned, what="the complaint")
    assert found["subject"] == "Abuse report"
