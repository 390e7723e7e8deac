"""The sandbox's HTTP: the Qiscus stand-in, the list of messages, and faults."""

from __future__ import annotations

import smtplib
import time
from typing import Any

import pytest

from tests.integration.sandbox.running import CREDENTIALS, MESSAGES_PATH, Reply, Sandbox


def whatsapp(to: str = "6281234567890", **changes: Any) -> dict[str, Any]:
    template = {"name": "order_update", "language": {"policy": "deterministic", "code": "id"}}
    return {"to": to, "type": "template", "template": template, **changes}


def post(sandbox: Sandbox, body: object, headers: dict[str, str] | None = None) -> Reply:
    return sandbox.call("POST", MESSAGES_PATH, body, CREDENTIALS if headers is None else headers)


def send_mail(sandbox: Sandbox, to: str) -> None:
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=60) as client:
        client.sendmail("kurir@example.com", [to], b"X-Kurir-Job: b:0:email\r\nSubject: <b>\r\n\r\nhi\r\n")


def test_a_whatsapp_message_is_accepted_and_recorded(sandbox: Sandbox) -> None:
    """The answer is that of the Cloud API; the line in the file has the answer's id and no job."""
    reply = post(sandbox, whatsapp())
    assert reply.status == 200
    assert reply.json["contacts"] == [{"input": "6281234567890", "wa_id": "6281234567890"}]
    (line,) = sandbox.delivered()
    del line["at_ms"]
    assert line == {
        "channel": "whatsapp",
        "to": "6281234567890",
        "jobId": "",
        "messageId": reply.json["messages"][0]["id"],
        "subject": "order_update",
    }


@pytest.mark.parametrize(
    "headers",
    [{}, {**CREDENTIALS, "Qiscus-Secret-Key": "wrong"}, {**CREDENTIALS, "Qiscus-App-Id": "other"}],
)
def test_wrong_credentials_are_refused(sandbox: Sandbox, headers: dict[str, str]) -> None:
    """The answer is 401 with an error in the Cloud API's form, and nothing is accepted."""
    reply = post(sandbox, whatsapp(), headers)
    assert (reply.status, reply.json["error"]["code"]) == (401, 0)
    assert sandbox.delivered() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], 100),
        (whatsapp(type="text"), 100),
        (whatsapp(template={"name": "x"}), 131008),
        (whatsapp("+62812"), 131009),
        (whatsapp("62812131026"), 131026),
        (whatsapp("62812131000"), 131000),
    ],
)
def test_refused_messages(sandbox: Sandbox, body: object, code: int) -> None:
    """Malformed bodies and numbers that end in an error code are refused."""
    assert post(sandbox, body).json["error"]["code"] == code
    assert sandbox.delivered() == []


def hang(sandbox: Sandbox, to: str) -> None:
    """Send a mail whose acceptance is not answered."""
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=60) as client:
        client.ehlo()
        client.mail("a@example.com")
        client.rcpt(to)
        client.docmd("DATA")
        client.send(b"A: b\r\n\r\nc\r\n.\r\n")
        deadline = time.monotonic() + 30
        while to not in [line["to"] for line in sandbox.delivered()]:
            assert time.monotonic() < deadline, "the mail is not written down"
        assert client.sock is not None
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.close()


def test_messages_are_listed_and_filtered(sandbox: Sandbox) -> None:
    """The newest comes first; filters are channel, part of the address, job and limit."""
    send_mail(sandbox, "siti@example.com")
    post(sandbox, whatsapp())
    shown = sandbox.call("GET", "/messages").json
    assert [message["channel"] for message in shown["messages"]] == ["whatsapp", "email"]
    assert shown["count"] == 2
    for query in ("channel=email", "to=SITI@", "jobId=b:0:email"):
        (found,) = sandbox.call("GET", f"/messages?{query}").json["messages"]
        assert found["to"] == "siti@example.com"
    assert len(sandbox.call("GET", "/messages?limit=1").json["messages"]) == 1
    assert sandbox.call("GET", "/messages?limit=x").status == 400


