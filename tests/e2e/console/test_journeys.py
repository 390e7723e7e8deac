"""What a person does with the console, from the first file to the last page: by mouse, and by keyboard alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.e2e.console.browser import Visit
from tests.e2e.console.conftest import ADMIN
from tests.e2e.console.hands import Hand
from tests.e2e.console.walking import accept, call, file, wait
from tests.e2e.system import System

LINES = (
    "Full Name;E-mail;Code",
    "Siti;siti@example.com;1234",
    "Budi;budi@example;2222",
    "Wati;wati@example.com;",
    "Joko;;4444",
    "Gone;bounce+{hand}@example.com;5555",
    '"Sri, the ""second""";sri@example.com;6666',
)


def test_a_newcomer_sends_a_file(walk: tuple[Visit, Hand]) -> None:
    """Upload, see three mistakes beside their rows, fix the mapping, preview, send, watch, and retry a failure."""
    visit, hand = walk
    page = visit.page
    visit.open("/")
    if page.is_visible("button.menu"):
        hand.press("Menu")
    hand.press("Send")
    page.wait_for_selector("h1:has-text('Send')")
    hand.put_file("A CSV or NDJSON file", file("people.csv", "\n".join(LINES).format(hand=type(hand).__name__) + "\n"))
    page.wait_for_selector("text=people.csv")
    hand.choose("Template", "One-time password")
    page.wait_for_selector("text=3. Columns")
    hand.toggle("WhatsApp")
    # "Full Name" is nothing that the template knows by itself
    assert page.get_by_label("What the column Full Name is").input_value() == ""
    assert page.get_by_label("What the column E-mail is").input_value() == "email"
    hand.choose("What the column Full Name is", "name")
    frame = page.frame_locator("iframe.mail")
    frame.get_by_text("Hello Siti").wait_for()
    hand.fill("Row", "6")
    frame.get_by_text('Hello Sri, the "second"').wait_for()
    hand.fill("Reference", "first <i>mailing</i>")

    hand.press("Check all rows")
    page.wait_for_selector("text=3 recipients can be sent to")
    rows = [one.inner_text() for one in page.query_selector_all("section[aria-label='Result of the check'] tbody tr")]
    assert [row.split()[0] for row in rows] == ["2", "3", "4"]
    assert "budi@example" in rows[0]
    assert "code" in rows[1]
    assert "email" in rows[2]
    visit.check_access()

    hand.press("Send to 3, leave out 3")
    page.wait_for_selector("h1:has-text('first <i>mailing</i>')")
    page.wait_for_selector(".badge:has-text('completed, some failed')")
    assert page.get_attribute("main [role=progressbar]", "aria-valuenow") == "100"
    page.wait_for_selector("text=Failures by reason")
    failed = page.inner_text(".figure:has-text('failed') .figure-value")
    hand.press(f"{failed}failed")
    page.wait_for_selector("h1:has-text('Messages')")
    hand.press("bounce+")
    page.wait_for_selector(".said:has-text('550 5.1.1')")
    hand.press("Send again")
    page.wait_for_selector("dialog[open]")
    hand.press("Send again")
    visit.hear("The message will be sent again.")
    page.wait_for_selector("text=run 2")
    # a preview may be asked for before the column of the name is chosen
    visit.forgive("422")
    visit.check()


def test_a_file_of_lines_is_scheduled_and_cancelled(walk: tuple[Visit, Hand], system: System) -> None:
    """NDJSON brings its own head; a blast waits for its time, is paused with a reason, resumed and cancelled."""
    visit, hand = walk
    page = visit.page
    lines = '{"templateId":"otp","channels":["email"]}\n{"email":"a@example.com","variables":{"code":"1"}}\n'
    visit.open("/send")
    hand.put_file("A CSV or NDJSON file", file("p.ndjson", lines))
    page.wait_for_selector("text=4. Check")
    hand.toggle("WhatsApp")
    hand.set_time("Send at", datetime.now(UTC) + timedelta(days=2))
    hand.press("Check all rows")
    page.wait_for_selector("text=1 recipient can be sent to")
    hand.press("Send to 1")
    page.wait_for_selector(".badge:has-text('scheduled')")
    page.wait_for_selector(".wait:has-text('Scheduled for')")
    blast_id = page.url.rpartition("/")[2]
    hand.press("Pause")
    page.wait_for_selector("dialog[open]")
    hand.fill("Reason", "the text is wrong")
    hand.press("Pause")
    page.wait_for_selector(".wait:has-text('the text is wrong')")
    hand.press("Resume")
    visit.hear("The blast is resumed.")
    hand.press("Cancel")
    page.wait_for_selector("dialog[open]")
    hand.press("Cancel the blast")
    page.wait_for_selector(".badge:has-text('cancelled')")
    # the page may hear of the mark before its messages are ended
    wait(lambda: call(system, f"/api/blasts/{blast_id}")["blast"]["counts"]["cancelled"] == 1)
    visit.check()


