"""G5: the database applies each event exactly once, in whatever order and however often batches arrive."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import count, zip_longest
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.logger.postgres.connecting import PostgresDatabase
from shared.events import (
    BlastChannelEnded,
    Deferred,
    Ended,
    Event,
    Processing,
    Queued,
    Retrying,
    Returned,
    Swept,
    SweptRanges,
)
from shared.queue.event_log import EventEntry
from tests.unit.logger.database import (
    FEWER_ORDERS,
    ORDERS,
    START_MS,
    Database,
    MakeDatabase,
    accepted,
    begun,
    begun_together,
    blast,
    entry,
    failed,
    job,
    queued,
    queued_phones,
    sent,
)

ID = "b:0:email"
_ATTEMPT = "run, attempt, deferral, outcome, error_class, error_code, error_message, duration_ms, at_ms, next_at_ms"


def retrying(attempt: int, *, run: int = 1, at: int) -> Retrying:
    return Retrying(START_MS + at, ID, run, attempt, "transient", "451", "try again", 3, START_MS + at + 2000)


def deferred(attempt: int, deferral: int, *, run: int = 1, at: int) -> Deferred:
    until = START_MS + at + 9000
    return Deferred(START_MS + at, ID, run, attempt, deferral, "deferred", "450", "greylisted", 3, until)


def begun_at_an_earlier_sender(index: int = 0, *, at: int) -> Processing:
    return Processing(START_MS + at, f"b:{index}:email", 1, 1, "s")


RUN_1: list[list[Event]] = [
    [accepted(blast())],
    [queued()],
    [begun(at=10)],
    [deferred(1, 1, at=20)],
    [begun(at=9020)],
    [Returned(START_MS + 9021, ID, 1, 1, "retrying", "unavailable", "connect")],
    [begun_at_an_earlier_sender(at=9500)],
    [retrying(1, at=9600)],
    [begun(attempt=2, at=11600)],
]
ENDS: dict[str, list[list[Event]]] = {
    "sent": [[sent(attempt=2, at=11700)]],
    "failed": [[failed(attempt=2, at=11700)]],
    "failed, then found sent by a late answer": [
        [failed(attempt=2, at=11700, error_class="uncertain")],
        [sent(attempt=2, at=11800, late=True)],
    ],
    "failed, and sent in its next run": [
        [failed(attempt=2, at=11700)],
        [queued(run=2, at=20_000)],
        [begun(run=2, at=20_010)],
        [retrying(1, run=2, at=20_020)],
        [begun(run=2, attempt=2, at=22_010)],
        [sent(run=2, attempt=2, at=22_020)],
    ],
    "failed, and cancelled in its next run": [
        [failed(attempt=2, at=11700)],
        [queued(run=2, at=20_000)],
        [Swept(START_MS + 21_000, "cancelled", "cancelled", "cancelled before it was sent", [job(run=2)])],
    ],
    "failed, and cancelled in its next run with a range": [
        [failed(attempt=2, at=11700)],
        [queued(run=2, at=20_000)],
        [SweptRanges(START_MS + 21_000, "cancelled", "cancelled", "cancelled", "b", "email", 2, [(0, 0)])],
    ],
}
ENDED: list[Event] = [BlastChannelEnded(START_MS + 30_000, "b", "email", {"total": 1})]


def _by_job(row: tuple[Any, ...]) -> str:
    return str(row[0])


def outcome(make_database: MakeDatabase, batches: Sequence[Sequence[EventEntry]]) -> dict[str, list[tuple[Any, ...]]]:
    """Write each batch in a transaction, the next one known, and return everything that a reader can see."""
    database = make_database()
    with closing(database):
        for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
            database.apply_all(batch, following)
        database.counts_agree()
        columns = "job_id, recipient_email, recipient_name, template_id, template_name, subject, status, error_message"
        more = "message_id, attempts, created_at, updated_at, run, error_class, error_code, response, next_at"
        return {
            "rows": sorted(database.rows(f"SELECT {columns}, {more}, state_rank FROM message_logs"), key=_by_job),
            "attempts": database.rows(f"SELECT {_ATTEMPT} FROM message_attempts ORDER BY run, attempt, deferral"),
            "letters": database.rows("SELECT job_id, run, error_class FROM dead_letters"),
            "blasts": database.rows("SELECT blast_id, state, ended_at_ms, template_id, totals FROM blasts"),
            "errors": database.rows("SELECT * FROM error_days ORDER BY day, channel, error_class"),
            "bounds": database.rows(
                "SELECT count(*) FROM message_logs m JOIN created_minutes c"
                " ON m.id BETWEEN c.first_id AND c.last_id AND c.minute = ?",
                START_MS // 60_000,
            ),
        }


def check_that_any_order_and_repetition_give_the_same_rows(make_database: MakeDatabase, data: st.DataObject) -> None:
    """Events that are shuffled, repeated and split at random give the same result as in their original order."""
    end = ENDS[data.draw(st.sampled_from(sorted(ENDS)))]
    entries = [entry(number, *events) for number, events in enumerate([*RUN_1, *end, ENDED])]
    expected = outcome(make_database, [[one] for one in entries])
    shuffled = data.draw(st.permutations(entries))
    repeated = data.draw(st.lists(st.sampled_from(entries), max_size=6))
    every = [*shuffled, *repeated]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(every) - 1), max_size=5)))
    found = outcome(
        make_database, [every[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(every)], strict=True)]
    )
    assert found == expected
    assert expected["bounds"] == [(1,)]


@ORDERS
@given(data=st.data())
def test_any_order_and_repetition_give_the_same_rows(data: st.DataObject) -> None:
    """Events that are shuffled, repeated and split at random give the same result as in their original order."""
    check_that_any_order_and_repetition_give_the_same_rows(Database, data)


@FEWER_ORDERS
@given(data=st.data())
def test_any_order_gives_the_same_rows_in_postgres(postgres: PostgresDatabase, data: st.DataObject) -> None:
    """Events that are shuffled, repeated and split at random give the same result as in their original order."""
    check_that_any_order_and_repetition_give_the_same_rows(lambda: Database(postgres), data)


def test_jobs_begun_together_begin_as_each_alone_would(make_database: MakeDatabase) -> None:
    """Rows that are there or not, ended, or further on: all as with the event of an earlier sender for each."""
    together: list[Event] = [begun_together(range(5), at=9)]
    alone: list[Event] = [begun_at_an_earlier_sender(index, at=9) for index in range(5)]
    early: list[Event] = [accepted(blast(total=5)), queued([0, 1, 2]), sent(1, at=12), retrying(1, at=15)]
    late: list[Event] = [queued([3], at=20), failed(2, at=20), begun_together([3, 4], run=2, at=1)]
    for batches in ([early, together, late], [late, together, early], [together, early, late]):
        expected = [alone if batch is together else batch for batch in batches]
        entries = [entry(number, *batch) for number, batch in enumerate(batches)]
        found = outcome(make_database, [[one] for one in entries])
        assert found == outcome(make_database, [[entry(n, *batch)] for n, batch in enumerate(expected)])
        assert outcome(make_database, [entries]) == found == outcome(make_database, [[*entries, *entries], entries])


def test_jobs_swept_together_end_as_each_alone_would(make_database: MakeDatabase) -> None:
    """One `Swept` for many jobs has the effect of one `Ended` per job, before or after the jobs' own events."""
    message = "cancelled before it was sent"
    together = entry(2, Swept(START_MS + 9, "cancelled", "cancelled", message, [job(index) for index in range(3)]))
    alone = entry(2, *[
        Ended(START_MS + 9, f"b:{index}:email", 1, 0, "cancelled", "cancelled", "", message, 0, b"",
              f"user{index}@example.com", f"User {index}")
        for index in range(3)
    ])  # fmt: skip
    before = entry(1, accepted(blast(total=3)), queued(range(3)))
    for first, second in ((before, together), (together, before)):
        assert outcome(make_database, [[first], [second]]) == outcome(make_database, [[before], [alone]])
        assert outcome(make_database, [[first, second]]) == outcome(make_database, [[before, alone]])
    assert outcome(make_database, [[together]]) == outcome(make_database, [[alone]])
    assert outcome(make_database, [[before, together]])["errors"] == []


