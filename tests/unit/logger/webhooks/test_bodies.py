"""What a client gets: ids, status, reference and metadata; the recipient only if that is allowed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.logger.webhooks.bodies import batch_id, event_id, item_of, read_facts, single_of
from shared.events import (
    ChannelChanged,
    Ended,
    Queued,
    QueuedRecipient,
    Receipts,
    Sent,
    SuppressedAddress,
    SuppressionsAdded,
)
from tests.unit.logger.database import (
    START_MS,
    TEMPLATE,
    Database,
    accepted,
    blast,
    entry,
    queued_phones,
    receipt,
    sent,
    sent_phone,
)
from tests.unit.logger.webhooks.endpoints import add, bodies, journal, take

JOB, AT = "b:0:email", "2026-09-21T14:13:20.002Z"


def queued_with_reference() -> Queued:
    recipient = QueuedRecipient(0, "user0@example.com", "User 0", "order-7")
    return Queued(START_MS, "b", "email", TEMPLATE.id, TEMPLATE.name, [recipient])


def test_a_message_carries_what_the_client_knows_it_by(database: Database) -> None:
    """Its ids, its own reference, and those of its blast."""
    row = add(database)
    snapshot = accepted(blast(reference="campaign", metadata={"team": "growth"}))
    database.apply(entry(1, snapshot, queued_with_reference(), sent()))
    (one,) = take(database, row)
    assert bodies([one]) == [
        {
            "type": "message.sent",
            "timestamp": AT,
            "data": {
                "jobId": JOB, "blastId": "b", "channel": "email", "status": "sent", "run": 1, "attempts": 1,
                "messageId": "<0.1@x>", "templateId": "reminder", "reference": "order-7",
                "blastReference": "campaign", "metadata": {"team": "growth"},
            },
        }
    ]  # fmt: skip
    assert one.webhook_id == event_id("message.sent", JOB, "1")


@pytest.mark.parametrize("recipients", [True, False])
@pytest.mark.parametrize("text", ["order-7", "", 'a "quoted" \\ Zoë \x07\n'])
def test_the_most_frequent_event_shows_what_all_others_do(database: Database, text: str, *, recipients: bool) -> None:
    """A sent message is written without a detour; every field is as in an event that is made from its fields."""
    recipient = QueuedRecipient(0, "user0@example.com", "User 0", text)
    metadata = {"team": text} if text else {}
    database.apply(entry(1, accepted(blast(reference=text, metadata=metadata))))
    add(database)
    database.apply(entry(2, Queued(START_MS, "b", "email", TEMPLATE.id, TEMPLATE.name, [recipient]), sent()))
    phones = (accepted(blast("w", channel="whatsapp")), queued_phones(), sent_phone())
    database.apply(entry(3, *phones, channel="whatsapp"))
    events = journal(database)
    facts = read_facts(database.connection, events, recipients=recipients)
    assert len(events) == 2
    for event in events:
        assert orjson.loads(single_of(event, facts)) == facts.shown(event)
        assert orjson.loads(item_of(event, facts)[1]) == {"id": event.id, **facts.shown(event)}


def test_an_event_id_is_the_same_whenever_it_is_made() -> None:
    """It is what a client recognises a repetition by; it has no full stop, which would be ambiguous in a signature."""
    made = event_id("message.sent", JOB, "1")
    assert made == "evt_40f3af34ca334fc59b05"
    assert len({made, event_id("message.sent", JOB, "2"), event_id("message.failed", JOB, "1")}) == 3
    assert "." not in made


def test_recipients_are_hidden_unless_they_are_allowed(database: Database) -> None:
    """This includes the texts of providers, which quote addresses, and WhatsApp's ids, which contain the number."""
    row = add(database)
    words = "550 5.1.1 <user0@example.com>: user0@example.com is unknown, call 6281234567890"
    refused = Ended(START_MS, JOB, 1, 1, "failed", "permanent", "550", words)
    phone = Sent(START_MS, "w:0:whatsapp", 1, 1, "wamid.HBgNNjI4MTIwMDAwMDAwFQ", "{}", 7, address="6281200000000")
    bounce = receipt(
        "bounced", 5, job_id=JOB, severity="hard", words='unknown local-part "USER0" in domain "a.example"'
    )
    suppressed = SuppressedAddress("user0@example.com", "all", "bounce", "hard_bounce: user0@example.com", JOB)
    database.apply(entry(1, queued_with_reference(), refused, phone))
    database.apply(entry(2, Receipts([bounce]), SuppressionsAdded(START_MS, "email", [suppressed])))
    hidden = take(database, row)
    assert len(hidden) == 4
    for one in hidden:
        assert not any(text in one.body.lower() for text in ("user0", "6281200000000", "6281234567890", "wamid"))
    assert '"class":"permanent","code":"550"' in hidden[0].body
    shown = bodies(take(database, add(database, events=["*"]), recipients=True))
    assert shown == []  # an endpoint gets what happens after it was added
    other = Database()
    seen = add(other)
    other.apply(entry(1, queued_with_reference(), refused, phone))
    other.apply(entry(2, SuppressionsAdded(START_MS, "email", [suppressed])))
    first, second, third = (body["data"] for body in bodies(take(other, seen, recipients=True)))
    other.close()
    assert (first["recipient"], first["error"]["message"]) == ("user0@example.com", words)
    assert (second["recipient"], second["messageId"]) == ("6281200000000", "wamid.HBgNNjI4MTIwMDAwMDAwFQ")
    assert third == {
        "channel": "email", "scope": "all", "source": "bounce", "reason": "hard_bounce: user0@example.com",
        "jobId": JOB, "recipient": "user0@example.com",
    }  # fmt: skip


def test_a_batch_has_the_id_of_each_event(database: Database) -> None:
    """Its own id follows from theirs."""
    row = add(database, batch={"max": 2, "withinMs": 0})
    database.apply(entry(1, queued_with_reference(), sent(), ChannelChanged(START_MS, "email", "paused", "no login")))
    (one,) = take(database, row)
    (body,) = bodies([one])
    assert one.webhook_id == batch_id(row.endpoint_id, [item["id"] for item in body["data"]])
    assert (body["type"], [item["type"] for item in body["data"]]) == ("batch", ["message.sent", "channel.paused"])
    assert [item["id"] for item in body["data"]] == [
        event_id("message.sent", JOB, "1"), event_id("channel.paused", "email", str(START_MS)),
    ]  # fmt: skip
    assert body["data"][1]["data"] == {"channel": "email", "reason": "no login"}


def test_an_event_about_a_message_that_is_gone_still_has_its_ids(database: Database) -> None:
    """Retention may have deleted its row."""
    row = add(database)
    database.apply(entry(1, queued_with_reference(), sent()))
    database.connection.execute("DELETE FROM message_logs")
    data: dict[str, Any] = bodies(take(database, row))[0]["data"]
    assert (data["jobId"], data["blastId"]) == (JOB, "b")
    assert "reference" not in data
