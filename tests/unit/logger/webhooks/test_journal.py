"""The journal has each event that an endpoint subscribes to exactly once, written with what it reports."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.logger.postgres.connecting import PostgresDatabase
from shared.events import (
    BlastChanged,
    BlastChannelEnded,
    ChannelChanged,
    Ended,
    Event,
    Receipts,
    Returned,
    SuppressedAddress,
    SuppressionsAdded,
    Swept,
    SweptRanges,
)
from tests.unit.logger.database import (
    FEWER_ORDERS,
    ORDERS,
    START_MS,
    Database,
    MakeDatabase,
    accepted,
    begun,
    blast,
    entry,
    failed,
    job,
    queued,
    receipt,
    sent,
)
from tests.unit.logger.webhooks.endpoints import add, journal

JOB = "b:0:email"


def kinds(database: Database) -> list[tuple[str, str]]:
    return [(event.type, event.subject) for event in journal(database)]


def data_of(database: Database) -> list[dict[str, Any]]:
    return [orjson.loads(event.data) for event in journal(database)]


def test_a_message_that_was_sent_is_one_event(database: Database) -> None:
    """Its run, its attempts over all batches and the provider's id are those of the row."""
    add(database)
    database.apply(entry(1, queued(), begun(), Returned(START_MS, JOB, 1, 1, "queued")))
    database.apply(entry(2, begun(attempt=2), sent(attempt=2)))
    database.apply(entry(2, begun(attempt=2), sent(attempt=2)), entry(3, sent(attempt=2)))
    database.apply(entry(4, sent(attempt=3, at=9)))  # by a sender that had lost its lease
    assert kinds(database) == [("message.sent", JOB)]
    assert data_of(database) == [{"run": 1, "attempts": 2, "messageId": "<0.1@x>"}]


@pytest.mark.parametrize("status", ["cancelled", "expired", "suppressed"])
def test_each_end_has_its_type(database: Database, status: Any) -> None:
    """A message that ends without being sent says why."""
    add(database)
    database.apply(entry(1, queued(), Ended(START_MS + 5, JOB, 1, 0, status, status, "", f"{status} by a test")))
    assert kinds(database) == [(f"message.{status}", JOB)]
    assert data_of(database) == [{"run": 1, "attempts": 0, "error": [status, "", f"{status} by a test"]}]


@pytest.mark.parametrize(
    "swept",
    [
        Swept(START_MS, "cancelled", "cancelled", "cancelled", [job(0), job(1)]),
        SweptRanges(START_MS, "cancelled", "cancelled", "cancelled", "b", "email", 1, [(0, 1)]),
    ],
)
def test_jobs_swept_together_are_an_event_each(database: Database, swept: Event) -> None:
    """This also holds for those whose `Queued` follows."""
    add(database)
    database.apply(entry(1, swept))
    database.apply(entry(2, queued((0, 1))))
    assert kinds(database) == [("message.cancelled", JOB), ("message.cancelled", "b:1:email")]


def test_a_late_sent_follows_the_failure_of_its_run(database: Database) -> None:
    """A client sees `message.failed` and then `message.sent` of the same run; in the other order only the latter."""
    add(database)
    database.apply(entry(1, queued(), failed(error_class="uncertain")))
    database.apply(entry(2, sent(at=90, late=True)))
    database.apply(entry(3, queued((1,))), entry(4, sent(1, late=True)), entry(5, failed(1)))
    assert kinds(database) == [("message.failed", JOB), ("message.sent", JOB), ("message.sent", "b:1:email")]


def test_each_run_is_reported(database: Database) -> None:
    """A message that failed and was sent in its next run is two events with other ids."""
    add(database)
    database.apply(entry(1, queued(), failed()))
    database.apply(entry(2, queued(run=2, at=20)), entry(3, failed(run=2, at=30)))
    assert kinds(database) == [("message.failed", JOB)] * 2
    assert len({event.id for event in journal(database)}) == 2


def test_only_what_an_endpoint_subscribes_to_is_journaled(database: Database) -> None:
    """No endpoint, no row; a filter by channel is applied too; a disabled endpoint still subscribes."""
    database.apply(entry(1, queued(), sent()))
    assert journal(database) == []
    add(database, events=["message.failed"], enabled=False)
    add(database, events=["message.sent"], channels=["whatsapp"])
    database.apply(entry(2, queued((1, 2)), sent(1), failed(2)))
    assert kinds(database) == [("message.failed", "b:2:email")]
    add(database, events=["message.sent"])
    database.apply(entry(3, queued((3,)), sent(3)))
    assert kinds(database)[1:] == [("message.sent", "b:3:email")]


def test_each_new_receipt_is_an_event(database: Database) -> None:
    """A repeated one adds nothing, an opt-out is reported as a suppression, and an early one comes with its message."""
    add(database)
    late = receipt("read", 9, job_id="b:1:email", source="meta")
    database.apply(entry(1, Receipts([late])))
    bounce = receipt("bounced", 5, job_id=JOB, severity="hard", code="5.1.1", words="no such user")
    database.apply(entry(2, queued(), sent(), Receipts([bounce, receipt("opted_out", 6, job_id=JOB)])))
    database.apply(entry(3, Receipts([bounce])), entry(4, queued((1,))))
    assert kinds(database) == [("message.sent", JOB), ("message.bounced", JOB), ("message.read", "b:1:email")]
    assert data_of(database)[1] == {
        "run": 1, "provider": "ses", "trusted": True, "severity": "hard", "code": "5.1.1", "message": "no such user",
    }  # fmt: skip


