"""Every page of the console, at two widths, light and dark: it works, is accessible, and keeps to itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route

from tests.e2e.console.browser import LOOKS, NARROW, WIDE, Visit, visiting
from tests.e2e.console.conftest import ADMIN, ADMIN_KEY, HOSTILE, MASKED_KEY, READ_KEY, TURNED
from tests.e2e.system import System

PAGES = ["/", "/blasts", "/blasts/{blast}", "/messages", "/messages?status=failed&blast={blast}",
         "/messages/{blast}:10:email", "/messages/{blast}:13:email", "/send", "/templates",
         "/templates/otp", "/templates/new", "/suppressions", "/channels",
         "/webhooks", "/logs", "/logs?of=system", "/nothing"]  # fmt: skip

# what has the focus at the moment when the dialog leaves the page
FOCUS_AFTER_DIALOG = """new MutationObserver((_, observer) => {
  if (document.querySelector("dialog")) return;
  window.focusAfterDialog = document.activeElement.textContent;
  observer.disconnect();
}).observe(document.body, { childList: true, subtree: true })"""


@pytest.fixture(scope="module")
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    """One tab for all paths, loaded again for each."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as found:
        yield found


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_accessible_and_keeps_to_itself(visit: Visit, blast: str, path: str) -> None:
    """Axe finds nothing, the console's log is empty, no other host is asked, and nothing is wider than the screen."""
    visit.look_at(WIDE)
    visit.open(path.format(blast=blast))
    visit.page.wait_for_selector(".loading", state="detached")
    for look in LOOKS:
        visit.look_at(look)
        visit.check()
        visit.check_access(whole=look in (WIDE, NARROW))


def test_hostile_content_is_text(browser: Browser, url: str, blast: str) -> None:
    """Markup in a name, a reference and metadata is shown as it was written; no element comes of it."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        for path in ("/", "/blasts", f"/blasts/{blast}", f"/messages/{blast}:13:email", "/messages"):
            visit.open(path)
            visit.page.wait_for_selector("text=onerror=alert(1)")
            assert visit.page.query_selector("main img") is None
        visit.check()


def test_a_name_that_turns_text_turns_only_itself(browser: Browser, url: str, system: System) -> None:
    """A mark that nothing ends reversed all that follows: the version stood in the middle of the name."""
    body = {"id": "turned", "name": "a name \u202eturned", "channels": ["email"], "subject": "x", "text": "x"}
    system.send("POST", "/api/templates", body, ADMIN)
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        visit.open("/templates/turned")
        name, badge = visit.page.locator("h1 bdi").bounding_box(), visit.page.locator("h1 .badge").bounding_box()
        assert name is not None
        assert badge is not None
        assert name["x"] + name["width"] <= badge["x"]
        visit.check()


def test_hostile_words_of_a_provider_are_text(browser: Browser, url: str, blast: str) -> None:
    """Markup, marks that turn the direction of text, and a line of 10 KB stay within their place, on a phone too."""
    words = f"550 {HOSTILE}{TURNED} " + "w" * 10_000

    def answer(route: Route) -> None:
        found = route.fetch().json()
        row = found["message"]
        row |= {"recipient_name": words, "subject": words, "error_message": words, "reference": words}
        for one in row["history"]:
            one["response"] = words
        receipt = {"kind": "bounced", "at": row["updated_at"], "source": "hook", "trusted": True}
        row["receipts"] = [receipt | {"words": words, "code": HOSTILE, "severity": "hard", "address": HOSTILE}]
        route.fulfill(json=found)

    with visiting(browser, url, NARROW, ADMIN_KEY) as visit:
        visit.page.route("**/api/messages/*", answer)
        visit.open(f"/messages/{blast}:10:email")
        visit.page.wait_for_selector("li:has-text('Bounced') .said")
        for look in (NARROW, WIDE):
            visit.look_at(look)
            visit.check()
        shown = visit.page.locator("bdi", has_text="onerror=alert(1)").all_inner_texts()
        assert len(shown) >= 6
        assert all(one == words for one in shown)
        assert visit.page.query_selector("main img") is None


def test_signing_in_and_out_by_keyboard(browser: Browser, url: str) -> None:
    """A wrong key is refused beside its field; the right one opens the page that was asked for."""
    with visiting(browser, url, WIDE) as visit:
        visit.open("/blasts")
        assert visit.page.text_content("h1") == "Kurir"
        visit.check_access()
        visit.page.keyboard.type("not a key of this system")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("text=there is no API key with this text")
        visit.page.fill("input[type=password]", ADMIN_KEY)
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("h1:has-text('Blasts')")
        (cookie,) = visit.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert ADMIN_KEY not in cookie["value"]
        visit.tab_to("Sign out chief")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("text=API key")
        assert visit.page.context.cookies() == []
        visit.forgive("401")
        visit.check()


def test_a_read_key_sees_no_button_that_it_may_not_press(browser: Browser, url: str, blast: str) -> None:
    """Nothing on any page offers what the API would refuse."""
    with visiting(browser, url, WIDE, READ_KEY) as visit:
        for path in ("/", f"/blasts/{blast}", f"/messages/{blast}:10:email"):
            visit.open(path)
            visit.page.wait_for_selector(".loading", state="detached")
            names = [one.inner_text() for one in visit.page.query_selector_all("main button")]
            assert [
                name for name in names if name not in {"Latest", "Older", "Clear the filters", "HTML", "Text"}
            ] == []
        for path in ("/templates/otp", "/templates/new"):
            visit.open(path)
            visit.page.wait_for_selector("legend:has-text('Variables')")
            assert not visit.page.is_visible("main button[type=submit]")
        visit.check()


def test_a_masked_key_sees_no_recipient(browser: Browser, url: str, system: System, blast: str) -> None:
    """Not in lists, stories, logs or suppressions; a mail's text is not shown. Another key sees who it was."""
    with visiting(browser, url, WIDE, MASKED_KEY) as visit:
        for path in ("/", f"/messages?blast={blast}", f"/messages/{blast}:10:email", "/suppressions", "/logs"):
            visit.open(path)
            visit.page.wait_for_selector(".loading", state="detached")
            shown = visit.page.inner_text("main")
            assert "bounce+" not in shown
            assert "hostile@" not in shown
            assert "person1" not in shown
        visit.open(f"/messages/{blast}:10:email")
        visit.page.wait_for_selector("h1:has-text('b***@example.com')")
        visit.page.wait_for_selector("text=whom this API key may not see")
        visit.check()
    assert system.get(f"/api/messages/{blast}:10:email", ADMIN)["message"]["recipient_email"] == "bounce+0@example.com"