def test_ranges_that_were_swept_end_as_each_job_alone_would(make_database: MakeDatabase) -> None:
    """Rows that wait, were sent meanwhile, failed, are incomplete or not there yet: all as with an `Ended` each."""
    message = "cancelled before it was sent"
    ranges: list[tuple[int, int]] = [(0, 4), (7, 7)]
    together = SweptRanges(START_MS + 9, "cancelled", "cancelled", message, "b", "email", 1, ranges)
    alone: list[Event] = [
        Ended(START_MS + 9, f"b:{index}:email", 1, 0, "cancelled", "cancelled", "", message)
        for index in together.indexes()
    ]
    early: list[Event] = [
        accepted(blast(total=8)),
        queued([0, 1, 2, 6, 7]),
        sent(1),
        failed(2, at=3),
        failed(7, run=2, at=4),
    ]
    late: list[Event] = [queued([3, 5]), queued([4], at=20), retrying(1, at=9600), queued([0], run=2, at=30)]
    swept: list[Event] = [together]
    for batches in ([early, swept, late], [late, swept, early], [swept, early, late]):
        expected = [[event for one in batch for event in (alone if one is together else [one])] for batch in batches]
        entries = [entry(number, *batch) for number, batch in enumerate(batches)]
        found = outcome(make_database, [[one] for one in entries])
        assert found == outcome(make_database, [[entry(n, *batch)] for n, batch in enumerate(expected)])
        assert outcome(make_database, [entries]) == found == outcome(make_database, [[*entries, *entries], entries])


