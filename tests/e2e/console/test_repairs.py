"""What a person mends with the console: failures, lists of addresses, webhooks. By mouse, and by keyboard alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.e2e.console.browser import Visit
from tests.e2e.console.conftest import ADMIN
from tests.e2e.console.hands import Hand
from tests.e2e.console.walking import accept, call, fail, file, wait
from tests.e2e.system import System

IMPORT = "email,reason\n{hand}.one@example.org,asked by phone\n{hand}.two@example.org,\nno address,\n"


def test_failures_of_a_blast_are_sent_again(walk: tuple[Visit, Hand], system: System) -> None:
    """One group by its reason, then all that are left; the blast is found among all by its reference and state."""
    visit, hand = walk
    page = visit.page
    reference = f"repairs by {type(hand).__name__}"
    blast_id = fail(system, reference, 2)
    visit.open("/blasts")
    hand.choose("State", "completed, some failed")
    hand.fill("Reference", reference)
    page.wait_for_url("**reference=repairs*")
    page.wait_for_selector(f"tbody tr:has-text('{reference}')")
    hand.press(reference)
    page.wait_for_selector("text=Failures by reason")
    hand.press("Send again what failed with 550 5.1.1")
    page.wait_for_selector("text=Send 2 messages again?")
    visit.check_access()
    hand.press("Send again")
    visit.hear("2 messages will be sent again.")
    wait(lambda: call(system, f"/api/messages/{blast_id}:1:email")["message"]["run"] == 2)
    visit.check()

    other = fail(system, f"all {reference}", 2)
    visit.open(f"/blasts/{other}")
    hand.press("Send the failed again")
    page.wait_for_selector("text=Send all 2 failed messages again?")
    hand.press("Send again")
    visit.hear("2 messages will be sent again.")
    wait(lambda: call(system, f"/api/messages/{other}:0:email")["message"]["run"] == 2)
    visit.check()


def test_addresses_are_imported_and_exported(walk: tuple[Visit, Hand], system: System) -> None:
    """A file is checked first, with what is wrong in it; the rows that can be read are then stored, and exported."""
    visit, hand = walk
    page, name = visit.page, type(hand).__name__.lower()
    visit.open("/suppressions")
    hand.press("Import")
    page.wait_for_selector("dialog[open]")
    hand.put_file("CSV file", file("list.csv", IMPORT.format(hand=name)))
    hand.press("Check the file")
    page.wait_for_selector("text=2 addresses can be imported")
    assert "1 row cannot be read" in page.inner_text("dialog [role=status]")
    page.wait_for_selector("dialog li:has-text('line 4')")
    visit.check_access()
    assert call(system, f"/api/suppressions?address={name}.one")["suppressions"] == []
    hand.press("Import")
    visit.hear("2 addresses added, 0 changed.")
    hand.fill("Address", f"{name}.")
    page.wait_for_selector(f"tbody tr:has-text('{name}.one@example.org')")
    with page.expect_download() as download:
        hand.press("Export CSV")
    lines = download.value.path().read_text().splitlines()
    assert sorted(line.split(",")[1] for line in lines[1:]) == [f"{name}.one@example.org", f"{name}.two@example.org"]
    visit.check()


def test_a_webhook_is_changed_replayed_and_given_a_new_secret(walk: tuple[Visit, Hand], system: System) -> None:
    """Its events and its name change, past events are sent again from a time on, and the new secret is shown once."""
    visit, hand = walk
    page = visit.page
    body = {"url": "http://127.0.0.1:9/kurir", "events": ["*"], "description": "the old shop"}
    added = system.send("POST", "/api/webhooks", body, ADMIN)
    path = f"/api/webhooks/{added['webhook']['id']}"
    fail(system, f"for a webhook, {type(hand).__name__}", 1)
    wait(lambda: "message.failed" in str(call(system, f"{path}/deliveries")["deliveries"]))
    visit.open(f"/webhooks/{added['webhook']['id']}")
    hand.press("Change")
    page.wait_for_selector("dialog[open]")
    hand.fill("Description", "the new shop")
    hand.toggle("all events")
    hand.toggle("message.bounced")
    visit.check_access()
    hand.press("Change")
    page.wait_for_selector("h1:has-text('the new shop')")
    assert set(call(system, path)["webhook"]["events"]) == {"message.bounced", "message.failed"}

    hand.press("Replay")
    page.wait_for_selector("dialog[open]")
    hand.set_time("From", datetime.now(UTC) - timedelta(hours=1))
    hand.press("Send again")
    assert not visit.hear("will be sent again.").startswith("0 ")

    hand.press("Replace the secret")
    page.wait_for_selector("dialog[open]")
    hand.press("Replace it")
    page.wait_for_selector("text=It is shown only now")
    secret = page.inner_text("dialog pre")
    assert secret.startswith("whsec_")
    assert secret != added["secret"]
    hand.press("I have kept it")
    page.wait_for_selector("dialog", state="detached")
    hand.press("Remove")
    page.wait_for_selector("dialog[open]")
    hand.press("Remove it")
    page.wait_for_selector("text=No webhook yet.")
    visit.check()


def test_what_a_filter_shows_is_exported(walk: tuple[Visit, Hand], system: System) -> None:
    """The file has the rows of the filter, as a spreadsheet reads them."""
    visit, hand = walk
    page, reference = visit.page, f"exported by {type(hand).__name__}"
    fail(system, reference, 2)
    visit.open("/messages")
    hand.press("More filters")
    hand.fill("Reference", reference)
    page.wait_for_selector("text=/^2 match/")
    with page.expect_download() as download:
        hand.press("Export CSV")
    text = download.value.path().read_text()
    assert text.startswith("\ufeffid,job_id,")
    assert text.count("bounce+exportedby") == 2
    visit.check()


def test_a_button_stays_itself_when_the_page_changes(walk: tuple[Visit, Hand], system: System) -> None:
    """Beside a button that changes, the others do not: a click or Enter in that moment does what the person meant."""
    visit, _ = walk
    page = visit.page
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    blast_id = accept(system, "paused by others", ["stays@example.com"], scheduledAt=tomorrow)
    visit.open(f"/blasts/{blast_id}")
    cancel = page.wait_for_selector(".actions button:has-text('Cancel')")
    assert cancel is not None
    cancel.focus()
    for action, shown in (("pause", "Resume"), ("resume", "Pause")):
        system.send("POST", f"/api/blasts/{blast_id}/{action}", {}, ADMIN)
        page.wait_for_selector(f".actions button:has-text('{shown}')")
        assert cancel.inner_text() == "Cancel"
        assert page.evaluate("document.activeElement.textContent") == "Cancel"
    visit.check()
