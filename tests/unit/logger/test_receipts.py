"""G8 in the database: a receipt takes effect once, in whatever order and however often it comes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.logger.early_receipts import Incoming, keep_early
from services.logger.filters import DELIVERIES
from services.logger.postgres.connecting import PostgresDatabase
from shared.channels import CHANNELS
from shared.clock import rfc3339
from shared.events import Receipts
from shared.queue.event_log import EventEntry
from shared.receipts import Receipt, ReceiptKind, delivery_rank
from tests.unit.logger.database import (
    FEWER_ORDERS,
    ORDERS,
    START_MS,
    Database,
    MakeDatabase,
    begun,
    entry,
    failed,
    queued,
    queued_phones,
    receipt,
    sent,
    sent_phone,
)

EMAIL, PHONE = "b:0:email", "w:0:whatsapp"
_NUMBERS = iter(range(1000, 1_000_000))


def told(*items: Receipt, channel: str = "email") -> EventEntry:
    """Return a batch of receipts in a channel's stream."""
    return entry(next(_NUMBERS), Receipts(list(items)), producer="receipts", channel=channel)


def delivery(database: Database, job_id: str = EMAIL) -> tuple[str | None, str | None]:
    """Return the delivery of a message, and the seconds after the start at which it took place."""
    query = "SELECT delivery, delivery_at FROM message_logs WHERE job_id = ?"
    (found,) = database.rows(query, job_id)
    return found


def kinds(database: Database) -> list[tuple[str, str]]:
    """Return the receipts that were applied, by job and kind."""
    return database.rows("SELECT job_id, kind FROM message_receipts ORDER BY job_id, at_ms, kind")


_RECEIPT = "job_id, kind, at_ms, source, run, severity, code, words, trusted, evidence"


def at(seconds: float) -> str:
    """Return a time of the log, in seconds after the start."""
    return rfc3339(START_MS + int(seconds * 1000))


def outcome(make_database: MakeDatabase, batches: Sequence[Sequence[EventEntry]]) -> dict[str, list[tuple[Any, ...]]]:
    """Write each batch in a transaction and return everything that receipts change."""
    database = make_database()
    with closing(database):
        for batch in batches:
            database.apply_all(batch)
        database.counts_agree()
        return {
            "rows": database.rows("SELECT job_id, status, delivery, delivery_at FROM message_logs ORDER BY job_id"),
            "receipts": database.rows(f"SELECT {_RECEIPT} FROM message_receipts ORDER BY job_id, kind, at_ms"),
            "totals": database.rows("SELECT * FROM receipt_totals ORDER BY channel, source, kind"),
            "minutes": database.rows("SELECT * FROM receipt_minutes ORDER BY minute, channel, kind"),
            "early": database.rows("SELECT ref FROM early_receipts ORDER BY ref"),
            "outbox": sorted(database.rows("SELECT DISTINCT channel, address, suppression FROM suppression_outbox")),
        }


STORY = [
    entry(1, queued((0, 1))),
    entry(2, begun(0), begun(1)),
    entry(3, sent(0), sent(1)),
    told(receipt("delivered", 5, job_id=EMAIL), receipt("delivered", 6, message_id="b.1.email.1@example.com")),
    told(receipt("bounced", 60, message_id="b.0.email.1@example.com", severity="hard", code="5.1.1")),
    told(receipt("complained", 90, job_id="b:1:email"), receipt("delivered", 5.5, job_id=EMAIL)),
    entry(4, queued_phones((0,)), channel="whatsapp"),
    entry(5, sent_phone(), channel="whatsapp"),
    told(receipt("undelivered", 8, provider_id="wamid.w.0", source="meta"), channel="whatsapp"),
    told(receipt("read", 9, job_id=PHONE, source="meta"), channel="whatsapp"),
    told(receipt("delivered", 9, provider_id="wamid.w.0", source="meta"), channel="whatsapp"),
    told(receipt("opted_out", 30, address="6281200000000", source="meta"), channel="whatsapp"),
    told(receipt("delivered", 9, provider_id="wamid.of.somebody", source="meta"), channel="whatsapp"),
]


def check_that_any_order_and_repetition_come_to_the_same(make_database: MakeDatabase, data: st.DataObject) -> None:
    """Receipts before, between and after the events of their messages, and repeated ones, have the same effect."""
    expected = outcome(make_database, [[one] for one in STORY])
    shuffled = data.draw(st.permutations(STORY))
    repeated = data.draw(st.lists(st.sampled_from(STORY), max_size=6))
    every = [*shuffled, *repeated]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(every) - 1), max_size=5)))
    found = outcome(
        make_database, [every[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(every)], strict=True)]
    )
    assert found == expected
    assert expected["early"] == [("id wamid.of.somebody",)]
    assert len(expected["outbox"]) == 3


