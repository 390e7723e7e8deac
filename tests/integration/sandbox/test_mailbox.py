"""The mailbox of a running sandbox: what was sent is listed, shown, downloaded and deleted, however hostile it is."""

from __future__ import annotations

import smtplib
import urllib.request
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox.running import CREDENTIALS, MESSAGES_PATH, Sandbox

HOSTILE = '<img src=x onerror=alert(1)> "\u202edenrut'
NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def send(sandbox: Sandbox, raw: bytes, to: str = "siti@example.com") -> int:
    """Send a mail and return its number."""
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=60) as client:
        client.sendmail("kurir@example.com", [to], raw)
    return int(sandbox.call("GET", "/messages?limit=1").json["messages"][0]["number"])


def mail() -> bytes:
    found = EmailMessage()
    found["Subject"] = HOSTILE
    found.set_content("Tagihan INV-1\n")
    found.add_alternative("<p>Halo</p><script>alert(1)</script><link rel=preconnect href=//x>", subtype="html")
    found.add_attachment("<script>alert(1)</script>", subtype="html", filename=HOSTILE + ".html")
    return found.as_bytes(policy=SMTP)


def show(sandbox: Sandbox, number: int) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.call("GET", f"/messages/{number}").json["message"]
    return found


def test_a_mail_is_shown_whole(sandbox: Sandbox) -> None:
    """Subject, text, header and attachments are text as they were written."""
    found = show(sandbox, send(sandbox, mail()))
    assert (found["subject"], found["text"], found["hasHtml"]) == (HOSTILE, "Tagihan INV-1\r\n", True)
    assert ["Subject", HOSTILE] in found["headers"]
    (attachment,) = found["attachments"]
    assert attachment["name"] == "_img src=x onerror=alert(1)_ __denrut.html"
    assert attachment["contentType"] == "text/html"


def test_html_is_sent_to_a_frame_that_can_do_nothing(sandbox: Sandbox) -> None:
    """Its policy runs and loads nothing; links to other files are no elements."""
    answer = sandbox.call("GET", f"/messages/{send(sandbox, mail())}/html")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
    assert answer.headers["X-DNS-Prefetch-Control"] == "off"
    assert b"<p>Halo</p>" in answer.body
    assert b"<link" not in answer.body
    text = send(sandbox, b"A: b\r\n\r\nonly text\r\n")
    assert sandbox.call("GET", f"/messages/{text}/html").status == 404


def test_an_attachment_is_a_file_of_bytes(sandbox: Sandbox) -> None:
    """Whatever its type, no browser opens it by itself; its name cannot end a header."""
    number = send(sandbox, mail())
    part = show(sandbox, number)["attachments"][0]["part"]
    answer = sandbox.call("GET", f"/messages/{number}/parts/{part}")
    assert answer.body.strip() == b"<script>alert(1)</script>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="_img src=x')
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert NO_SNIFFING.items() <= answer.headers.items()
    assert sandbox.call("GET", f"/messages/{number}/parts/99").status == 404


