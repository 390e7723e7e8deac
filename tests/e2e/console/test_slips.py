"""What people do on the way: they go back, save a file again, come back tomorrow, type one key too many."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.console.browser import LOOKS, NARROW, WIDE, Look, Visit, visiting
from tests.e2e.console.conftest import ADMIN, ADMIN_KEY, READ_KEY
from tests.e2e.console.hands import Hand, Keyboard, Mouse
from tests.e2e.console.walking import accept, call, file
from tests.e2e.system import System

_CUT = "[...document.querySelectorAll('.table-box')].map((one) => one.scrollWidth - one.clientWidth).filter(Boolean)"
_BUTTON = {"value": "name", "type": "quick_reply", "index": 1}
_COUPON = {"value": "code", "type": "copy_code"}
_FILES = {
    "csv": "name,email,code\nSiti,siti@example.com,1\nBudi,budi@,2\n",
    "ndjson": '{"templateId":"otp","channels":["email"]}\n{"email":"budi@","variables":{"code":"1"}}\n',
}


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    with visiting(browser, url, WIDE, ADMIN_KEY) as found:
        yield found


def scheduled(system: System, reference: str) -> str:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return accept(system, reference, ["tomorrow@example.com"], scheduledAt=tomorrow)


@pytest.fixture(autouse=True)
def nothing_left(system: System) -> Iterator[None]:
    """Cancel what a test scheduled: the overview of other tests shows unfinished blasts first."""
    yield
    for one in call(system, "/api/blasts?state=scheduled")["blasts"]:
        system.send("POST", f"/api/blasts/{one['blastId']}/cancel", {}, ADMIN)


def end_session(page: Page) -> None:
    """Let the session end, as it does after twelve hours."""
    page.context.clear_cookies()


def test_a_question_is_about_the_page_that_shows(visit: Visit, system: System) -> None:
    """The question of one blast stayed over another one that the back button brought, and cancelled the one before."""
    first, second = scheduled(system, "gone back to"), scheduled(system, "gone back from")
    visit.open(f"/blasts/{first}")
    hand = Mouse(visit.page)
    hand.press("Blasts")
    hand.press("gone back from")
    visit.page.wait_for_selector("h1:has-text('gone back from')")
    hand.press("Cancel")
    visit.page.wait_for_selector("dialog[open]")
    visit.page.go_back()
    visit.page.wait_for_selector("dialog", state="detached")
    visit.page.go_back()
    visit.page.wait_for_selector("h1:has-text('gone back to')")
    assert not visit.page.is_visible("dialog")
    assert call(system, f"/api/blasts/{second}")["blast"]["state"] == "scheduled"
    visit.check()


@pytest.mark.parametrize("kind", _FILES)
def test_a_file_that_was_saved_again_has_to_be_opened_again(visit: Visit, tmp_path: Path, kind: str) -> None:
    """Who mends a row where the file came from was told that the server does not answer, or what the browser says."""
    path = tmp_path / f"recipients.{kind}"
    path.write_text(_FILES[kind])
    visit.open("/send?template=otp")
    visit.page.set_input_files("#recipients", path)
    visit.page.wait_for_selector("text=4. Check")
    path.write_text(_FILES[kind].replace("budi@", "budi@example.com"))
    Mouse(visit.page).press("Check all rows")
    visit.page.wait_for_selector(".problem:has-text('This file has changed since it was opened. Open it again.')")
    visit.check()


def test_an_import_that_was_saved_again_has_to_be_opened_again(visit: Visit, tmp_path: Path) -> None:
    """The same for a list of addresses."""
    path = tmp_path / "stop.csv"
    path.write_text("email\none@example.com\n")
    visit.open("/suppressions")
    hand = Mouse(visit.page)
    hand.press("Import")
    visit.page.set_input_files("#import-file", path)
    path.write_text("email\none@example.com\ntwo@example.com\n")
    hand.press("Check the file")
    visit.page.wait_for_selector(".problem:has-text('This file has changed since it was opened.')")
    visit.check()


def test_parameters_of_whatsapp_are_typed_line_by_line(visit: Visit, system: System) -> None:
    """Enter did nothing in these fields, so that nobody could type a second parameter; a button lost its type."""
    template = call(system, "/api/templates/otp")["template"]
    body = {name: value for name, value in template.items() if name not in {"id", "version"}}
    whatsapp = template["whatsapp"] | {"buttonVariables": [_BUTTON]}
    system.send("POST", "/api/templates", body | {"id": "typed", "whatsapp": whatsapp}, ADMIN)
    visit.open("/templates/typed")
    hand, keys = Keyboard(visit.page), visit.page.keyboard
    hand.reach("Body", field=True)
    keys.press("Control+End")
    keys.type("\nminutes\n")
    hand.reach("Buttons", field=True)
    keys.press("Home")
    keys.type("minutes\n")
    keys.press("End")
    keys.type(" | upper\ncopy_code: code")
    hand.press("Save as the next version")
    visit.hear("is saved as version 2")
    saved = call(system, "/api/templates/typed")["template"]["whatsapp"]
    assert saved["bodyVariables"] == ["code", "minutes"]
    assert saved["buttonVariables"] == ["minutes", _BUTTON | {"value": "name | upper"}, _COUPON]
    visit.check()


def test_what_another_saved_meanwhile_is_not_replaced_unseen(visit: Visit, system: System) -> None:
    """Two people had the template open: the second to save undid the first, and nobody was told."""
    body = {"name": "shared", "channels": ["email"], "subject": "x", "text": "as it was"}
    system.send("POST", "/api/templates", body | {"id": "shared"}, ADMIN)
    visit.open("/templates/shared")
    hand = Mouse(visit.page)
    hand.fill("Text", "by the second")
    system.send("PUT", "/api/templates/shared", body | {"text": "by the first"}, ADMIN)
    hand.press("Save as the next version")
    visit.page.wait_for_selector(".problem:has-text('Version 2 was saved meanwhile')")
    assert call(system, "/api/templates/shared")["template"]["text"] == "by the first"
    assert visit.page.get_by_label("Text").first.input_value() == "by the second"
    hand.press("Save as the next version")
    visit.hear("shared is saved as version 3.")
    assert call(system, "/api/templates/shared")["template"]["text"] == "by the second"
    visit.check()


def test_more_filters_stay_while_one_is_emptied(walk: tuple[Visit, Hand]) -> None:
    """They closed over the field in which the person typed, and the focus was lost."""
    visit, hand = walk
    visit.open("/messages")
    hand.press("More filters")
    hand.fill("Template", "otp")
    visit.page.wait_for_url("**template=otp*")
    hand.fill("Template", "")
    visit.page.wait_for_url("**/console/messages")
    assert visit.page.get_by_label("Template").is_visible()
    assert visit.page.evaluate("document.activeElement.tagName") == "INPUT"
    visit.check()


def test_a_year_has_four_digits(visit: Visit) -> None:
    """One digit too many made a time that nothing could read: the filter failed, and said nothing."""
    visit.open("/messages")
    hand = Keyboard(visit.page)
    hand.press("More filters")
    hand.reach("From", field=True)
    visit.page.keyboard.type("113020260930PM")
    visit.page.wait_for_url("**from=2026-11-30T21%3A30%3A00.000Z*")
    visit.check()


def test_a_long_cell_is_shown_in_part(visit: Visit) -> None:
    """A column of whole letters pushed the check and the button to send many screens down."""
    visit.open("/send?template=otp")
    rows = f"name,email,code,letter\nSiti,siti@example.com,1,{'letter ' * 1000}\n"
    Mouse(visit.page).put_file("A CSV or NDJSON file", file("long.csv", rows))
    visit.page.wait_for_selector("td:has-text('letter letter')")
    assert len(visit.page.inner_text("tr:has-text('letter letter')")) < 300
    visit.check()


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_a_long_reference_hides_nothing(browser: Browser, url: str, system: System, look: Look) -> None:
    """One reference without a space made the table so wide that no state of any blast could be seen."""
    scheduled(system, "W" * 200)
    with visiting(browser, url, look, ADMIN_KEY) as visit:
        for path in ("/blasts", "/"):
            visit.open(path)
            visit.page.wait_for_selector(f"tbody a:has-text('{'W' * 200}')")
            assert visit.page.evaluate(_CUT) == []
            visit.check()


def test_a_long_state_fits_on_the_narrowest_screen(browser: Browser, url: str, blast: str) -> None:
    """At 320 pixels, which is 400 % zoom on a small screen, a state was cut off and its list scrolled sideways."""
    with visiting(browser, url, Look(320, "light"), ADMIN_KEY) as visit:
        visit.open("/blasts?state=completed_with_failures")
        visit.page.wait_for_selector(f"tbody a[href$='{blast}']")
        assert visit.page.evaluate(_CUT) == []
        visit.check()


def test_an_ended_session_leaves_what_was_written(browser: Browser, url: str) -> None:
    """Signing in again brought the page as it was stored, and a template that took an hour was lost."""
    with visiting(browser, url, NARROW, ADMIN_KEY) as visit:
        page, hand = visit.page, Keyboard(visit.page)
        visit.open("/templates/otp")
        hand.fill("Text", "{{ code }}, written for an hour")
        end_session(page)
        page.wait_for_selector("dialog h2:has-text('Your session has ended')")
        visit.check_access()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        assert page.is_visible("dialog[open]")
        page.get_by_label("API key").fill(ADMIN_KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog", state="detached")
        assert page.get_by_label("Text").first.input_value() == "{{ code }}, written for an hour"
        page.wait_for_selector(".problem", state="detached")
        visit.forgive("401")
        visit.check()


def test_another_key_begins_with_a_new_page(visit: Visit) -> None:
    """The question of the one before was asked again, although the key may not do it."""
    page, hand = visit.page, Mouse(visit.page)
    visit.open("/channels")
    hand.press("Pause")
    page.wait_for_selector("dialog[open]")
    end_session(page)
    hand.press("Pause")
    page.wait_for_selector("dialog h2:has-text('Your session has ended')")
    page.get_by_label("API key").fill(READ_KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Sign out guest")
    page.wait_for_selector("h2:has-text('Email')")
    assert not page.is_visible("dialog")
    assert not page.is_visible("button:has-text('Pause')")
    visit.forgive("401")
    visit.check()


def test_a_page_that_nobody_is_signed_in_to_asks_for_nothing(visit: Visit) -> None:
    """It would ask every few seconds until somebody comes, and read again what it shows once somebody has."""
    page = visit.page
    page.clock.install()
    visit.open("/messages")
    page.wait_for_selector(".table-box")
    end_session(page)
    Mouse(page).press("Blasts")
    page.wait_for_selector("dialog h2:has-text('Your session has ended')")
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url))
    page.clock.run_for(60_000)
    assert calls == []
    page.get_by_label("API key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".table-box")
    assert not page.is_visible(".problem")
    visit.forgive("401")
    visit.check()