def test_messages_are_found_with_a_plus(sandbox: Sandbox) -> None:
    """The plus may be escaped or not, in an email address and before a number."""
    send_mail(sandbox, "siti+news@example.com")
    post(sandbox, whatsapp())
    for plus in ("+", "%2B"):
        (found,) = sandbox.call("GET", f"/messages?to=siti{plus}news@").json["messages"]
        assert found["to"] == "siti+news@example.com"
        (found,) = sandbox.call("GET", f"/messages?to={plus}62").json["messages"]
        assert found["channel"] == "whatsapp"


def test_the_source_is_plain_text(sandbox: Sandbox) -> None:
    """It is shown as it was received, and no browser runs it."""
    send_mail(sandbox, "siti@example.com")
    (message,) = sandbox.call("GET", "/messages").json["messages"]
    source = sandbox.call("GET", f"/messages/{message['number']}/source")
    assert source.headers["Content-Type"].startswith("text/plain")
    assert source.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert source.body.endswith(b"hi\r\n")
    assert sandbox.call("GET", f"/messages/{message['number'] + 1}/source").status == 404


def test_a_reply_on_demand(sandbox: Sandbox) -> None:
    """The given number of messages get the reply at the given command; later messages are accepted."""
    sandbox.fault(channel="email", answer="421 4.7.0 too busy", at="mail", times=1)
    with pytest.raises(smtplib.SMTPSenderRefused, match="too busy"):
        send_mail(sandbox, "a@example.com")
    send_mail(sandbox, "b@example.com")
    sandbox.fault(channel="whatsapp", answer="http 429", retryAfter="7", times=1)
    reply = post(sandbox, whatsapp())
    assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    assert post(sandbox, whatsapp()).status == 200
    assert len(sandbox.delivered()) == 2


def test_hanging_and_dropping_on_demand(sandbox: Sandbox) -> None:
    """No answer is sent; `record` decides whether the message counts as accepted."""
    sandbox.fault(channel="email", answer="drop", times=1)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send_mail(sandbox, "taken@example.com")
    sandbox.fault(channel="email", answer="drop", times=1, record=False)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send_mail(sandbox, "lost@example.com")
    sandbox.fault(channel="email", answer="hang", times=1)
    hang(sandbox, "hung@example.com")
    for record in (True, False):
        sandbox.fault(channel="whatsapp", answer="drop", times=1, record=record)
        with pytest.raises(OSError, match=r"reset|closed|without response"):
            post(sandbox, whatsapp())
    taken = [line["to"] for line in sandbox.delivered()]
    assert taken == ["taken@example.com", "hung@example.com", "6281234567890"]


def test_refusing_connections_for_a_while(sandbox: Sandbox) -> None:
    """The port is closed and open sessions are aborted; after its time the sandbox listens again."""
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=60) as client:
        client.noop()
        sandbox.fault(channel="email", answer="refuse", seconds=300)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()
    with pytest.raises(ConnectionRefusedError):
        send_mail(sandbox, "a@example.com")
    assert post(sandbox, whatsapp()).status == 200
    sandbox.fault(channel="email", answer="refuse", seconds=0.3)
    deadline = time.monotonic() + 30
    while True:
        try:
            send_mail(sandbox, "b@example.com")
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
        else:
            break
    assert sandbox.call("GET", "/faults").json["faults"] == []


def test_slow_answers_on_demand(sandbox: Sandbox) -> None:
    """The answer of this channel comes after the delay; the other channel is not affected."""
    sandbox.fault(channel="whatsapp", answer="slow", delayMs=300)
    began = time.monotonic()
    send_mail(sandbox, "a@example.com")
    assert post(sandbox, whatsapp()).status == 200
    assert time.monotonic() - began >= 0.3


def test_impossible_faults_are_refused(sandbox: Sandbox) -> None:
    """Unknown answers and channels and missing fields give 400, and no fault is set."""
    for wanted in ({"channel": "email", "answer": "explode"}, {"channel": "fax", "answer": "drop"}, {"answer": "drop"}):
        assert sandbox.call("PUT", "/faults", wanted).status == 400
    assert sandbox.call("GET", "/faults").json["faults"] == []


def test_metrics_count_accepted_and_refused_messages(sandbox: Sandbox) -> None:
    """Messages are counted by channel and outcome."""
    post(sandbox, whatsapp("62812131026"))
    text = sandbox.call("GET", "/metrics").body.decode()
    assert 'kurir_sandbox_messages_total{channel="whatsapp",outcome="refused"}' in text
    assert 'kurir_build_info{service="sandbox"' in text
