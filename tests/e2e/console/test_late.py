"""What comes late: answers, events and acts that end after the page, or the person, has gone on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.e2e.console.browser import WIDE, Visit, visiting
from tests.e2e.console.conftest import ADMIN_KEY
from tests.e2e.console.hands import Mouse
from tests.e2e.console.walking import accept, call, file
from tests.e2e.system import System

# effects that wait for a frame wait until a mail's frame has spoken, as where the page is drawn slowly
_HOLD_EFFECTS = """() => {
  const { requestAnimationFrame: frame, setTimeout: timer } = window;
  const held = [];
  window.requestAnimationFrame = (then) => held.push(then);
  window.setTimeout = (then, ms, ...more) => (ms < 200 ? held.push(then) : timer(then, ms, ...more));
  addEventListener("message", () => {
    Object.assign(window, { requestAnimationFrame: frame, setTimeout: timer });
    timer(() => held.forEach((then) => then()));
  }, { once: true });
}"""
# follows a link, and returns what has the focus before the next frame
_FOCUS_AT_ONCE = """async (path) => {
  document.querySelector(`nav a[href$='${path}']`).click();
  for (let turn = 0; turn < 20; turn += 1) await null;
  return document.activeElement.textContent;
}"""


_KNOWN = """async () => {
  const live = document.querySelector("script[type=module]").src.replace("app", "core/live");
  const { blasts } = (await import(live)).live.get();
  return DONE;
}"""


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    with visiting(browser, url, WIDE, ADMIN_KEY) as found:
        yield found


def held(page: Page, pattern: str) -> list[Route]:
    """Hold all calls of a path; return them as they come."""
    calls: list[Route] = []
    page.route(pattern, lambda call: calls.append(call))  # noqa: PLW0108 -- Playwright takes no built-in method
    return calls


def await_call(page: Page, calls: list[Route]) -> Route:
    """Return the first held call once the page has made it."""
    deadline = time.monotonic() + 60
    while not calls:
        assert time.monotonic() < deadline, "the page does not make the call"
        page.wait_for_timeout(10)
    return calls[0]


def scheduled(system: System, reference: str) -> str:
    """Send a blast that waits until tomorrow."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return accept(system, reference, [f"{reference.replace(' ', '.')}@example.com"], scheduledAt=tomorrow)


def test_an_answer_is_awaited_however_long_it_takes(visit: Visit, blast: str) -> None:
    """A page that asks every five seconds asked again instead, and showed nothing where answers took longer."""
    page = visit.page
    page.clock.install()
    calls = held(page, f"**/api/messages/{blast}*")
    page.goto(f"{visit.url}/console/messages/{blast}:10:email")
    first = await_call(page, calls)
    page.wait_for_selector(".loading")
    for _ in range(3):
        page.clock.fast_forward(6_000)
    first.continue_()
    page.wait_for_selector("h1:has-text('bounce+0')", timeout=20_000)
    assert len(calls) == 1


def test_a_mail_is_shown_however_quickly_its_frame_loads(visit: Visit, blast: str) -> None:
    """The frame said that it was ready before the page listened, and stayed empty."""
    visit.open(f"/messages/{blast}:10:email")
    visit.page.click("button:has-text('Text')")
    visit.page.evaluate(_HOLD_EFFECTS)
    visit.page.click("button:has-text('HTML')")
    visit.page.frame_locator("iframe.mail").get_by_text("Hello Gone 0").wait_for(timeout=20_000)
    visit.check()


def test_a_page_has_the_focus_at_once(visit: Visit) -> None:
    """Not a frame later, which would take the focus from who has moved on by keyboard."""
    visit.open("/blasts")
    assert visit.page.evaluate(_FOCUS_AT_ONCE, "/logs") == "Logs"