def test_all_failures_of_a_filter_are_sent_again(walk: tuple[Visit, Hand], system: System) -> None:
    """They are found by a reference, their number is asked for first, then exactly these are sent and fail again."""
    visit, hand = walk
    page = visit.page
    reference = f"again by {type(hand).__name__}"
    blast_id = accept(system, reference, [f"bounce+{reference[9]}{one}@example.com" for one in range(3)])
    wait(lambda: bool(call(system, f"/api/blasts/{blast_id}")["blast"]["counts"]["failed"] == 3))
    visit.open("/messages")
    hand.press("More filters")
    hand.fill("Reference", reference)
    # the whole text: what matched before the filter may be 13
    page.wait_for_selector("text=/^3 match/")
    hand.press("Send the failed again")
    page.wait_for_selector("text=These are all that match.")
    hand.press("Send 3 again")
    visit.hear("3 messages will be sent again.")
    hand.press(f"bounce+{reference[9]}")
    page.wait_for_selector("text=in run 2")
    visit.check()


def test_a_message_that_waits_is_cancelled(walk: tuple[Visit, Hand], system: System) -> None:
    """One of a blast; the other stays."""
    visit, hand = walk
    page = visit.page
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    blast_id = accept(system, "", ["one@example.com", "two@example.com"], scheduledAt=later)
    wait(lambda: call(system, f"/api/logs/messages?blast={blast_id}")["logs"] != [])
    visit.open(f"/messages/{blast_id}:0:email")
    hand.press("Cancel")
    page.wait_for_selector("dialog[open]")
    hand.press("Cancel the message")
    page.wait_for_selector(".badge:has-text('cancelled')")
    assert call(system, f"/api/blasts/{blast_id}")["blast"]["counts"]["scheduled"] == 1
    system.send("POST", f"/api/blasts/{blast_id}/cancel", {}, ADMIN)
    visit.check()


def test_a_template_is_written_previewed_and_saved(walk: tuple[Visit, Hand], system: System) -> None:
    """The preview follows every change, problems appear beside their fields, and hostile HTML can do nothing."""
    visit, hand = walk
    page = visit.page
    visit.open("/templates")
    hand.press("New template")
    page.wait_for_selector("h1:has-text('New template')")
    hand.fill("Id", "greeting")
    hand.fill("Name", "Greeting")
    hand.fill("Subject", "Good day {{ name }")
    page.wait_for_selector("section.preview .problem")
    hand.fill("Subject", "Good day {{ name }}")
    page.wait_for_selector("section.preview strong:has-text('Good day Siti')")
    hostile = "<p>Dear {{ name }}</p><script>parent.document.title = 'caught'</script><img src=x onerror='alert(1)'>"
    hostile += "<link rel=preconnect href='https://tracker.example'><base href='https://tracker.example/'>"
    hand.fill("HTML", hostile + '<img src="https://tracker.example/pixel.png">')
    page.frame_locator("iframe.mail").get_by_text("Dear Siti").wait_for()
    assert page.frame_locator("iframe.mail").locator("link, base, meta").count() == 0
    assert page.title() == "New template · Kurir"
    assert visit.strangers == []
    hand.fill("HTML", "<p>Dear {{ name }}</p>")
    hand.press("Create the template")
    visit.hear("Greeting is saved as version")
    page.wait_for_selector("text=What a recipient needs")
    assert call(system, "/api/templates/greeting")["template"]["subject"] == "Good day {{ name }}"
    hand.press("Send a test")
    hand.fill("To", "me@example.com")
    hand.press("Send it")
    page.wait_for_selector("text=What happened")
    visit.open("/templates/greeting")
    hand.press("Delete")
    page.wait_for_selector("dialog[open]")
    hand.press("Delete it")
    page.wait_for_selector("h1:has-text('Templates')")
    # the frame's policy says in the log what it blocked; the words of a frame may come late
    visit.forgive("Content Security Policy")
    visit.forgive("422")
    visit.check()


