"""Which suppressions follow from receipts: only trusted ones have an effect, and only on the address of our own row."""

from __future__ import annotations

from typing import Any

import pytest

from services.logger.suppressing import SOFT_FOR_MS
from shared.events import Queued, QueuedRecipient, Receipts
from shared.receipts import Receipt
from shared.suppressions import unpack_suppression
from tests.unit.logger.database import (
    START_MS,
    TEMPLATE,
    Database,
    entry,
    queued,
    queued_phones,
    receipt,
    sent,
    sent_phone,
)

EMAIL, PHONE = "b:0:email", "w:0:whatsapp"
DAY_S = 86_400
_NUMBERS = iter(range(1000, 1_000_000))


@pytest.fixture
def sent_to(database: Database) -> Database:
    """Return a database in which ten messages to one address were sent, and one to a phone."""
    for number in range(10):
        blast_id = f"b{number}" if number else "b"
        database.apply(entry(number, queued((0,), blast_id), sent(0, blast_id), producer="mail"))
    database.apply(entry(1, queued_phones(), sent_phone(), channel="whatsapp", producer="phone"))
    return database


def tell(database: Database, *items: Receipt, channel: str = "email") -> list[tuple[Any, ...]]:
    """Apply receipts in one transaction and return the changes that they add, as the outbox has them."""
    before = database.one("SELECT coalesce(max(id), 0) FROM suppression_outbox")
    database.apply(entry(next(_NUMBERS), Receipts(list(items)), producer="receipts", channel=channel))
    rows = database.rows("SELECT channel, address, suppression FROM suppression_outbox WHERE id > ?", before)
    return [
        (channel, address, (one := unpack_suppression(raw)).scope, one.source, one.reason, one.expires_at_ms)
        if raw
        else (channel, address, "lifted")
        for channel, address, raw in rows
    ]


def soft(day: float, number: int = 0, **fields: Any) -> Receipt:
    job_id = f"b{number}:0:email" if number else EMAIL
    return receipt("bounced", day * DAY_S, job_id=job_id, severity="soft", code="4.2.2", **fields)


def test_a_hard_bounce_suppresses_the_address_of_the_row(sent_to: Database) -> None:
    """The address that the receipt names is never the target, and the evidence is the job and the words."""
    bounce = receipt(
        "bounced", 5, job_id=EMAIL, severity="hard", code="5.1.1", address="victim@example.org", words="no such user"
    )
    assert tell(sent_to, bounce) == [("email", "user0@example.com", "all", "bounce", "hard_bounce: 5.1.1", 0)]
    stored = unpack_suppression(sent_to.one("SELECT suppression FROM suppression_outbox"))
    assert (stored.job_id, stored.words, stored.created_at_ms) == (EMAIL, "no such user", START_MS + 5000)


@pytest.mark.parametrize(
    "forged",
    [
        receipt("bounced", 5, message_id="b.0.email.1@example.com", severity="hard", trusted=False),
        receipt("complained", 5, message_id="b.0.email.1@example.com", trusted=False),
        receipt("opted_out", 5, address="user0@example.com", trusted=False),
        receipt("bounced", 5, job_id=EMAIL, severity=""),
        receipt("undelivered", 5, job_id=EMAIL),
        receipt("bounced", 5, address="user0@example.com", severity="hard"),
        receipt("complained", 5, provider_id="foreign", address="user0@example.com"),
    ],
    ids=lambda one: f"{one.kind} {one.severity} {one.trusted}",
)
def test_a_forged_or_foreign_receipt_suppresses_nobody(sent_to: Database, forged: Receipt) -> None:
    """Without trust a bounce is a row in the story; without a message of ours it is not even that."""
    assert tell(sent_to, forged) == []


