"""What senders report changes deliveries and endpoints, in any order, and never a message."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from services.logger.webhooks.endpoints import DISABLED, Row
from shared.events import (
    Begun,
    ChannelChanged,
    Deferred,
    Ended,
    Event,
    EventBatch,
    Queued,
    QueuedRecipient,
    Retrying,
    Returned,
    Sent,
)
from shared.queue.event_log import EventEntry
from tests.unit.logger.database import START_MS, Database, entry, queued, sent
from tests.unit.logger.webhooks.endpoints import FIVE_DAYS_MS, add, again, journal, patch, report, take

DAY_MS = 86_400_000


@pytest.fixture
def row(database: Database) -> Row:
    """Return an endpoint with three deliveries."""
    made = add(database)
    database.apply(entry(1, queued(range(3)), *(sent(n) for n in range(3))))
    take(database, made)
    return again(database, made)


def job(row: Row, n: int = 0) -> str:
    return f"{row.endpoint_id}:{n}:webhook"


def delivered(row: Row, n: int = 0, *, attempt: int = 1, at: int = 10) -> Sent:
    return Sent(START_MS + at, job(row, n), 1, attempt, "evt_x", "204 No Content", 12)


def retrying(row: Row, n: int = 0, *, attempt: int = 1, at: int = 5, code: str = "503") -> Retrying:
    words = "the server said no"
    return Retrying(START_MS + at, job(row, n), 1, attempt, "transient", code, words, 40, START_MS + at + 5000)


def exhausted(row: Row, n: int = 0, *, at: int = 9) -> Ended:
    return Ended(START_MS + at, job(row, n), 1, 10, "failed", "transient", "timeout", "no answer", 15_000, b"job")


def delivery(database: Database, n: int = 0) -> tuple[Any, ...]:
    columns = "status, attempts, response_status, error, next_at_ms > 0"
    return database.rows(f"SELECT {columns} FROM webhook_deliveries WHERE n = ?", n)[0]


def totals(database: Database) -> dict[str, int]:
    return dict(database.rows("SELECT name, n FROM webhook_totals WHERE name LIKE 'deliveries%'"))


def test_a_delivery_shows_its_last_answer(database: Database, row: Row) -> None:
    """Also while the next attempt is made; a delivered one has no error."""
    assert delivery(database) == ("waiting", 0, 0, "", 0)
    report(database, row, Begun(START_MS, 1, 1, "s", job(row)))
    assert delivery(database) == ("waiting", 1, 0, "", 0)
    report(database, row, retrying(row))
    assert delivery(database) == ("retrying", 1, 503, "the server said no", 1)
    report(database, row, Begun(START_MS + 7, 1, 2, "s", job(row)))
    assert delivery(database) == ("retrying", 2, 503, "the server said no", 0)
    report(database, row, delivered(row, attempt=2))
    assert delivery(database) == ("delivered", 2, 204, "", 0)


def test_an_end_without_an_answer_has_no_status(database: Database, row: Row) -> None:
    """The text says what happened instead; it can be replayed."""
    report(database, row, retrying(row), exhausted(row))
    assert delivery(database) == ("failed", 10, 0, "no answer", 0)
    assert totals(database) == {"deliveries failed": 1}


def test_any_order_gives_the_same_delivery(database: Database, row: Row) -> None:
    """Each end is counted once, and a repeated event changes nothing."""
    recipient = QueuedRecipient(0, row.endpoint_id, "evt_x")
    events: list[Event] = [
        Queued(START_MS, row.endpoint_id, "webhook", "", "", [recipient]),
        Begun(START_MS + 1, 1, 1, "s", job(row)),
        retrying(row),
        delivered(row, attempt=2),
    ]
    for order in itertools.permutations(events):
        database.connection.execute("UPDATE webhook_deliveries SET status = 'waiting', state_rank = 0, attempts = 0")
        database.connection.execute("DELETE FROM webhook_totals")
        for event in (*order, order[0]):
            report(database, row, event)
        assert delivery(database) == ("delivered", 2, 204, "", 0)
        assert totals(database) == {"deliveries delivered": 1}


def test_reports_of_webhooks_never_touch_messages(database: Database, row: Row) -> None:
    """They come by the same streams, but no row and no count of a message follows from them."""
    tables = ("message_logs", "message_counts", "message_totals", "blast_counts", "dead_letters", "message_attempts")
    before = [database.rows(f"SELECT * FROM {table}") for table in tables]
    batch = EventBatch("w", 1, [retrying(row, 1), delivered(row), exhausted(row, 2)])
    applied = database.apply(EventEntry(f"{{webhook.{row.number}}}:events", "1-0", batch))
    assert applied.written.webhooks
    assert [delivery(database, n)[0] for n in range(3)] == ["delivered", "retrying", "failed"]
    assert [database.rows(f"SELECT * FROM {table}") for table in tables] == before
    assert database.apply(EventEntry(f"{{webhook.{row.number}}}:events", "2-0", batch)).repeated == 1
    assert totals(database) == {"deliveries delivered": 1, "deliveries failed": 1}


def test_an_endpoint_fails_from_its_first_failure_after_a_success(database: Database, row: Row) -> None:
    """Whatever kind of failure it is; a success ends it, also one that is read late."""
    failures: list[Event] = [
        retrying(row, at=20),
        Deferred(START_MS + 20, job(row), 1, 1, 1, "deferred", "429", "slow down", 1, START_MS + 5000),
        Returned(START_MS + 20, job(row), 1, 1, "queued", "unavailable", "connect"),
        exhausted(row, at=20),
    ]
    for failure in failures:
        database.connection.execute("UPDATE webhook_endpoints SET failing_since_ms = 0, delivered_at_ms = 0")
        report(database, row, failure, retrying(row, at=30))
        assert again(database, row).failing_since_ms == START_MS + 20
        report(database, row, retrying(row, at=40), delivered(row, 1, at=35))
        assert again(database, row).failing_since_ms == START_MS + 40
        report(database, row, delivered(row, 1, at=50), retrying(row, at=45))
        assert again(database, row).failing_since_ms == 0
    report(database, row, Returned(START_MS + 99, job(row), 1, 1, "queued"))
    assert again(database, row).failing_since_ms == 0


def test_five_days_of_nothing_but_failures_disable(database: Database, row: Row) -> None:
    """The others are told once, with the reason; a shorter time, or one success, disables nothing."""
    report(database, row, retrying(row, at=5))
    assert not report(database, row, retrying(row, 1, at=FIVE_DAYS_MS))
    assert again(database, row).enabled
    before = len(journal(database))
    assert report(database, row, exhausted(row, at=FIVE_DAYS_MS + 5))
    report(database, row, exhausted(row, 1, at=FIVE_DAYS_MS + 9))
    after = again(database, row)
    assert (after.enabled, after.disabled_reason) == (0, "nothing but failures for 5 days")
    assert after.unsynced
    assert [(event.type, event.subject) for event in journal(database)[before:]] == [
        ("webhook.disabled", row.endpoint_id)
    ]


def test_time_alone_disables_nothing(database: Database, row: Row) -> None:
    """After one failure nothing may be attempted for days: only the next failure counts."""
    report(database, row, retrying(row, at=5))
    report(database, row, Begun(START_MS + 9 * DAY_MS, 1, 2, "s", job(row)), now_ms=START_MS + 9 * DAY_MS)
    assert again(database, row).enabled


def test_the_time_is_a_setting(database: Database, row: Row) -> None:
    """Tests scale it."""
    report(database, row, retrying(row, at=5), fails_for_ms=1000)
    report(database, row, retrying(row, at=1005), fails_for_ms=1000)
    assert again(database, row).disabled_reason == "nothing but failures for 1 s"


def test_a_stopped_endpoint_is_disabled_with_its_reason(database: Database, row: Row) -> None:
    """410 Gone pauses its partition; a pause by the log itself disables nothing."""
    report(database, row, ChannelChanged(START_MS + 5, "webhook", "paused", DISABLED))
    assert again(database, row).enabled
    gone = ChannelChanged(START_MS + 6, "webhook", "paused", "410 Gone: the endpoint is gone")
    assert report(database, row, gone)
    assert again(database, row).disabled_reason == "410 Gone: the endpoint is gone"
    assert journal(database)[-1].type == "webhook.disabled"


def test_the_end_of_an_endpoint_is_reported_to_the_others(database: Database) -> None:
    """The one that is disabled does not get it, also when it is enabled again."""
    row, other = add(database), add(database, events=["webhook.disabled"])
    report(database, row, ChannelChanged(START_MS + 6, "webhook", "paused", "410"))
    assert [one.webhook_id for one in take(database, other)] == [journal(database)[0].id]
    patch(database, row, enabled=True)
    assert take(database, row) == []


def test_an_old_pause_does_not_disable_an_endpoint_that_was_enabled_since(database: Database, row: Row) -> None:
    """The pause is lifted instead: Redis is told again."""
    report(database, row, ChannelChanged(START_MS + 6, "webhook", "paused", "410"))
    patch(database, row, START_MS + 100, enabled=True)
    database.connection.execute("UPDATE webhook_endpoints SET unsynced = false")
    assert report(database, row, ChannelChanged(START_MS + 50, "webhook", "paused", "410"))
    after = again(database, row)
    assert (after.enabled, after.disabled_reason, after.unsynced) == (1, "", 1)


def test_failures_of_before_it_was_enabled_are_forgiven(database: Database, row: Row) -> None:
    """Otherwise an endpoint that failed for five days would be disabled again at its first failure."""
    report(database, row, retrying(row, at=5), exhausted(row, 1, at=FIVE_DAYS_MS + 5))
    patch(database, row, START_MS + FIVE_DAYS_MS + DAY_MS, enabled=True)
    report(database, row, retrying(row, 2, at=FIVE_DAYS_MS + DAY_MS - 9))
    assert again(database, row).failing_since_ms == 0
    report(database, row, retrying(row, 2, at=FIVE_DAYS_MS + DAY_MS + 9))
    assert again(database, row).enabled


def test_reports_of_a_deleted_endpoint_are_ignored(database: Database, row: Row) -> None:
    """Its last events may be read after its rows are gone."""
    database.connection.execute("DELETE FROM webhook_endpoints")
    assert not report(database, row, delivered(row), retrying(row, 1))
