"""A span of time finds all its rows in any order of events: ids follow the order of writing, not of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.logger.filters import ApiFilter, MessageFilter, Page, Span, SystemFilter
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.queries import find_messages, find_requests, find_system_events
from shared.clock import rfc3339
from shared.events import ApiRequest, Begun, Event, SystemEvent
from tests.unit.logger.database import (
    FEWER_ORDERS,
    ORDERS,
    START_MS,
    Database,
    MakeDatabase,
    begun,
    entry,
    queued,
    sent,
)

MINUTE = 60_000


def found(database: Database, from_ms: int, to_ms: int) -> set[str]:
    page = find_messages(
        database.connection, MessageFilter(span=Span(START_MS + from_ms, START_MS + to_ms)), Page(1000)
    )
    return {row[1] for row in page.rows}


def test_the_position_of_a_known_row_does_not_bound_times(database: Database) -> None:
    """A sender's clock is slow: its job's row is completed in the same batch that adds 500 others."""
    database.apply(entry(1, queued([0], at=100)))
    database.apply(entry(2, queued(range(1, 501), at=100), begun(0, at=85)))
    assert len(found(database, 0, 1000)) == 501


def test_rows_are_found_by_a_creation_time_that_arrives_last(database: Database) -> None:
    """They were written in another order than in the blast, with times in a later minute."""
    database.apply(entry(1, sent(0, at=MINUTE), sent(2, at=MINUTE), sent(1, at=MINUTE)))
    database.apply(entry(2, queued(range(3), at=0)))
    assert len(found(database, 0, 1000)) == 3


def check_that_every_span_finds_the_rows_with_its_times(make_database: MakeDatabase, data: st.DataObject) -> None:
    """Jobs are queued over several minutes, begun by wrong clocks, and written in any order."""
    events: list[Event] = []
    for index in range(8):
        at = data.draw(st.integers(0, 5)) * MINUTE // 2
        begins = at + data.draw(st.integers(-2 * MINUTE, 2 * MINUTE))
        events += [queued([index], at=at), Begun(START_MS + begins, 1, 1, "s", f"b:{index}:email")]
    shuffled = data.draw(st.permutations(events))
    cut = data.draw(st.integers(1, len(events) - 1))
    database = make_database()
    database.apply(entry(1, *shuffled[:cut]))
    database.apply(entry(2, *shuffled[cut:]))
    low = data.draw(st.integers(-3 * MINUTE, 4 * MINUTE))
    high = low + data.draw(st.integers(0, 4 * MINUTE))
    query = "SELECT job_id FROM message_logs WHERE created_at >= ? AND created_at <= ?"
    expected = {row[0] for row in database.rows(query, rfc3339(START_MS + low), rfc3339(START_MS + high))}
    assert found(database, low, high) == expected
    database.close()


@ORDERS
@given(data=st.data())
def test_every_span_finds_the_rows_with_its_times(data: st.DataObject) -> None:
    """Jobs are queued over several minutes, begun by wrong clocks, and written in any order."""
    check_that_every_span_finds_the_rows_with_its_times(Database, data)


@FEWER_ORDERS
@given(data=st.data())
def test_every_span_finds_the_rows_with_its_times_in_postgres(postgres: PostgresDatabase, data: st.DataObject) -> None:
    """Jobs are queued over several minutes, begun by wrong clocks, and written in any order."""
    check_that_every_span_finds_the_rows_with_its_times(lambda: Database(postgres), data)


@pytest.mark.parametrize("kind", ["requests", "system events"])
def test_events_held_back_during_an_outage_are_found(database: Database, kind: str) -> None:
    """Each process sends several minutes of events together, so times jump back between processes."""
    span = Span(START_MS, START_MS + 4 * MINUTE)
    for service in range(2):
        events: list[Event] = [
            SystemEvent(START_MS + second * 1000, "error", "away", f"s{service}")
            if kind == "system events"
            else ApiRequest(START_MS + second * 1000, "/x", "GET", "", "", 503, 1)
            for second in range(0, 600, 30)
        ]
        database.apply(entry(service + 1, *events))
    if kind == "system events":
        rows = find_system_events(database.connection, SystemFilter(span=span), Page(1000)).rows
    else:
        rows = find_requests(database.connection, ApiFilter(span=span), Page(1000)).rows
    assert len(rows) == 2 * 9