@ORDERS
@given(data=st.data())
def test_any_order_and_repetition_come_to_the_same(data: st.DataObject) -> None:
    """Receipts before, between and after the events of their messages, and repeated ones, have the same effect."""
    check_that_any_order_and_repetition_come_to_the_same(Database, data)


@FEWER_ORDERS
@given(data=st.data())
def test_any_order_and_repetition_come_to_the_same_in_postgres(postgres: PostgresDatabase, data: st.DataObject) -> None:
    """Receipts before, between and after the events of their messages, and repeated ones, have the same effect."""
    check_that_any_order_and_repetition_come_to_the_same(lambda: Database(postgres), data)


def test_receipts_alike_are_those_of_their_own_messages(database: Database) -> None:
    """Many that differ only in their message are written by one statement, repeated and earlier ones among them."""
    jobs = [f"b:{number}:email" for number in range(12)]
    database.apply_all([entry(1, queued(range(12))), entry(2, *(sent(number) for number in range(12)))])
    database.apply(told(*(receipt("delivered", 7, job_id=job_id) for job_id in jobs[:4])))
    database.apply(
        told(
            *(receipt("delivered", 7, job_id=job_id) for job_id in [*jobs[:10], *jobs[:10]]),
            *(receipt("delivered", 6, job_id=job_id) for job_id in jobs[:5]),
            *(receipt("bounced", 8, job_id=job_id, severity="soft") for job_id in jobs[5:11]),
        )
    )
    database.counts_agree()
    expected = [("delivered", at(6))] * 5 + [("bounced", at(8))] * 6 + [(None, None)]
    assert [delivery(database, job_id) for job_id in jobs] == expected
    for kind, seconds, some in (("delivered", 7, jobs[:10]), ("delivered", 6, jobs[:5]), ("bounced", 8, jobs[5:11])):
        at_ms = START_MS + seconds * 1000
        found = database.rows("SELECT job_id FROM message_receipts WHERE kind = ? AND at_ms = ?", kind, at_ms)
        assert sorted(job_id for (job_id,) in found) == sorted(some)
    totals = database.rows("SELECT kind, n FROM receipt_totals ORDER BY kind")
    assert totals == [("bounced", 6), ("delivered", 15)]


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_filter_has_every_kind_that_has_a_rank(channel: str) -> None:
    """A delivery that no filter knows could not be searched for."""
    assert sorted(filter(None, (delivery_rank(channel, kind) for kind in DELIVERIES))) == [1, 2, 3]


@pytest.mark.parametrize(
    ("kinds_in_order", "expected"),
    [
        (["delivered"], "delivered"),
        (["bounced", "delivered"], "bounced"),
        (["complained", "bounced", "delivered"], "complained"),
        (["opted_out"], None),
    ],
)
def test_the_highest_rank_of_mail_stays(database: Database, kinds_in_order: list[Any], expected: str | None) -> None:
    """On email: delivered < bounced < complained; an opt-out says nothing of the message."""
    database.apply(entry(1, queued(), sent()))
    for number, kind in enumerate(kinds_in_order, start=1):
        database.apply(told(receipt(kind, number, job_id=EMAIL)))
    assert delivery(database)[0] == expected
    assert len(kinds(database)) == len(kinds_in_order)
    database.counts_agree()


@pytest.mark.parametrize(
    ("kinds_in_order", "expected"),
    [
        (["undelivered"], "undelivered"),
        (["undelivered", "delivered"], "delivered"),
        (["read", "delivered", "undelivered"], "read"),
    ],
)
def test_the_highest_rank_on_whatsapp_stays(database: Database, kinds_in_order: list[Any], expected: str) -> None:
    """On WhatsApp: undelivered < delivered < read."""
    database.apply(entry(1, queued_phones(), sent_phone(), channel="whatsapp"))
    for number, kind in enumerate(kinds_in_order, start=1):
        database.apply(told(receipt(kind, number, provider_id="wamid.w.0"), channel="whatsapp"))
    assert delivery(database, PHONE)[0] == expected


def test_the_same_kind_again_keeps_its_first_time(database: Database) -> None:
    """A provider may report a delivery again with another time, and earlier ones may come later."""
    database.apply(entry(1, queued(), sent()))
    for seconds in (7, 5, 9):
        database.apply(told(receipt("delivered", seconds, job_id=EMAIL)))
    assert delivery(database) == ("delivered", at(5))