def test_a_whatsapp_message_is_a_bubble(sandbox: Sandbox) -> None:
    """The parameters of the template are listed in their places."""
    body = {"type": "body", "parameters": [{"type": "text", "text": HOSTILE}]}
    template = {"name": "order_update", "language": {"code": "id"}, "components": [body]}
    call = {"to": "6281234567890", "type": "template", "template": template}
    assert sandbox.call("POST", MESSAGES_PATH, call, CREDENTIALS).status == 200
    number = sandbox.call("GET", "/messages").json["messages"][0]["number"]
    assert show(sandbox, number)["bubble"] == {
        "template": "order_update", "language": "id", "header": [], "body": [HOSTILE], "buttons": [],
    }  # fmt: skip
    assert sandbox.call("GET", f"/messages/{number}/html").status == 404


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"no header\r\n",
        b"Subject: =?utf-7?q?+2AA-?= =?punycode?q?a-?= \xff\xfe\x00\r\n\r\n\xff\xc0\r\n",
        b"Subject: " + b"\r\n ".join([b"w" * 900] * 12) + b"\r\n\r\n" + b"\r\n".join([b"y" * 990] * 11) + b"\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\nContent-Type: a/b\r\n\r\nx\r\n" * 5000,
        b"Content-Type: text/html; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n2AA=\r\n",
    ],
    ids=["nothing", "no header", "foreign bytes", "long lines", "many parts", "half a pair"],
)
def test_broken_mail_is_accepted_and_shown(sandbox: Sandbox, raw: bytes) -> None:
    """It is listed, read and searched like any other, and the sandbox stays healthy."""
    number = send(sandbox, raw)
    assert show(sandbox, number)["number"] == number
    for path in ("source", "html"):
        assert sandbox.call("GET", f"/messages/{number}/{path}").status in {200, 404}
    assert sandbox.call("GET", "/messages?q=no+such+words").json["messages"] == []
    assert len(sandbox.delivered()) == 1
    assert sandbox.call("GET", "/health").status == 200


def test_messages_are_searched_and_paged(sandbox: Sandbox) -> None:
    """`q` finds words of fields and bodies, `before` continues a list."""
    first = send(sandbox, mail())
    second = send(sandbox, b"Subject: other\r\n\r\nx\r\n")
    assert [one["number"] for one in sandbox.call("GET", "/messages?q=inv-1").json["messages"]] == [first]
    assert [one["number"] for one in sandbox.call("GET", f"/messages?before={second}").json["messages"]] == [first]
    for query in ("before=0", "before=x", "before=" + "9" * 30, "limit=0"):
        assert sandbox.call("GET", f"/messages?{query}").status == 400


def test_one_message_is_deleted_and_all_are(sandbox: Sandbox) -> None:
    """A deleted message is gone under each of its paths; the next one gets a new number."""
    first, second = send(sandbox, mail()), send(sandbox, mail())
    assert sandbox.call("DELETE", f"/messages/{first}").status == 200
    for path in ("", "/source", "/html", "/parts/3"):
        assert sandbox.call("GET", f"/messages/{first}{path}").status == 404
    assert sandbox.call("DELETE", f"/messages/{first}").status == 404
    assert sandbox.call("DELETE", "/messages").status == 200
    assert sandbox.call("GET", "/messages").json["messages"] == []
    assert send(sandbox, mail()) == second + 1


def test_a_page_hears_of_each_change(sandbox: Sandbox) -> None:
    """The stream sends an event at once, and one after a message was accepted."""
    with urllib.request.urlopen(f"{sandbox.url}/events", timeout=60) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        before = int(stream.readline().removeprefix(b"data: "))
        send(sandbox, mail())
        assert stream.readline() == b"\n"
        assert int(stream.readline().removeprefix(b"data: ")) > before


def test_the_page_loads_its_own_files_only(sandbox: Sandbox) -> None:
    """The page and its files have the strict policy; files may be kept, other versions are unknown."""
    page = sandbox.call("GET", "/?message=1")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    version = page.body.decode().partition("/static/")[2].partition("/")[0]
    script = sandbox.call("GET", f"/static/{version}/mailbox.js")
    assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert "immutable" in script.headers["Cache-Control"]
    for path in (f"/static/{version}/mailbox.html", "/static/0/mailbox.js", f"/static/{version}/..%2fpage.py"):
        assert sandbox.call("GET", path).status == 404


def test_an_open_page_does_not_keep_the_sandbox_from_stopping(tmp_path: Path) -> None:
    """Its stream ends as a stream does, before the time for stopping is over."""
    sandbox = Sandbox(tmp_path)
    sandbox.start()
    with urllib.request.urlopen(f"{sandbox.url}/events", timeout=60) as stream:
        stream.readline()
        assert sandbox.stop() == 0
        assert stream.read() == b"\n"