def test_messages_that_wait_end_together(database: Database) -> None:
    """The rows of messages that wait, queued or scheduled, are neither read nor written one by one."""
    database.apply(entry(1, accepted(blast(total=1000)), queued(range(600))))
    database.apply(entry(2, msgspec.structs.replace(queued(range(600, 1000)), status="scheduled")))
    statements = [] if database.is_postgres else database.watch()
    database.apply(entry(3, SweptRanges(START_MS + 9, "cancelled", "cancelled", "", "b", "email", 1, [(0, 999)])))
    assert len(statements) < 30
    assert database.rows("SELECT status, count(*) FROM message_logs GROUP BY status") == [("cancelled", 1000)]
    database.counts_agree()


def test_what_only_one_row_of_many_has_is_written(database: Database) -> None:
    """Columns that are NULL in all rows of a statement are left out, those that one row has are not."""
    many = queued(range(450))
    many.recipients[399] = msgspec.structs.replace(many.recipients[399], reference="R-399")
    database.apply(entry(1, many, sent(440), failed(441)))
    assert database.rows("SELECT id FROM message_logs WHERE reference IS NOT NULL") == [(400,)]
    assert database.rows("SELECT id FROM message_logs WHERE message_id IS NOT NULL") == [(441,)]
    assert database.rows("SELECT id FROM message_logs WHERE error_class IS NOT NULL") == [(442,)]
    database.apply(entry(2, *[sent(index) for index in range(430, 440)], failed(7)))
    assert database.one("SELECT count(*) FROM message_logs WHERE message_id IS NOT NULL") == 11
    assert database.rows("SELECT id FROM message_logs WHERE error_class IS NOT NULL ORDER BY id") == [(8,), (442,)]
    database.apply(entry(3, sent(7, at=90, late=True), sent(441, at=90, late=True)))
    assert database.one("SELECT count(*) FROM message_logs WHERE error_class IS NOT NULL") == 0
    assert database.one("SELECT count(*) FROM message_logs WHERE error_message IS NOT NULL") == 0
    database.counts_agree()


def test_a_late_sent_outranks_the_failure_of_its_run(database: Database) -> None:
    """Its dead letter is deleted, so that it cannot be sent again."""
    database.apply(entry(1, queued(), begun(), failed(error_class="uncertain")))
    assert database.one("SELECT count(*) FROM dead_letters") == 1
    database.apply(entry(2, sent(at=90, late=True)))
    assert database.rows("SELECT status, error_class, message_id FROM message_logs") == [("sent", None, "<0.1@x>")]
    assert database.one("SELECT count(*) FROM dead_letters") == 0
    database.counts_agree()


def test_a_late_sent_of_an_earlier_run_changes_nothing(database: Database) -> None:
    """The next run keeps its state, whatever arrives for the previous run."""
    database.apply(entry(1, queued(), failed()), entry(2, queued(run=2, at=50)))
    database.apply(entry(3, sent(at=90, late=True)))
    assert database.rows("SELECT status, run, attempts FROM message_logs") == [("queued", 2, 0)]


def test_a_repeated_batch_counts_once(database: Database) -> None:
    """An entry with the producer and sequence number of an applied one changes nothing."""
    database.apply(entry(1, queued(range(3))))
    applied = database.apply(entry(1, queued(range(3))), entry(2, begun()))
    assert (applied.repeated, applied.events) == (1, 1)
    assert database.one("SELECT n FROM message_totals WHERE status = 'queued'") == 3


def test_what_was_folded_ahead_is_not_applied_again(database: Database) -> None:
    """A batch that was applied meanwhile counts once, also where the entries were folded before that was known."""
    repeated, later = entry(2, begun(), sent()), entry(3, begun(1))
    following = [repeated, later]
    database.apply_all([entry(1, queued(range(2)))], following)
    database.apply(repeated)
    applied = database.apply_all(following)
    assert (applied.repeated, applied.events) == (1, 1)
    assert database.rows("SELECT status FROM message_logs ORDER BY id") == [("sent",), ("processing",)]
    assert database.one("SELECT n FROM message_totals WHERE status = 'sent'") == 1
    database.counts_agree()