def test_an_address_is_suppressed_and_lifted(walk: tuple[Visit, Hand], system: System) -> None:
    """Added with a reason, found by a part of it, lifted one by one and as a whole filter."""
    visit, hand = walk
    page = visit.page
    visit.open("/suppressions")
    for address in ("no", "no.more@example.com", "no.more.either@example.com"):
        hand.press("Suppress an address")
        page.wait_for_selector("dialog[open]")
        hand.fill("Address", address)
        hand.press("Suppress it")
        if address == "no":
            page.wait_for_selector("dialog .field-problem")
            hand.press("Close")
        page.wait_for_selector("dialog", state="detached")
    hand.fill("Address", "no.more")
    page.wait_for_url("**address=no.more*")
    hand.press("Lift no.more.either@")
    page.wait_for_selector("dialog[open]")
    hand.press("Lift it")
    page.wait_for_selector("th:has-text('no.more.either@')", state="detached")
    hand.press("Lift all that match")
    page.wait_for_selector("dialog[open]")
    hand.press("Lift 1")
    page.wait_for_selector("text=No suppression matches.")
    assert call(system, "/api/suppressions?address=no.more")["suppressions"] == []
    visit.forgive("422")
    visit.check()


def test_a_channel_is_paused_limited_and_checked(walk: tuple[Visit, Hand], system: System) -> None:
    """A pause has a reason, a wrong rate is refused beside its field, and the provider answers on demand."""
    visit, hand = walk
    page = visit.page
    visit.open("/channels")
    hand.press("Pause Email")
    page.wait_for_selector("dialog[open]")
    hand.fill("Reason, shown wherever the channel is shown", "stock-taking")
    hand.press("Pause")
    page.wait_for_selector(".wait:has-text('stock-taking')")
    hand.press("Resume Email")
    visit.hear("Email is resumed.")
    hand.press("Change the limit of Email")
    page.wait_for_selector("dialog[open]")
    hand.fill("Messages per time", "fast")
    hand.press("Change the limit")
    page.wait_for_selector("dialog .field-problem")
    hand.fill("Messages per time", "50/1s")
    hand.press("Change the limit")
    page.wait_for_selector("text=50/1s, set at run time")
    hand.press("Change the limit of Email")
    page.wait_for_selector("dialog[open]")
    hand.press("Use the senders’ own")
    wait(lambda: call(system, "/api/channels")["channels"][0]["rateSource"] == "setting")
    page.wait_for_selector("dialog", state="detached")
    hand.press("Check the provider")
    page.wait_for_selector("text=accepts our credentials")
    visit.forgive("422")
    visit.check()


def test_a_webhook_is_added_tested_and_removed(walk: tuple[Visit, Hand], system: System) -> None:
    """Its secret is shown once; deliveries are listed with what the endpoint answered."""
    visit, hand = walk
    page = visit.page
    visit.open("/webhooks")
    hand.press("Add a webhook")
    page.wait_for_selector("dialog[open]")
    hand.fill("URL", "http://127.0.0.1:9/kurir")
    hand.fill("Description", "the archive")
    hand.press("Add")
    page.wait_for_selector("text=It is shown only now")
    assert page.inner_text("dialog pre").startswith("whsec_")
    hand.press("I have kept it")
    page.wait_for_selector("dialog", state="detached")
    hand.press("the archive")
    page.wait_for_selector("h1:has-text('the archive')")
    hand.press("Send a test")
    visit.hear("A test event is on its way.")
    page.wait_for_selector("tbody tr:has-text('webhook.test')")
    hand.press("Disable")
    page.wait_for_selector("h1 .badge:has-text('disabled')")
    hand.press("Enable")
    # enabled, or failing as soon as nobody answers at its address again
    page.wait_for_selector("h1 .badge:not(:has-text('disabled'))")
    visit.check_access()
    hand.press("Remove")
    page.wait_for_selector("dialog[open]")
    hand.press("Remove it")
    page.wait_for_selector("text=No webhook yet.")
    assert call(system, "/api/webhooks")["webhooks"] == []
    visit.check()


def test_logs_show_calls_and_errors(walk: tuple[Visit, Hand]) -> None:
    """A refused call is found by its status, with who made it."""
    visit, hand = walk
    page = visit.page
    page.request.get(f"{visit.url}/api/blasts/nothing")
    visit.open("/logs")
    hand.fill("Status", "404")
    page.wait_for_url("**status=404*")
    page.wait_for_selector("code:has-text('/api/blasts/nothing')")
    assert "chief" in page.inner_text("tbody tr")
    hand.press("Warnings and errors")
    page.wait_for_selector("text=Level")
    visit.check()