def test_a_complaint_and_an_opt_out_stop_marketing_alone(sent_to: Database) -> None:
    """The recipient still gets order confirmations."""
    assert tell(sent_to, receipt("complained", 5, job_id=EMAIL)) == [
        ("email", "user0@example.com", "marketing", "complaint", "complained", 0)
    ]
    out = receipt("opted_out", 6, address="6281200000000", source="meta", code="131050")
    assert tell(sent_to, out, channel="whatsapp") == [
        ("whatsapp", "6281200000000", "marketing", "opt_out", "opted_out: 131050", 0)
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_the_latest_of_opt_outs_and_opt_ins_counts(sent_to: Database, order: tuple[int, ...]) -> None:
    """They take effect by the time at which the recipient chose, whatever order they arrive in."""
    chosen = [
        receipt("opted_out", 10, address="6281200000000"),
        receipt("opted_in", 20, address="6281200000000"),
        receipt("opted_out", 30, address="6281200000000"),
    ]
    changes = [change for index in order for change in tell(sent_to, chosen[index], channel="whatsapp")]
    assert changes[-1] == ("whatsapp", "6281200000000", "marketing", "opt_out", "opted_out", 0)
    late = tell(sent_to, receipt("opted_in", 15, address="6281200000000"), channel="whatsapp")
    assert late == []
    assert tell(sent_to, receipt("opted_in", 40, job_id=PHONE), channel="whatsapp") == [
        ("whatsapp", "6281200000000", "lifted")
    ]


def test_an_opt_out_finds_the_address_in_another_spelling(sent_to: Database) -> None:
    """WhatsApp reports some numbers in an older form than the one that we sent to, and the other way round."""
    recipients = [QueuedRecipient(0, "5215512345678", "User", "")]
    message = Queued(START_MS, "m", "whatsapp", TEMPLATE.id, TEMPLATE.name, recipients)
    sent_to.apply(entry(2, message, sent_phone(0, "m"), channel="whatsapp", producer="phone"))
    out = receipt("opted_out", 6, address="525512345678")
    assert tell(sent_to, out, channel="whatsapp")[0][:2] == ("whatsapp", "5215512345678")


def test_an_opt_out_of_an_unknown_address_waits_for_a_message_to_it(sent_to: Database) -> None:
    """The person has chosen before our next message."""
    out = receipt("opted_out", 6, address="6281200000003")
    assert tell(sent_to, out, channel="whatsapp") == []
    sent_to.apply(entry(2, queued_phones((3,)), channel="whatsapp", producer="phone"))
    assert sent_to.rows("SELECT address FROM suppression_outbox") == [("6281200000003",)]


def test_five_soft_bounces_in_thirty_days_suppress_for_fourteen(sent_to: Database) -> None:
    """They count over all messages to the address, and end 14 days after the last."""
    for number in range(4):
        assert tell(sent_to, soft(number, number)) == []
    until_ms = START_MS + 4 * DAY_S * 1000 + SOFT_FOR_MS
    assert tell(sent_to, soft(4, 4)) == [
        ("email", "user0@example.com", "all", "bounce", "soft_bounces: 4.2.2", until_ms)
    ]


@pytest.mark.parametrize(
    "days",
    [
        [0, 1, 2, 3],
        [0, 8, 16, 24, 32],
    ],
    ids=["four", "thirty-two days"],
)
def test_fewer_soft_bounces_or_longer_apart_suppress_nobody(sent_to: Database, days: list[int]) -> None:
    """A full mailbox is not a dead one."""
    assert [change for number, day in enumerate(days) for change in tell(sent_to, soft(day, number))] == []


@pytest.mark.parametrize(
    "bounces",
    [
        [soft(day) for day in range(9)],
        [soft(number / 24, 7, source="brevo", words="451 try again") for number in range(6)],
        [soft(0), soft(1, 1), soft(2, 2), soft(3, 3), soft(3, 3), soft(3.1, 3, source="mail"), soft(4, 1)],
    ],
    ids=["daily", "each attempt of the provider", "by hook and by mail"],
)
def test_a_message_is_one_soft_bounce(sent_to: Database, bounces: list[Receipt]) -> None:
    """However often and in whatever way its provider reports it: only five messages condemn an address."""
    assert [change for one in bounces for change in tell(sent_to, one)] == []


@pytest.mark.parametrize("late", [False, True], ids=["delivered in between", "the delivery is reported last"])
def test_a_delivery_in_between_starts_again(sent_to: Database, late: bool) -> None:
    """The order of arrival does not matter, as long as the fifth bounce is not applied before the delivery."""
    delivered = receipt("delivered", 2.5 * DAY_S, job_id="b9:0:email")
    told = [soft(0), soft(1, 1), soft(2, 2), soft(3, 3)]
    told.insert(4 if late else 3, delivered)
    assert [change for one in [*told, soft(4, 4)] for change in tell(sent_to, one)] == []
    assert [change for number in (5, 6) for change in tell(sent_to, soft(number, number))] == []
    assert len(tell(sent_to, soft(7, 7))) == 1


def test_untrusted_soft_bounces_do_not_count(sent_to: Database) -> None:
    """Five forged bounce mails must not suppress an address either, nor must four and a genuine one."""
    assert [change for day in range(8) for change in tell(sent_to, soft(day, day, trusted=False))] == []
    assert tell(sent_to, soft(8, 8)) == []


def test_soft_bounces_of_every_spelling_count(sent_to: Database) -> None:
    """A mailbox is the same however its address was written."""
    change = "UPDATE message_logs SET recipient_email = 'User0@Example.com', recipient_identity = 'user0@example.com'"
    sent_to.connection.execute(f"{change} WHERE job_id IN ('b:0:email', 'b3:0:email', 'b4:0:email')")
    assert [change for number in range(4) for change in tell(sent_to, soft(number, number))] == []
    assert len(tell(sent_to, soft(4, 4))) == 1


def test_soft_bounces_of_one_batch_count_too(sent_to: Database) -> None:
    """The history includes the receipts of the same transaction."""
    assert len(tell(sent_to, *[soft(number, number) for number in range(5)])) >= 1