def test_what_was_folded_ahead_of_a_failed_transaction_is_written_once(database: Database) -> None:
    """The transaction and the one after it are repeated from the start, in the same order."""
    first, following = [entry(1, queued(range(2)))], [entry(2, begun(), sent())]
    database.connection.execute("BEGIN")
    database.writer.apply(database.connection, first, following)
    database.connection.execute("ROLLBACK")
    database.forget()
    database.apply_all(first, following)
    assert database.apply_all(following).events == 2
    assert database.rows("SELECT status FROM message_logs ORDER BY id") == [("sent",), ("queued",)]
    database.counts_agree()


def test_totals_never_go_down(database: Database) -> None:
    """The totals for Prometheus still count the failure of a message that was sent in its next run."""
    database.apply(entry(1, queued(), failed()))
    database.apply(entry(2, queued(run=2, at=50), sent(run=2, at=60)))
    assert dict(database.rows("SELECT status, n FROM message_totals")) == {"queued": 2, "failed": 1, "sent": 1}
    assert database.rows("SELECT status, n FROM message_counts WHERE n > 0") == [("sent", 1)]


def test_a_queued_event_that_arrives_last_completes_the_row(database: Database) -> None:
    """A sender's events may be read before those of the process that enqueued the job."""
    database.apply(entry(1, sent(at=5)))
    database.apply(entry(2, queued(at=1)))
    columns = "status, recipient_email, recipient_name, template_name, subject, attempts"
    assert database.rows(f"SELECT {columns} FROM message_logs") == [
        ("sent", "user0@example.com", "User 0", "Reminder", "Hello", 1)
    ]


def test_rows_that_are_written_together_are_those_written_alone(make_database: MakeDatabase) -> None:
    """Columns with one value in all rows of a statement are given once; no row gets the value of another."""
    events: list[Event] = [queued(range(start, start + 30), f"b{start // 90}", at=start) for start in range(0, 600, 30)]
    events += [queued_phones(range(10)), sent(3, "b0"), failed(4, "b0"), sent(599, "b6", attempt=2)]
    alone = [
        msgspec.structs.replace(event, recipients=[one]) if isinstance(event, Queued) else event
        for event in events
        for one in (event.recipients if isinstance(event, Queued) else [None])
    ]
    found = []
    for entries in ([entry(1, *events)], [entry(number, event) for number, event in enumerate(alone)]):
        database = make_database()
        for one in entries:
            database.apply(one)
        database.counts_agree()
        found.append(database.rows("SELECT * FROM message_logs ORDER BY job_id"))
    assert found[0] == found[1]
    assert len(found[0]) == 610


def test_rows_that_are_changed_together_are_those_changed_alone(make_database: MakeDatabase) -> None:
    """No row gets the value of another, nor of another column; what no row has any more is cleared in each."""
    jobs = [f"b:{index}:email" for index in range(225)]
    steps: list[list[Event]] = [
        [queued(range(225))],
        [Retrying(START_MS + 2, one, 1, 1, "transient", "451", "busy", 3, START_MS + 9, one[:3]) for one in jobs],
        [Deferred(START_MS + 4, one, 1, 2, 1, "deferred", one, "slow", 5, START_MS + 8) for one in jobs],
        [sent(index, attempt=3, at=6 + index % 2) for index in range(225)],
    ]
    found: list[list[list[tuple[object, ...]]]] = []
    for together in (True, False):
        database, numbers = make_database(), count()
        found.append([])
        for step in steps:
            for events in [step] if together else [[event] for event in step]:
                database.apply(entry(next(numbers), *events))
            found[-1].append(database.rows("SELECT * FROM message_logs ORDER BY id"))
        database.counts_agree()
    assert found[0] == found[1]
    assert [len(rows) for rows in found[0]] == [225] * 4


def test_batches_of_any_size_are_written_whole_and_in_order(database: Database) -> None:
    """Rows are inserted by statements for many rows; what is left over is not lost, nor written twice."""
    for number, size in enumerate((1, 4, 5, 49, 50, 56, 499, 500, 556, 1061), 1):
        database.apply(entry(number, queued(range(size), f"b{number}")))
        rows = database.rows("SELECT job_id FROM message_logs WHERE blast_id = ? ORDER BY id", f"b{number}")
        assert rows == [(f"b{number}:{index}:email",) for index in range(size)]
    database.counts_agree()