def test_what_the_page_read_counts_before_older_events(visit: Visit, system: System) -> None:
    """What was done after the last event stayed hidden once no more events came."""
    blast_id = scheduled(system, "of before")
    state = {"at": "2026-01-01T00:00:00.000Z", "redis": True, "log": True, "channels": [], "history": {}}
    state["blasts"] = [call(system, f"/api/blasts/{blast_id}")["blast"]]
    events = f"retry: 600000\nevent: state\ndata: {json.dumps(state)}\n\n"
    visit.page.route("**/api/events", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    visit.open(f"/blasts/{blast_id}")
    visit.page.wait_for_selector(".badge:has-text('scheduled')")
    hand = Mouse(visit.page)
    hand.press("Cancel")
    hand.press("Cancel the blast")
    visit.page.wait_for_selector(".badge:has-text('cancelled')", timeout=20_000)
    visit.check()


def test_a_page_that_is_open_for_days_keeps_few_blasts(visit: Visit) -> None:
    """It kept every blast that it heard of, and copied all for each: on a wall, the page stood still in the end."""
    events = "".join(f'event: blast\ndata: {{"blastId": "b{place}"}}\n\n' for place in range(1000))
    body = f"retry: 600000\n{events}"
    visit.page.route("**/api/events", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    visit.open("/templates")
    visit.page.wait_for_function(_KNOWN.replace("DONE", "blasts.has('b999')"))
    assert visit.page.evaluate(_KNOWN.replace("DONE", "blasts.size")) <= 201
    visit.check()


def test_a_stream_that_fell_silent_is_not_called_live(visit: Visit, system: System) -> None:
    """Where the server or the way to it stood still and nobody closed the connection, the mark stayed green."""
    page, ingest = visit.page, system.child("ingest")
    assert ingest is not None
    page.clock.install()
    visit.open("/blasts")
    page.wait_for_selector(".live.ok")
    ingest.suspend()
    try:
        page.clock.fast_forward(30_000)
        page.wait_for_selector(".live.warn", timeout=20_000)
    finally:
        ingest.resume()
    page.wait_for_selector(".live.ok")
    visit.check()


def test_the_overview_shows_what_goes_out_before_what_is_scheduled(visit: Visit, system: System, blast: str) -> None:
    """Eight later blasts that were only scheduled hid the one that was being sent."""
    one = call(system, f"/api/blasts/{blast}")["blast"] | {"state": "scheduled", "endedAt": None}
    blasts = [one | {"blastId": f"later{place}", "reference": f"later {place}"} for place in range(8)]
    sent = one | {
        "blastId": "now",
        "reference": "goes out now",
        "state": "running",
        "createdAt": "2026-01-01T00:00:00Z",
    }
    state = {"at": "2026-01-01T00:00:00.000Z", "redis": True, "log": True, "channels": [], "history": {}}
    body = f"retry: 600000\nevent: state\ndata: {json.dumps(state | {'blasts': [*blasts, sent]})}\n\n"
    visit.page.route("**/api/events", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    visit.open("/")
    visit.page.wait_for_selector(
        "section:has-text('Blasts on their way') tbody tr:first-child:has-text('goes out now')"
    )
    visit.check()


def test_the_latest_blasts_are_the_latest(visit: Visit, system: System, blast: str) -> None:
    """One that ended while the page was open came after all that the page had begun with, and was not shown."""
    one = call(system, f"/api/blasts/{blast}")["blast"]
    old = [one | {"blastId": f"old{place}", "createdAt": f"2026-01-01T00:0{9 - place}:00Z"} for place in range(9)]
    new = one | {"blastId": "new", "reference": "the latest", "createdAt": "2026-01-02T00:00:00Z"}
    state = {"at": "2026-01-01T00:00:00.000Z", "redis": True, "log": True, "channels": [], "history": {}}
    events = f"event: state\ndata: {json.dumps(state | {'blasts': old})}\n\nevent: blast\ndata: {json.dumps(new)}\n\n"
    body = f"retry: 600000\n{events}"
    visit.page.route("**/api/events", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    visit.open("/")
    visit.page.wait_for_selector("section:has-text('Latest blasts') tbody tr:first-child:has-text('the latest')")
    visit.check()


def test_a_stream_that_is_refused_is_asked_for_again_after_a_while(visit: Visit) -> None:
    """It was asked for again at once, without end, since the page also asks who is signed in."""
    page, refused = visit.page, {"success": False, "code": "TOO_MANY_STREAMS", "message": "Too many streams."}
    calls: list[str] = []

    def answer(route: Route) -> None:
        calls.append(route.request.url)
        route.fulfill(status=503, json=refused)

    page.route("**/api/events", answer)
    began = time.monotonic()
    visit.open("/blasts")
    page.wait_for_selector("text=Not live")
    page.wait_for_timeout(1_000)
    assert 1 <= len(calls) <= 2 + (time.monotonic() - began) / 5
    visit.check()


def test_an_act_that_ends_late_closes_no_other_question(visit: Visit, system: System) -> None:
    """The question of an act was closed meanwhile, and another one is open: it stays."""
    blast_id = scheduled(system, "closed early")
    visit.open(f"/blasts/{blast_id}")
    hand, calls = Mouse(visit.page), held(visit.page, f"**/api/blasts/{blast_id}/cancel")
    hand.press("Cancel")
    hand.press("Cancel the blast")
    first = await_call(visit.page, calls)
    hand.press("Keep as it is")
    hand.press("Pause")
    visit.page.wait_for_selector("dialog h2:has-text('Pause this blast?')")
    first.fulfill(json={"success": True, "message": "the blast is cancelled"})
    visit.hear("The blast is cancelled.")
    assert visit.page.is_visible("dialog h2:has-text('Pause this blast?')")
    system.send("POST", f"/api/blasts/{blast_id}/cancel", {}, {"Authorization": f"Bearer {ADMIN_KEY}"})


def test_a_question_that_comes_late_is_not_asked_elsewhere(visit: Visit, blast: str) -> None:
    """It would ask about a filter that is no longer shown, or over what the person does now."""
    visit.open(f"/messages?blast={blast}")
    hand, calls = Mouse(visit.page), held(visit.page, "**/api/messages/retry?*")
    hand.press("Send the failed again")
    first = await_call(visit.page, calls)
    hand.press("Clear the filters")
    visit.page.wait_for_url("**/console/messages")
    first.fulfill(json={"success": True, "matched": 3, "complete": True})
    visit.page.wait_for_selector("button[aria-busy=false]:has-text('Send the failed again')")
    assert not visit.page.is_visible("dialog")
    visit.check()


def test_a_check_counts_only_for_what_was_checked(visit: Visit) -> None:
    """Its answer came after a change of the message, and offered to send what nobody had checked."""
    page, hand = visit.page, Mouse(visit.page)
    visit.open("/send")
    lines = '{"templateId":"otp","channels":["email"]}\n{"email":"a@example.com","variables":{"code":"1"}}\n'
    hand.put_file("A CSV or NDJSON file", file("late.ndjson", lines))
    page.wait_for_selector("text=4. Check")
    calls = held(page, "**/api/messages/blast")
    hand.press("Check all rows")
    first = await_call(page, calls)
    hand.fill("Reference", "another")
    first.fulfill(json={"success": True, "totalRecipients": 1, "totalMessages": 1, "dryRun": True})
    page.wait_for_selector("button[aria-busy=false]:has-text('Check all rows')")
    assert not page.is_visible("text=can be sent to")
    visit.check()


def test_a_file_is_imported_only_as_it_was_checked(visit: Visit) -> None:
    """The answer about the file before came last, and offered to import the other one."""
    page, hand = visit.page, Mouse(visit.page)
    visit.open("/suppressions")
    hand.press("Import")
    hand.put_file("CSV file", file("one.csv", "email\none@example.com\n"))
    calls = held(page, "**/api/suppressions/import?*")
    hand.press("Check the file")
    first = await_call(page, calls)
    hand.put_file("CSV file", file("two.csv", "email\ntwo@example.com\n"))
    first.fulfill(json={"success": True, "total": 1, "rejected": 0})
    page.wait_for_selector("dialog button[aria-busy=false]:has-text('Check the file')")
    assert not page.is_visible("text=can be imported")
    visit.check()


def test_a_filter_keeps_what_is_typed_and_chosen_meanwhile(visit: Visit) -> None:
    """A text takes effect a moment later: it undid a choice of that moment, and took away what had been typed since."""
    page = visit.page
    page.clock.install()
    visit.open("/blasts")
    page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    page.get_by_label("Template").fill("otp ")
    page.clock.run_for(100)
    page.get_by_label("State").select_option("scheduled")
    page.clock.run_for(1000)
    assert "state=scheduled" in page.url
    assert "template=otp" in page.url
    assert page.get_by_label("Template").input_value() == "otp "


def test_a_button_says_why_it_failed(visit: Visit) -> None:
    """Signing out without Redis did nothing and said nothing."""
    visit.open("/blasts")
    answer = {"success": False, "code": "QUEUE_UNAVAILABLE", "message": "Redis cannot be reached."}
    visit.page.route("**/console/session", lambda route: route.fulfill(status=503, json=answer))
    Mouse(visit.page).press("Sign out")
    visit.hear("Redis cannot be reached.")
    visit.check()
