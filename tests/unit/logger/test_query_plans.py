"""Every query of the API uses an index: none scans a table or sorts a large set."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from services.logger import blast_views, open_jobs, queries
from services.logger.blast_rows import read_snapshot
from services.logger.blast_views import BlastFilter
from services.logger.counting import count_messages
from services.logger.dashboard import show_dashboard
from services.logger.early_receipts import EarlyExpiry, Incoming, keep_early
from services.logger.failures import failures_of
from services.logger.filters import ApiFilter, MessageFilter, Page, Span, SystemFilter
from services.logger.history import read_history
from services.logger.matching import open_runs_of_jobs
from services.logger.redelivery import RetryRequest, open_runs, open_runs_of_reason
from services.logger.suppression_outbox import NEXT
from services.logger.watch import Sample
from services.logger.webhooks.alignment import align, has_unsent_before, is_off, load_unsent, mark_enqueued
from services.logger.webhooks.changing import change_endpoint
from services.logger.webhooks.counting import sample_webhooks
from services.logger.webhooks.endpoints import Row, find, read_rows
from services.logger.webhooks.expiring import expire_deliveries, expire_events
from services.logger.webhooks.planning import adopt, propose
from services.logger.webhooks.routes import _add_test
from services.logger.webhooks.sync import _drop_deliveries
from services.logger.webhooks.views import DELIVERY_STATUSES, DeliveryFilter, add_replay, list_deliveries, show
from shared.events import ChannelChanged, Receipts, Sent
from shared.queue.webhook_queues import Progress
from tests.unit.logger.database import (
    START_MS,
    Database,
    MakeDatabase,
    accepted,
    begun,
    blast,
    entry,
    failed,
    queued,
    queued_phones,
    receipt,
    sent,
    sent_phone,
)
from tests.unit.logger.webhooks.endpoints import add, again, take

Ask = Callable[[sqlite3.Connection], Any]
PAGE = Page(2)
SPAN = Span(START_MS - 1000, START_MS + 100_000)

# tables of a few rows (channels × statuses or deliveries; up to 500 jobs to send again in each; at most 100 endpoints),
# and lists of ids that are a parameter of the statement
_SMALL = re.compile(
    r"SCAN (message_counts|message_totals|delivery_counts|early_counts|retry_outbox|webhook_endpoints|webhook_totals"
    r"|json_each)\b"
)
# statements that sort or group at most a page of rows
_SORTS_A_PAGE = re.compile(r"json_each|error_days|status = 'failed' ORDER BY id DESC LIMIT 100000")

MESSAGES: dict[str, MessageFilter] = {
    "nothing": MessageFilter(),
    "status": MessageFilter(statuses=("sent", "failed")),
    "channel": MessageFilter(channels=("email",)),
    "status and channel": MessageFilter(statuses=("failed",), channels=("email",)),
    "the beginning of an address": MessageFilter(recipient=("user",)),
    "the beginning of a number": MessageFilter(recipient=("0812", "62812")),
    "blast": MessageFilter(blast="b"),
    "blast, channel and status": MessageFilter(blast="b", channels=("email",), statuses=("failed",)),
    "template": MessageFilter(template="reminder"),
    "reference": MessageFilter(reference="order-1"),
    "class of error": MessageFilter(error_class="permanent"),
    "everything": MessageFilter(
        ("failed",), ("email",), ("user", "other"), "b", "reminder", "order-1", "permanent", SPAN
    ),
    "time": MessageFilter(span=SPAN),
    "delivery": MessageFilter(deliveries=("bounced", "delivered")),
    "delivery and blast": MessageFilter(blast="b", deliveries=("bounced",)),
    "delivery, blast and status": MessageFilter(statuses=("sent",), blast="b", deliveries=("bounced",)),
    "delivery and template": MessageFilter(template="reminder", deliveries=("bounced",)),
    "delivery and recipient": MessageFilter(recipient=("user",), deliveries=("bounced",)),
}


@pytest.fixture
def make_database() -> MakeDatabase:
    """Only SQLite: another database has other words for this."""
    return Database


BOUNCES = [receipt("bounced", 9 + day, job_id="b:0:email", severity="soft") for day in range(3)]
# by each way to find a message, repeated, early, and with each effect on suppressions
RECEIPTS = {
    "email": [
        *BOUNCES,
        receipt("bounced", 20, message_id="b.0.email.1@example.com", severity="hard"),
        receipt("delivered", 5, job_id="b:77:email"),
        receipt("opted_out", 5, address="user0@example.com"),
        receipt("bounced", 30, job_id="b:0:email", severity="soft"),
    ],
    "whatsapp": [
        receipt("read", 5, provider_id="wamid.w.0"),
        receipt("read", 5, provider_id="wamid.unknown"),
        receipt("opted_in", 5, address="6281200000001"),
        receipt("opted_out", 6, address="6281200000009"),
    ],
}


@pytest.fixture
def filled(database: Database) -> Database:
    """Return a database in which each query finds rows."""
    database.apply(entry(1, accepted(blast(total=9, reference="order-1")), queued(range(9)), begun(), sent()))
    database.apply(entry(2, *[failed(index) for index in range(1, 6)]))
    database.apply(entry(3, queued_phones((0, 1)), sent_phone(0), sent_phone(1), channel="whatsapp"))
    database.apply(entry(4, Receipts([receipt("delivered", 5, job_id="b:0:email"), *BOUNCES])))
    return database


def plans_of(connection: sqlite3.Connection, ask: Ask) -> dict[str, list[str]]:
    """Run a query and return the plan of every statement that it executed."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    try:
        ask(connection)
    finally:
        connection.set_trace_callback(None)
    asked = {one for one in statements if one.lstrip().upper().startswith(("SELECT", "DELETE", "UPDATE"))}
    assert asked, "nothing was asked"
    return {one: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")] for one in asked}


def check(connection: sqlite3.Connection, ask: Ask) -> None:
    """Fail if a statement scans a table or sorts more than a page."""
    for statement, plan in plans_of(connection, ask).items():
        for step in plan:
            is_walk = step.startswith("SCAN") and not _SMALL.match(step)
            assert not is_walk or _is_bounded_walk(statement, step), f"{step}\n{statement}"
            if "TEMP B-TREE" in step:
                assert _SORTS_A_PAGE.search(statement), f"{step}\n{statement}"


def _is_bounded_walk(statement: str, step: str) -> bool:
    """Return whether a step reads rows in the order of an index, or the rows of a subquery, up to a limit."""
    return ("USING" in step or step.startswith(("SCAN (subquery", "SCAN latest"))) and "LIMIT" in statement


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_found_by_an_index(filled: Database, name: str) -> None:
    """For every filter, ids come from an index in order, and rows are read by id."""
    check(filled.connection, lambda connection: queries.find_messages(connection, MESSAGES[name], PAGE))
    following = Page(2, 5)
    check(filled.connection, lambda connection: queries.find_messages(connection, MESSAGES[name], following))
    check(filled.connection, lambda connection: count_messages(connection, MESSAGES[name]))


@pytest.mark.parametrize(
    "wanted",
    [
        ApiFilter(),
        ApiFilter(endpoint="/x"),
        ApiFilter(status=404),
        ApiFilter("/x", "GET", 404, SPAN),
        ApiFilter(span=SPAN),
    ],
    ids=str,
)
def test_api_requests_are_found_by_an_index(filled: Database, wanted: ApiFilter) -> None:
    """This holds by endpoint, by status, by time and without a filter."""
    check(filled.connection, lambda connection: queries.find_requests(connection, wanted, PAGE))


@pytest.mark.parametrize(
    "wanted",
    [SystemFilter(), SystemFilter(("error",)), SystemFilter((), "ingest"), SystemFilter(("error",), "ingest", SPAN)],
    ids=str,
)
def test_system_events_are_found_by_an_index(filled: Database, wanted: SystemFilter) -> None:
    """This holds by level, by service, by time and without a filter."""
    check(filled.connection, lambda connection: queries.find_system_events(connection, wanted, PAGE))


@pytest.mark.parametrize(
    "wanted",
    [BlastFilter(), BlastFilter("running"), BlastFilter("", "reminder"), BlastFilter("running", "reminder", "order-1")],
    ids=str,
)
def test_blasts_are_found_by_an_index(filled: Database, wanted: BlastFilter) -> None:
    """This holds by state, by template, by reference and without a filter."""
    check(filled.connection, lambda connection: blast_views.list_blasts(connection, wanted, 2, ""))


def _list_deliveries(connection: sqlite3.Connection, status: str) -> Any:
    wanted = DeliveryFilter(status, SPAN)
    return list_deliveries(connection, hook(connection), wanted, PAGE)


ASKED: dict[str, Ask] = {
    "a message's story": lambda connection: read_history(connection, "b:1:email"),
    "a blast": lambda connection: blast_views.find_blast(connection, "b"),
    "a snapshot": lambda connection: read_snapshot(connection, "b"),
    "the dashboard": lambda connection: show_dashboard(connection, Sample(), START_MS),
    "changes of suppressions": lambda connection: connection.execute(NEXT, (10,)).fetchall(),
    "open jobs": lambda connection: open_jobs.list_open(connection, START_MS + 1000, PAGE),
    "dead letters of a blast": lambda connection: open_runs(connection, RetryRequest(blast_id="b"), START_MS),
    "a blast's failures": lambda connection: failures_of(connection, "b"),
    "dead letters of a reason": lambda connection: open_runs_of_reason(
        connection, START_MS, RetryRequest(blast_id="b", channel="email", error_code="550"), 0
    ),
    "dead letters of jobs": lambda connection: open_runs_of_jobs(
        connection, START_MS, job_ids=["b:1:email", "b:2:email"], include_uncertain=False
    ),
    "the dead letter of a job": lambda connection: open_runs(connection, RetryRequest(job_id="b:1:email"), START_MS),
}


@pytest.mark.parametrize("name", ASKED)
def test_everything_else_is_found_by_an_index(filled: Database, name: str) -> None:
    """This covers the dashboard, the doctor and a retry, including the retry's writes."""
    check(filled.connection, ASKED[name])


def test_writing_finds_its_rows_by_an_index(filled: Database) -> None:
    """A batch that changes, completes and ends jobs scans no table."""
    batch = entry(7, queued((6, 7, 8), at=-5), begun(6), failed(6), sent(1, late=True))
    check(filled.connection, lambda connection: filled.writer.apply(connection, [batch]))


@pytest.mark.parametrize("channel", RECEIPTS)
def test_receipts_find_their_rows_by_an_index(filled: Database, channel: str) -> None:
    """Matching, the history of an address, waking early ones and expiring them scan no table."""
    told = entry(8, Receipts(RECEIPTS[channel]), channel=channel)
    check(filled.connection, lambda connection: filled.writer.apply(connection, [told]))
    assert filled.one("SELECT count(*) FROM early_receipts") >= 1
    missing = entry(9, queued((77,)), queued_phones((9,)), sent_phone(9), channel=channel)
    check(filled.connection, lambda connection: filled.writer.apply(connection, [missing]))
    many = [Incoming(channel, receipt("read", 5, job_id=f"x:{n}:{channel}"), START_MS) for n in range(3)]
    check(filled.connection, lambda connection: keep_early(connection, many, START_MS, most=1))
    check(filled.connection, lambda connection: EarlyExpiry(START_MS * 2, START_MS)(connection, 10))


@pytest.fixture
def hooked(filled: Database) -> Database:
    """Return a database with two webhooks that have deliveries in each state, a backlog and a replay."""
    row, batched = add(filled), add(filled, batch={"max": 3, "withinMs": 0}, reference="order-1")
    filled.apply(entry(7, queued(range(20, 40), at=-5), *(sent(index) for index in range(20, 40))))
    take(filled, row)
    take(filled, batched, START_MS * 2)
    filled.connection.execute("UPDATE webhook_deliveries SET status = 'failed' WHERE n = 3")
    filled.connection.execute("UPDATE webhook_deliveries SET status = 'delivered', enqueued = 1 WHERE n > 10")
    add_replay(filled.connection, again(filled, row), START_MS, START_MS * 2, START_MS)
    filled.apply(entry(8, queued(range(40, 50), at=-5), *(sent(index) for index in range(40, 50))))
    return filled


def hook(connection: sqlite3.Connection) -> Row:
    return read_rows(connection)[0]


def _change_and_enable(connection: sqlite3.Connection, endpoint_id: str) -> None:
    connection.execute("UPDATE webhook_endpoints SET enabled = 0, disabled_reason = 'it only fails'")
    change_endpoint(connection, endpoint_id, {"events": ["message.read"], "enabled": True}, START_MS)


HOOKED: dict[str, Ask] = {
    "what endpoints get next": lambda connection: [
        adopt(connection, propose(connection, row, START_MS * 2, recipients=True), START_MS)
        for row in read_rows(connection)
    ],
    "what is not enqueued": lambda connection: load_unsent(connection, hook(connection), recipients=True),
    "what was enqueued": lambda connection: mark_enqueued(connection, [(1, 2)]),
    "whether Redis agrees": lambda connection: (
        is_off(connection, 1, Progress(5, "0-0")), has_unsent_before(connection, 1, 5)
    ),
    "what Redis lost": lambda connection: align(connection, 1, Progress(5, "0-0")),
    "what a restored database has": lambda connection: align(connection, 1, Progress(500, "0-0")),
    "a changed endpoint": lambda connection: _change_and_enable(connection, hook(connection).endpoint_id),
    "an endpoint": lambda connection: show(connection, find(connection, hook(connection).endpoint_id)),
    "how all do": lambda connection: sample_webhooks(connection, START_MS),
    "a replay": lambda connection: add_replay(connection, hook(connection), START_MS, START_MS * 2, START_MS),
    "a test": lambda connection: _add_test(connection, hook(connection).endpoint_id, START_MS),
    "old events": lambda connection: expire_events(START_MS * 2)(connection, 5),
    "old deliveries": lambda connection: expire_deliveries(1, START_MS * 2)(connection, 5),
    "a deleted endpoint": lambda connection: _drop_deliveries(connection, 1),
    **{
        f"deliveries that are {status or 'any'}": partial(_list_deliveries, status=status)
        for status in ("", *DELIVERY_STATUSES)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HOOKED)
def test_webhooks_are_served_by_an_index(hooked: Database, name: str) -> None:
    """This covers the journal, deliveries, replays, alignment, retention and their writes."""
    check(hooked.connection, HOOKED[name])


def test_reports_about_deliveries_find_them_by_an_index(hooked: Database) -> None:
    """As do the events that a batch journals, and an endpoint that is disabled."""
    job_id = f"{hook(hooked.connection).endpoint_id}:0:webhook"
    gone = ChannelChanged(START_MS * 2, "webhook", "paused", "410")
    told = entry(9, Sent(START_MS, job_id, 1, 1, "", "204", 5), gone, channel="webhook.1")
    check(hooked.connection, lambda connection: hooked.writer.apply(connection, [told]))
    assert not hook(hooked.connection).enabled
    ended = entry(10, queued((60,)), sent(60), Receipts([receipt("delivered", 5, job_id="b:0:email")]))
    check(hooked.connection, lambda connection: hooked.writer.apply(connection, [ended]))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM message_logs WHERE subject = 'x'",
        "SELECT id FROM message_logs WHERE status = 'sent' ORDER BY subject",
    ],
)
def test_the_check_sees_a_scan_and_a_sort(filled: Database, statement: str) -> None:
    """The check itself fails for a bad query."""
    with pytest.raises(AssertionError, match=r"SCAN|TEMP B-TREE"):
        check(filled.connection, lambda connection: connection.execute(statement).fetchall())
