"""Answers about receipts: a message's history, the filter by delivery, the counts of blasts and of all messages."""

from __future__ import annotations

from typing import Any

import pytest

from services.logger import blast_views, queries
from services.logger.counting import count_messages
from services.logger.dashboard import show_dashboard
from services.logger.filters import MessageFilter, Page
from services.logger.history import read_history
from services.logger.watch import Sample
from shared.clock import rfc3339
from shared.events import Receipts
from tests.unit.logger.database import (
    START_MS,
    Database,
    accepted,
    blast,
    entry,
    queued,
    queued_phones,
    receipt,
    sent,
    sent_phone,
)

NOTHING = {"delivered": 0, "read": 0, "undelivered": 0, "bounced": 0, "complained": 0}
MANY = 3500


@pytest.fixture
def recorded(database: Database) -> Database:
    """Return a database with ten mails, of which six have receipts, and two WhatsApp messages with one."""
    database.apply(entry(1, accepted(blast(total=10)), queued(range(10)), *[sent(index) for index in range(10)]))
    database.apply(entry(2, queued_phones((0, 1)), sent_phone(0), sent_phone(1), channel="whatsapp"))
    mail = [receipt("delivered", 5 + index, job_id=f"b:{index}:email") for index in range(5)]
    mail += [
        receipt("bounced", 60, job_id="b:4:email", severity="soft", code="4.2.2", words="mailbox full", source="mail"),
        receipt("bounced", 61, job_id="b:5:email", severity="hard", code="5.1.1"),
        receipt("opted_out", 62, job_id="b:0:email"),
    ]
    database.apply(entry(3, Receipts(mail)))
    read = [receipt("read", 9, provider_id="wamid.w.0", source="meta")]
    database.apply(entry(4, Receipts(read), channel="whatsapp"))
    return database


def found(database: Database, **wanted: Any) -> list[str]:
    rows = queries.find_messages(database.connection, MessageFilter(**wanted), Page()).rows
    column = queries.MESSAGE_COLUMNS.index("job_id")
    return [row[column] for row in rows]


def test_a_history_has_its_receipts_in_order_of_time(recorded: Database) -> None:
    """`delivery` is what they made of the message, and the timeline shows each in the provider's words."""
    message = read_history(recorded.connection, "b:4:email")
    assert message is not None
    assert message["delivery"] == {"status": "bounced", "at": rfc3339(START_MS + 60_000)}
    assert "delivery_at" not in message
    assert [
        (one["kind"], one["source"], one["severity"], one["code"], one["trusted"]) for one in message["receipts"]
    ] == [
        ("delivered", "ses", None, None, True),
        ("bounced", "mail", "soft", "4.2.2", True),
    ]
    assert [(one["event"], one["detail"]) for one in message["timeline"]] == [
        ("queued", None),
        ("sent", "250 ok"),
        ("delivered", None),
        ("bounced", "mailbox full"),
    ]


def test_a_history_without_receipts_has_no_delivery(recorded: Database) -> None:
    """None, not an object of nothing."""
    message = read_history(recorded.connection, "b:9:email")
    assert message is not None
    assert (message["delivery"], message["receipts"]) == (None, [])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"deliveries": ("bounced",)}, ["b:5:email", "b:4:email"]),
        ({"deliveries": ("bounced", "read")}, ["w:0:whatsapp", "b:5:email", "b:4:email"]),
        ({"deliveries": ("bounced", "read"), "channels": ("whatsapp",)}, ["w:0:whatsapp"]),
        ({"deliveries": ("bounced",), "recipient": ("user5",)}, ["b:5:email"]),
        ({"deliveries": ("delivered",), "blast": "b"}, ["b:3:email", "b:2:email", "b:1:email", "b:0:email"]),
        ({"deliveries": ("delivered",), "blast": "b", "statuses": ("failed",)}, []),
        ({"deliveries": ("delivered",), "template": "other"}, []),
        ({"deliveries": ("complained",)}, []),
    ],
    ids=str,
)
def test_messages_are_found_by_their_delivery(recorded: Database, wanted: Any, expected: list[str]) -> None:
    """Alone and with any other filter, the latest first."""
    assert found(recorded, **wanted) == expected


def test_a_blast_counts_each_message_once(recorded: Database) -> None:
    """Under the delivery with the highest rank, by channel and in total, zeros included."""
    view = blast_views.find_blast(recorded.connection, "b")
    assert view is not None
    expected = {**NOTHING, "delivered": 4, "bounced": 2}
    assert view.delivery == view.channels["email"].delivery == expected


@pytest.mark.parametrize(
    ("wanted", "delivery"),
    [
        ({}, {**NOTHING, "delivered": 4, "bounced": 2, "read": 1}),
        ({"channels": ("email",)}, {**NOTHING, "delivered": 4, "bounced": 2}),
        ({"blast": "b"}, {**NOTHING, "delivered": 4, "bounced": 2}),
        ({"statuses": ("sent",)}, None),
        ({"deliveries": ("bounced",)}, {**NOTHING, "bounced": 2}),
        ({"deliveries": ("bounced",), "statuses": ("failed",)}, NOTHING),
        ({"template": "reminder", "channels": ("whatsapp",)}, {**NOTHING, "read": 1}),
    ],
    ids=str,
)
def test_stats_count_deliveries(recorded: Database, wanted: Any, delivery: dict[str, int] | None) -> None:
    """With the same filters as the statuses; None where only counts by status are kept."""
    stats = count_messages(recorded.connection, MessageFilter(**wanted))
    assert stats["delivery"] == delivery
    for channel, one in stats["channels"].items():
        assert (one["delivery"] is None) == (delivery is None), channel
    assert stats["total"] == sum(one["total"] for one in stats["channels"].values())


def test_stats_by_delivery_say_when_they_are_not_complete(database: Database) -> None:
    """As with any filter that counts rows, the latest 3,000 are looked at."""
    jobs = range(MANY)
    database.apply(entry(1, queued(jobs), *[sent(index) for index in jobs]))
    database.apply(entry(2, Receipts([receipt("delivered", 5, job_id=f"b:{index}:email") for index in jobs])))
    stats = count_messages(database.connection, MessageFilter(deliveries=("delivered",)))
    assert not stats["complete"]
    assert 3000 <= stats["sent"] < MANY
    assert count_messages(database.connection, MessageFilter())["delivery"]["delivered"] == MANY


def test_the_dashboard_counts_the_receipts_of_the_last_hour(recorded: Database) -> None:
    """By when they happened; a channel without receipts is there too."""
    shown = show_dashboard(recorded.connection, Sample(), START_MS + 120_000)
    assert shown["receipts"] == {"email": {"delivered": 5, "bounced": 2, "opted_out": 1}, "whatsapp": {"read": 1}}
    later = show_dashboard(recorded.connection, Sample(), START_MS + 3 * 3_600_000)
    assert later["receipts"] == {"email": {}, "whatsapp": {}}