def test_a_blast_is_reported_when_it_ends_and_when_it_is_paused(database: Database) -> None:
    """It ends again after a retry; a pause by both channels is one, and a cancelled blast is not reported."""
    add(database, events=["blast.completed", "blast.paused", "blast.incomplete"])
    database.apply(entry(1, accepted(blast(total=2)), queued((0, 1))))
    database.apply(entry(2, BlastChanged(START_MS + 5, "b", "paused", "by hand")))
    database.apply(entry(3, BlastChanged(START_MS + 6, "b", "paused", "by hand")))
    database.apply(entry(4, BlastChanged(START_MS + 7, "b", "resumed")), entry(5, sent(0), failed(1)))
    database.apply(entry(6, BlastChannelEnded(START_MS + 8, "b", "email", {"total": 2})))
    database.apply(entry(7, queued((1,), run=2, at=20)))
    database.apply(entry(8, sent(1, run=2, at=30), BlastChannelEnded(START_MS + 40, "b", "email", {"total": 2})))
    assert kinds(database) == [("blast.paused", "b"), ("blast.completed", "b"), ("blast.completed", "b")]
    paused, first, second = data_of(database)
    assert (paused["reason"], first["state"], second["state"]) == ("by hand", "completed_with_failures", "completed")
    assert second["channels"]["email"] == {"sent": 2}
    database.apply(entry(9, accepted(blast("c")), queued(blast_id="c"), BlastChanged(START_MS, "c", "cancelled")))
    swept = Swept(START_MS, "cancelled", "cancelled", "x", [job(0, "c")])
    database.apply(entry(10, swept, BlastChannelEnded(START_MS, "c", "email", {"total": 1})))
    assert len(journal(database)) == 3


def test_an_incomplete_blast_has_a_type_of_its_own(database: Database) -> None:
    """Its client disappeared while it was sent."""
    add(database)
    ends: list[Event] = [
        BlastChanged(START_MS, "b", "incomplete"),
        BlastChannelEnded(START_MS + 9, "b", "email", {"total": 1}),
    ]
    database.apply(entry(1, accepted(blast()), queued(), sent(), *ends))
    assert kinds(database)[-1] == ("blast.incomplete", "b")


def test_channels_and_suppressions_are_reported(database: Database) -> None:
    """Each address is an event, with the job that led to it."""
    add(database)
    added = SuppressedAddress("user0@example.com", "all", "bounce", "hard_bounce", JOB)
    database.apply(entry(1, ChannelChanged(START_MS, "email", "paused", "535 login refused")))
    database.apply(
        entry(2, ChannelChanged(START_MS + 1, "email", "resumed"), SuppressionsAdded(START_MS, "email", [added]))
    )
    assert kinds(database) == [("channel.paused", "email"), ("channel.resumed", "email"), ("suppression.added", JOB)]
    assert data_of(database)[0] == {"reason": "535 login refused"}


def test_ids_rise_with_time_even_if_the_clock_does_not(database: Database) -> None:
    """A replay finds its range by bisection."""
    add(database)
    database.apply(entry(1, queued(), sent()))
    database.connection.execute("UPDATE webhook_events SET kept_at_ms = kept_at_ms + 3600000")
    database.apply(entry(2, queued((1,)), sent(1)))
    first, second = journal(database)
    assert second.kept_at_ms == first.kept_at_ms
    database.connection.execute("UPDATE webhook_events SET kept_at_ms = kept_at_ms + 7200000")
    database.apply(entry(3, queued((2,)), sent(2)))
    assert journal(database)[2].kept_at_ms < first.kept_at_ms  # the clock had been wrong


STORY: list[list[Event]] = [
    [accepted(blast(total=2))],
    [queued((0, 1))],
    [begun(0)],
    [failed(0, error_class="uncertain", at=30)],
    [sent(0, at=20, late=True)],
    [begun(1), sent(1, at=25)],
    [Receipts([receipt("delivered", 1, job_id=JOB)])],
    [Receipts([receipt("bounced", 2, job_id="b:1:email", severity="soft")])],
    [BlastChannelEnded(START_MS + 50, "b", "email", {"total": 2})],
]
ALWAYS = {
    ("message.sent", JOB), ("message.sent", "b:1:email"), ("message.delivered", JOB),
    ("message.bounced", "b:1:email"), ("blast.completed", "b"),
}  # fmt: skip


def check_that_any_order_and_repetition_journal_the_same(make_database: MakeDatabase, data: st.DataObject) -> None:
    """Each event is there once; only the failure that a late answer corrects depends on which of the two came first."""
    entries = [entry(number, *events) for number, events in enumerate(STORY)]
    every = [*data.draw(st.permutations(entries)), *data.draw(st.lists(st.sampled_from(entries), max_size=5))]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(every) - 1), max_size=6)))
    database = make_database()
    with closing(database):
        add(database)
        for start, stop in zip([0, *cuts], [*cuts, len(every)], strict=True):
            database.apply_all(every[start:stop])
        written = kinds(database)
        events = [event.id for event in journal(database)]
    assert len(set(events)) == len(events)
    assert set(written) - {("message.failed", JOB)} == ALWAYS
    if ("message.failed", JOB) in written:
        assert written.index(("message.failed", JOB)) < written.index(("message.sent", JOB))


@ORDERS
@given(data=st.data())
def test_any_order_and_repetition_journal_the_same(data: st.DataObject) -> None:
    """Each event is there once; only the failure that a late answer corrects depends on which of the two came first."""
    check_that_any_order_and_repetition_journal_the_same(Database, data)


@FEWER_ORDERS
@given(data=st.data())
def test_any_order_and_repetition_journal_the_same_in_postgres(postgres: PostgresDatabase, data: st.DataObject) -> None:
    """Each event is there once; only the failure that a late answer corrects depends on which of the two came first."""
    check_that_any_order_and_repetition_journal_the_same(lambda: Database(postgres), data)
