"""Deliveries that Redis lost, or that a restored database does not know of, are enqueued again under the same id."""

from __future__ import annotations

from services.logger.webhooks.alignment import (
    EXPIRED,
    align,
    give_up,
    has_unsent_before,
    is_off,
    load_unsent,
    mark_enqueued,
)
from services.logger.webhooks.endpoints import Row
from services.logger.webhooks.results import note_reported
from shared.events import Retrying, Sent
from shared.queue.webhook_queues import Progress
from tests.unit.logger.database import START_MS, Database, entry, queued, sent
from tests.unit.logger.webhooks.endpoints import add, again, report, take


def prepared(database: Database, count: int = 5, **config: object) -> Row:
    """Return an endpoint whose deliveries are enqueued."""
    row = add(database, **config)
    database.apply(entry(1, queued(range(count)), *(sent(n) for n in range(count))))
    taken = take(database, row, 1 << 62)
    mark_enqueued(database.connection, [(row.number, one.n) for one in taken])
    return again(database, row)


def unsent(database: Database, row: Row) -> list[int]:
    return [one.n for one in load_unsent(database.connection, row, recipients=False).outgoing]


def test_what_redis_lost_is_enqueued_again(database: Database) -> None:
    """Those that ended are not; the ids and the bodies stay."""
    row = add(database)
    database.apply(entry(1, queued(range(5)), *(sent(n) for n in range(5))))
    first = take(database, row)
    mark_enqueued(database.connection, [(row.number, n) for n in range(5)])
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n = 3")
    row = again(database, row)
    assert not is_off(database.connection, row.number, Progress(5, "0-0"))
    assert is_off(database.connection, row.number, Progress(2, "0-0"))
    align(database.connection, row.number, Progress(2, "0-0"))
    assert load_unsent(database.connection, row, recipients=False).outgoing == [first[2], first[4]]
    assert has_unsent_before(database.connection, row.number, 3)
    assert not has_unsent_before(database.connection, row.number, 2)


def test_a_restored_database_uses_numbers_that_were_never_used(database: Database) -> None:
    """Its open deliveries are renumbered: what Redis has under their numbers are other events."""
    row = prepared(database, 3)
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n = 0")
    ids = dict(database.rows("SELECT n, webhook_id FROM webhook_deliveries"))
    assert is_off(database.connection, row.number, Progress(9, "0-0"))
    align(database.connection, row.number, Progress(9, "0-0"))
    row = again(database, row)
    assert (row.next_n, unsent(database, row)) == (11, [9, 10])
    moved = dict(database.rows("SELECT n, webhook_id FROM webhook_deliveries"))
    assert (moved[9], moved[10]) == (ids[1], ids[2])
    assert not is_off(database.connection, row.number, Progress(9, "0-0"))


def test_a_report_that_the_database_does_not_have_shows_that_it_was_restored(database: Database) -> None:
    """Whatever the watermark is: an open delivery may have ended since the backup, and nothing reports it again."""
    row = prepared(database, 3)
    note_reported(database.connection, {row.number: "1790000000000-2"})
    mark_enqueued(database.connection, [(row.number, n) for n in range(3)])
    known, later = Progress(3, "1790000000000-2"), Progress(3, "1790000000000-10")
    assert not is_off(database.connection, row.number, known)
    assert is_off(database.connection, row.number, later)
    align(database.connection, row.number, later)
    assert unsent(database, again(database, row)) == [3, 4, 5]
    assert not is_off(database.connection, row.number, later)


def test_reports_of_a_delivery_that_got_another_number_count_from_its_start(database: Database) -> None:
    """Redis begins with it again: its first attempt there is no report of before."""
    row = prepared(database, 1)
    report(database, row, Retrying(START_MS, f"{row.endpoint_id}:0:webhook", 1, 7, "transient", "503", "busy", 7, 1))
    align(database.connection, row.number, Progress(5, "0-0"))
    report(database, row, Sent(START_MS, f"{row.endpoint_id}:5:webhook", 1, 1, "", "204", 7))
    assert database.rows("SELECT n, status FROM webhook_deliveries") == [(5, "delivered")]


def test_an_entry_that_is_applied_again_notes_no_earlier_one(database: Database) -> None:
    """After a failed acknowledgement, earlier entries are read again."""
    row = prepared(database, 1)
    for entry_id in ("1790000000000-10", "1790000000000-9", "999-99"):
        note_reported(database.connection, {row.number: entry_id, 77: entry_id})
    assert database.rows("SELECT reported FROM webhook_endpoints") == [("1790000000000-10",)]


def test_a_batch_is_made_again_from_its_own_events(database: Database) -> None:
    """Whatever the endpoint's filters are by then."""
    row = prepared(database, 4, batch={"max": 3, "withinMs": 0})
    ids = [webhook_id for (webhook_id,) in database.rows("SELECT webhook_id FROM webhook_deliveries ORDER BY n")]
    assert len(set(ids)) == 2
    database.connection.execute("UPDATE webhook_deliveries SET enqueued = false")
    before = load_unsent(database.connection, row, recipients=False).outgoing
    database.connection.execute("""UPDATE webhook_endpoints SET config = replace(config, '"max":3', '"max":1')""")
    assert load_unsent(database.connection, again(database, row), recipients=False).outgoing == before
    assert [one.webhook_id for one in before] == ids


def test_a_delivery_whose_events_are_gone_ends_as_failed(database: Database) -> None:
    """It says why, and counts."""
    row = prepared(database, 2)
    database.connection.execute("UPDATE webhook_deliveries SET enqueued = false")
    database.connection.execute("DELETE FROM webhook_events WHERE id = 1")
    found = load_unsent(database.connection, row, recipients=False)
    assert ([one.n for one in found.outgoing], found.gone) == ([1], [0])
    give_up(database.connection, [(row.number, 0)])
    assert database.rows("SELECT status, error FROM webhook_deliveries WHERE n = 0") == [("failed", EXPIRED)]
    assert unsent(database, row) == [1]