def test_what_a_message_says_is_shown_while_it_is_kept(browser: Browser, url: str, blast: str) -> None:
    """A failed mail in its frame and as text, without its code; of a sent one, why it is not kept and what to do."""
    with visiting(browser, url, NARROW, ADMIN_KEY) as visit:
        visit.open(f"/messages/{blast}:10:email")
        visit.page.frame_locator("iframe.mail").get_by_text("Hello Gone 0").wait_for()
        assert "482913" not in visit.page.content()
        visit.page.click("button:has-text('Text')")
        visit.page.wait_for_selector("pre:has-text('Hello Gone 0,')")
        visit.check_access()
        visit.open(f"/messages/{blast}:13:email")
        visit.page.wait_for_selector("text=not kept once the provider has accepted it")
        visit.page.click("text=Preview the template")
        visit.page.wait_for_selector("h1:has-text('One-time password')")
        visit.check()


def test_a_page_opens_by_itself_once_redis_is_back(browser: Browser, url: str) -> None:
    """The session cannot be read at first: the page says why, and asks again without a hand."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        answer = {"success": False, "code": "QUEUE_UNAVAILABLE", "message": "Redis cannot be reached."}
        visit.page.route("**/console/session", lambda route: route.fulfill(status=503, json=answer))
        visit.open("/")
        visit.page.wait_for_selector("text=Redis cannot be reached.")
        visit.page.unroute("**/console/session")
        visit.page.wait_for_selector("h1:has-text('Overview')")
        visit.forgive("503")
        visit.check()


def test_a_channel_is_paused_and_resumed_by_keyboard(browser: Browser, url: str, system: System) -> None:
    """The reason is asked for, the focus stays in the dialog and comes back, and the page is live."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        visit.open("/")
        visit.page.wait_for_selector("button:has-text('Pause')")
        visit.tab_to("Pause Email")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("dialog[open]")
        visit.check_access()
        for _ in range(8):
            visit.page.keyboard.press("Tab")
            assert visit.page.evaluate(
                "document.activeElement.closest('dialog') || document.activeElement === document.body"
            )
        visit.page.evaluate(FOCUS_AFTER_DIALOG)
        visit.page.keyboard.press("Escape")
        visit.page.wait_for_selector("dialog", state="detached")
        assert visit.page.evaluate("focusAfterDialog").startswith("Pause"), "the focus was nowhere for a while"
        assert visit.page.evaluate("document.activeElement.textContent").startswith("Pause")
        visit.page.keyboard.press("Enter")
        visit.page.fill("dialog input", "stock-taking")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("text=paused")
        channels = system.get("/api/channels", ADMIN)["channels"]
        assert next(one for one in channels if one["name"] == "email")["paused"] == "stock-taking"
        visit.tab_to("Resume Email")
        visit.page.keyboard.press("Enter")
        visit.hear("Email is resumed.")
        visit.page.wait_for_selector("button:has-text('Resume')", state="detached")
        visit.check()


def test_a_group_of_failures_is_sent_again(browser: Browser, url: str, blast: str) -> None:
    """The reason in the provider's words, how many, and one button for exactly these."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        visit.open(f"/blasts/{blast}")
        row = visit.page.wait_for_selector("tr:has-text('5.1.1')")
        assert row is not None
        assert "550" in row.inner_text() or "5.1.1" in row.inner_text()
        row.query_selector("button").click()  # type: ignore[union-attr]  # every group has one
        visit.page.wait_for_selector("text=Send 3 messages again?")
        visit.page.click("dialog button:has-text('Send again')")
        visit.hear("3 messages will be sent again.")
        visit.check()


def test_the_filter_is_in_the_url(browser: Browser, url: str, blast: str) -> None:
    """A link reproduces the view, and the back button undoes a step."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        visit.open(f"/messages?blast={blast}")
        visit.page.wait_for_selector("text=/^14 match/")
        visit.page.fill("input[type=search]", "hostile@")
        visit.page.wait_for_url("**recipient=hostile*")
        visit.page.wait_for_selector("text=/^1 match/")
        visit.page.click("tbody a")
        visit.page.wait_for_selector("text=What happened")
        visit.page.go_back()
        visit.page.wait_for_selector("text=/^1 match/")
        assert visit.page.input_value("input[type=search]") == "hostile@"
        visit.check()