def test_a_receipt_before_its_message_waits(database: Database) -> None:
    """It is applied in the transaction that writes what it waited for: the job, or the provider's id."""
    database.apply(told(receipt("delivered", 5, job_id=EMAIL)))
    assert database.rows("SELECT channel, state, n FROM early_counts") == [("email", "waiting", 1)]
    database.apply(entry(1, queued()))
    assert delivery(database)[0] == "delivered"
    database.apply(entry(2, queued_phones(), channel="whatsapp"))
    database.apply(told(receipt("read", 5, provider_id="wamid.w.0"), channel="whatsapp"))
    assert delivery(database, PHONE)[0] is None
    database.apply(entry(3, sent_phone(), channel="whatsapp"))
    assert delivery(database, PHONE)[0] == "read"
    database.counts_agree()


def test_a_receipt_that_waits_is_kept_once(database: Database) -> None:
    """A provider that repeats it, in another request, adds nothing; later it is applied once."""
    for _ in range(3):
        database.apply(told(receipt("delivered", 5, job_id=EMAIL)))
        database.counts_agree()
    database.apply(entry(1, queued()))
    assert kinds(database) == [(EMAIL, "delivered")]
    assert database.rows("SELECT n FROM receipt_totals") == [(1,)]
    database.counts_agree()


def test_a_bounce_waits_for_the_address(database: Database) -> None:
    """A row that a sender's event created has none until its `Queued` arrives, and a suppression needs one."""
    database.apply(entry(1, begun()))
    database.apply(told(receipt("bounced", 5, job_id=EMAIL, severity="hard")))
    assert kinds(database) == []
    database.apply(entry(2, queued()))
    assert database.rows("SELECT address FROM suppression_outbox") == [("user0@example.com",)]


def test_a_receipt_for_a_job_of_another_channel_is_not_applied(database: Database) -> None:
    """A receipt of a WhatsApp provider says nothing of mail, whatever job it names."""
    database.apply(entry(1, queued(), sent()))
    foreign = [
        receipt("bounced", 5, job_id=EMAIL, severity="hard"),
        receipt("delivered", 5, message_id="b.0.email.1@example.com"),
        receipt("opted_out", 5, address="user0@example.com"),
    ]
    database.apply(told(*foreign, channel="whatsapp"))
    database.apply(entry(2, sent(0, at=90, late=True)))
    assert kinds(database) == []
    assert delivery(database)[0] is None
    assert database.one("SELECT count(*) FROM suppression_outbox") == 0


def test_a_provider_id_finds_no_mail(database: Database) -> None:
    """Mail has our own Message-ID, which names its job: a provider's id that looks like one is foreign."""
    database.apply(entry(1, queued(), sent()))
    database.apply(told(receipt("delivered", 5, provider_id="<0.1@x>")))
    assert kinds(database) == []


def test_a_provider_id_of_mail_waits_for_nothing(database: Database) -> None:
    """No row of mail has one, so receipts for other systems' mail would fill the database until retention."""
    foreign = [
        receipt("delivered", 5, source="sendgrid", provider_id=f"14c5d75ce93-{number}", address="else@example.com")
        for number in range(3)
    ]
    database.apply(told(*foreign, receipt("delivered", 5, provider_id="x", message_id="1.2@mail.example.org")))
    assert database.rows("SELECT state, n FROM early_counts") == [("unmatched", 4)]
    assert database.one("SELECT count(*) FROM early_receipts") == 0


def test_an_opt_out_from_mail_waits_for_the_address(database: Database) -> None:
    """The provider's id beside it can never be found, and the person has chosen before our next message."""
    out = receipt("opted_out", 5, source="postmark", provider_id="883953f4", address="User0@example.com")
    database.apply(told(out))
    database.apply(entry(1, queued()))
    assert kinds(database) == [(EMAIL, "opted_out")]
    assert database.rows("SELECT address FROM suppression_outbox") == [("user0@example.com",)]
    database.counts_agree()


def test_the_oldest_of_too_many_early_receipts_are_dropped(database: Database) -> None:
    """Those of another system never end; what is a moment away, and what a person chose, stays."""
    chosen = Incoming("email", receipt("opted_out", 1, address="user7@example.com"), START_MS)
    others = [
        Incoming("whatsapp", receipt("read", number, provider_id=f"wamid.{number}"), START_MS + number)
        for number in range(120)
    ]
    for one in [chosen, *others]:
        keep_early(database.connection, [one], START_MS, most=100)
    assert database.rows("SELECT ref FROM early_receipts ORDER BY id LIMIT 2") == [
        ("to user7@example.com",),
        ("id wamid.21",),
    ]
    assert database.rows("SELECT channel, state, n FROM early_counts ORDER BY 1, 2") == [
        ("email", "waiting", 1), ("whatsapp", "unmatched", 21), ("whatsapp", "waiting", 99),
    ]  # fmt: skip
    database.counts_agree()


