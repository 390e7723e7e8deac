"""The sandbox's mailbox as a person uses it: it works by keyboard, is accessible, live, and safe from its mails."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from playwright.sync_api import Browser, Route

from tests.e2e.console.browser import LOOKS, WIDE, Visit, visiting
from tests.integration.sandbox.running import CREDENTIALS, MESSAGES_PATH, Sandbox

ELSEWHERE = "https://tracker.example"
HOSTILE = '<img src=x onerror=alert(1)> "\u202edenrut\u202c '
HOSTILE_HTML = (
    f"""<p>Dear</p><script>parent.document.title = 'caught'</script><img src=x onerror='alert(1)'>
<img src='{ELSEWHERE}/p.png'><link rel=preconnect href='{ELSEWHERE}'><link rel=stylesheet href='{ELSEWHERE}/a.css'>
<style>@import '{ELSEWHERE}/b.css'; body {{ background: url({ELSEWHERE}/c.png) }}</style>
<meta http-equiv=refresh content='0;url={ELSEWHERE}/'><iframe src='{ELSEWHERE}/'></iframe>
<a href='{ELSEWHERE}/top' target=_top>top</a> <a href='{ELSEWHERE}/self'>self</a>"""
    + "z" * 10_000
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    found = Sandbox(tmp_path_factory.mktemp("sandbox"))
    found.start()
    yield found
    assert found.stop() == 0


@pytest.fixture
def numbers(sandbox: Sandbox) -> dict[str, int]:
    """An ordinary mail, a hostile one, one that is broken, and a WhatsApp message, by their numbers."""
    sandbox.call("DELETE", "/messages")
    _send(sandbox, "siti@example.com", _mail("Your invoice", "<h1>Hello Siti</h1>"))
    _send(sandbox, "hostile@example.com", _mail(HOSTILE + "x" * 900, HOSTILE_HTML))
    _send(
        sandbox, "broken@example.com", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\xff" + b"y" * 900
    )
    body = {"type": "body", "parameters": [{"type": "text", "text": HOSTILE}]}
    template = {"name": "order_update", "language": {"code": "id"}, "components": [body]}
    sandbox.call("POST", MESSAGES_PATH, {"to": "62812", "type": "template", "template": template}, CREDENTIALS)
    found = sandbox.call("GET", "/messages").json["messages"]
    return {one["to"].partition("@")[0]: one["number"] for one in found}


def _mail(subject: str, html: str) -> bytes:
    mail = EmailMessage()
    mail["Subject"] = subject
    mail.set_content("Hello in plain text\n" + "y" * 10_000)
    mail.add_alternative(html, subtype="html")
    mail.add_attachment("<script>alert(1)</script>", subtype="html", filename="März.html")
    return mail.as_bytes(policy=SMTP)


def _send(sandbox: Sandbox, to: str, raw: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=60) as client:
        client.sendmail("kurir@example.com", [to], raw)


@pytest.fixture
def visit(browser: Browser, sandbox: Sandbox) -> Iterator[Visit]:
    with visiting(browser, sandbox.url, WIDE) as found:
        yield found


def _open(visit: Visit, path: str) -> None:
    visit.page.goto(visit.url + path)
    visit.page.wait_for_selector(".live.ok")
    visit.page.wait_for_selector(".row")


def test_every_view_is_accessible_and_keeps_to_itself(visit: Visit, numbers: dict[str, int]) -> None:
    """Axe finds nothing, the log is empty, no other host is asked, and nothing is wider than the screen."""
    paths = ["/", f"/?message={numbers['62812']}", f"/?message={numbers['broken']}&tab=source"]
    paths += [f"/?message={numbers['siti']}&tab={tab}" for tab in ("html", "headers", "attachments")]
    paths.append(f"/?message={numbers['hostile']}&tab=text")
    for path in paths:
        visit.look_at(WIDE)
        _open(visit, path)
        visit.page.wait_for_selector("#panel > *" if "message" in path else ".row")
        for look in LOOKS:
            visit.look_at(look)
            visit.check()
            visit.check_access(whole=look == WIDE)


def test_a_hostile_mail_can_do_nothing(visit: Visit, numbers: dict[str, int]) -> None:
    """No script runs, nothing is loaded, a click on a link leads nowhere; subject and parameters are text."""
    page = visit.page
    _open(visit, f"/?message={numbers['hostile']}")
    frame = page.frame_locator("iframe.mail")
    frame.get_by_text("Dear").wait_for()
    for name in ("top", "self"):
        frame.get_by_role("link", name=name).click(no_wait_after=True)
        page.wait_for_timeout(200)  # what must not happen has no signal
    assert page.url == f"{visit.url}/?message={numbers['hostile']}"
    assert page.title().startswith("<img src=x")
    assert visit.strangers == []
    page.click(f"[data-number='{numbers['62812']}']")
    page.wait_for_selector(".bubble")
    assert HOSTILE.strip() in page.inner_text(".bubble")
    assert page.query_selector("main img") is None
    # the browser notes what it blocked, perhaps late
    for words in ("block", "Block", "sandboxed", "Content Security"):
        visit.forgive(words)
    visit.check()


def test_the_mailbox_by_keyboard_alone(visit: Visit, numbers: dict[str, int]) -> None:
    """Find a message, read each of its views, download its attachment, go back to its row, and delete all."""
    page = visit.page
    _open(visit, "/")
    page.keyboard.press("/")
    page.keyboard.type("plain text")
    page.wait_for_selector("text=2 shown")
    visit.tab_to("hostile@")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:has-text('Your invoice')")
    visit.tab_to("HTML")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("pre:has-text('Hello in plain text')")
    page.keyboard.press("End")
    page.wait_for_selector("#tab-attachments[aria-selected=true]")
    visit.tab_to("März.html")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "März.html"
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Choose a message.")
    assert page.evaluate("document.activeElement.dataset.number") == str(numbers["siti"])
    assert "q=plain+text" in page.url
    page.locator("#delete-all").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    visit.check_access()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    visit.tab_to("Delete all")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Nothing matches, 0 accepted")
    visit.check()


def test_the_list_is_live(visit: Visit, sandbox: Sandbox, numbers: dict[str, int]) -> None:
    """A new message appears, a filter keeps others out, and a message that is gone says so."""
    page = visit.page
    _open(visit, "/")
    _send(sandbox, "new@example.com", b"Subject: just now\r\n\r\nx\r\n")
    page.wait_for_selector(".row:has-text('just now')")
    page.select_option("#channel", "whatsapp")
    page.wait_for_selector("text=1 shown")
    page.select_option("#channel", "")
    page.click(".row:has-text('just now')")
    page.click(".actions button")
    page.wait_for_selector("text=Choose a message.")
    page.wait_for_selector(".row:has-text('just now')", state="detached")
    sandbox.call("DELETE", f"/messages/{numbers['siti']}")
    page.goto(f"{visit.url}/?message={numbers['siti']}")
    page.wait_for_selector("text=This message is no longer kept.")
    visit.forgive("404")
    visit.check()


def test_a_late_answer_about_another_message_changes_nothing(visit: Visit, numbers: dict[str, int]) -> None:
    """A message that was gone replaced the one that was opened after it."""
    page, calls = visit.page, list[Route]()
    _open(visit, "/")
    page.route(f"**/messages/{numbers['siti']}", lambda call: calls.append(call))  # noqa: PLW0108 -- Playwright takes no built-in method
    page.click(f"[data-number='{numbers['siti']}']")
    page.click(f"[data-number='{numbers['62812']}']")
    page.wait_for_selector(".bubble")
    with page.expect_response(f"**/messages/{numbers['siti']}"):
        calls[0].fulfill(status=404, json={})
    page.evaluate("new Promise((done) => setTimeout(done, 100))")  # what must not happen has no signal
    assert page.is_visible(".bubble")
    visit.forgive("404")
    visit.check()