@pytest.mark.parametrize("early", [False, True])
def test_a_receipt_without_a_time_counts_once(database: Database, early: bool) -> None:
    """Sent again because our answer was lost, it has the time of the second request, and is the same all the same."""
    sending = [entry(1, queued((0, 1))), entry(2, sent(), sent(1))]
    kinds_in_order: list[tuple[ReceiptKind, int]] = [
        ("complained", 60), ("delivered", 61), ("complained", 660), ("complained", 90),
    ]  # fmt: skip
    again = [
        told(receipt(kind, seconds, source="brevo", job_id=EMAIL, timed=False)) for kind, seconds in kinds_in_order
    ]
    for one in [*again, *sending] if early else [*sending, *again]:
        database.apply(one)
    assert kinds(database) == [(EMAIL, "complained"), (EMAIL, "delivered")]
    assert database.rows("SELECT kind, n FROM receipt_totals ORDER BY 1") == [("complained", 1), ("delivered", 1)]
    database.apply(told(receipt("complained", 5, source="brevo", job_id="b:1:email", timed=False)))
    assert len(kinds(database)) == 3
    database.counts_agree()


def test_a_receipt_that_names_nothing_is_counted_as_unmatched(database: Database) -> None:
    """So is one with an absurd reference: neither could ever be found."""
    long = "x" * 10_000
    database.apply(told(receipt("delivered", 5, address="user0@example.com"), receipt("read", 5, provider_id=long)))
    assert database.rows("SELECT state, n FROM early_counts") == [("unmatched", 2)]
    assert database.one("SELECT count(*) FROM early_receipts") == 0


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_an_absurd_time_becomes_when_it_was_taken(database: Database, seconds: float) -> None:
    """A time that cannot be one must not make the whole batch unreadable."""
    database.apply(entry(1, queued(), sent()))
    strange = Receipt("delivered", "ses", seconds, job_id=EMAIL)
    database.apply(entry(2, Receipts([strange], START_MS + 7000)))
    assert delivery(database) == ("delivered", at(7))


def test_a_receipt_has_the_run_of_its_message(database: Database) -> None:
    """Our Message-ID names the run; without it the receipt is about the current one."""
    database.apply(entry(1, queued(), failed(error_class="uncertain")), entry(2, queued(run=2, at=50), sent(run=2)))
    database.apply(
        told(receipt("delivered", 1, message_id="b.0.email.1@example.com"), receipt("bounced", 2, job_id=EMAIL))
    )
    assert database.rows("SELECT kind, run FROM message_receipts ORDER BY kind") == [("bounced", 2), ("delivered", 1)]


def test_a_receipt_keeps_what_its_row_does_not_say(database: Database) -> None:
    """Evidence is kept where it differs: an address that was forwarded to, another id of the provider."""
    database.apply(entry(1, queued((0, 1))), entry(2, sent(), sent(1)))
    same = receipt("delivered", 5, job_id=EMAIL, address="user0@example.com")
    other = receipt("bounced", 5, job_id="b:1:email", address="else@example.net", provider_id="010f", code="5.1.1")
    database.apply(told(same, other))
    assert database.rows("SELECT code, evidence FROM message_receipts ORDER BY job_id") == [
        ("", ""),
        ("5.1.1", '{"provider_id":"010f","address":"else@example.net"}'),
    ]


def test_unknown_sources_share_a_label(database: Database) -> None:
    """Labels of metrics come from a closed set; the row keeps the source."""
    database.apply(entry(1, queued(), sent()))
    database.apply(told(receipt("delivered", 5, job_id=EMAIL, source="elsewhere")))
    assert database.rows("SELECT source, kind, n FROM receipt_totals") == [("other", "delivered", 1)]
    assert database.one("SELECT source FROM message_receipts") == "elsewhere"


def test_delays_are_those_of_new_receipts(database: Database) -> None:
    """They count from the provider's acceptance, and a repeated receipt has none."""
    database.apply(entry(1, queued(), sent(at=1000)))
    applied = database.apply(told(receipt("delivered", 5, job_id=EMAIL)))
    assert applied.written.delays == {("email", "delivered"): [4.0]}
    assert database.apply(told(receipt("delivered", 5, job_id=EMAIL))).written.delays == {}
