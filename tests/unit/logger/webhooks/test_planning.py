"""Each endpoint gets what it subscribes to, once, in order, in deliveries that fit its window."""

from __future__ import annotations

from services.logger.webhooks import planning
from services.logger.webhooks.bodies import event_id
from services.logger.webhooks.planning import BATCH_BYTES, WINDOW, WINDOW_BYTES, adopt, unpack_events
from services.logger.webhooks.views import add_replay
from shared.events import Ended, Event, Queued, QueuedRecipient
from tests.unit.logger.database import START_MS, TEMPLATE, Database, accepted, blast, entry, failed, queued, sent
from tests.unit.logger.webhooks.endpoints import add, again, bodies, journal, patch, plan, take


def send(database: Database, count: int, first: int = 0, number: int = 1) -> None:
    """Apply messages that are queued and sent."""
    indexes = range(first, first + count)
    ends = [sent(index) for index in indexes]
    database.apply(entry(number, accepted(blast()), queued(indexes), *ends, producer=f"p{first}"))


def finish(database: Database, number: int) -> None:
    """Let all open deliveries of an endpoint be delivered."""
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE number = ?", (number,))


def test_every_event_is_handed_out_once_and_in_order(database: Database) -> None:
    """Deliveries are numbered without gaps, and the cursor is at the end."""
    row = add(database)
    send(database, 7)
    taken = take(database, row)
    assert [one.n for one in taken] == list(range(7))
    assert [one.webhook_id for one in taken] == [event_id("message.sent", f"b:{n}:email", "1") for n in range(7)]
    assert take(database, row) == []
    assert again(database, row).next_n == 7
    send(database, 1, first=7, number=2)
    assert [one.n for one in take(database, row)] == [7]


def test_filters_hold_for_each_endpoint(database: Database) -> None:
    """By type, by channel, and by the reference of the recipient or of the blast."""
    rows = [
        add(database, events=["message.failed"]),
        add(database, channels=["whatsapp"]),
        add(database, reference="order-1"),
        add(database, reference="campaign"),
        add(database, reference="unknown"),
    ]
    recipients = [QueuedRecipient(index, f"user{index}@example.com", "", f"order-{index}") for index in range(3)]
    queued_all = Queued(START_MS, "b", "email", TEMPLATE.id, TEMPLATE.name, recipients)
    database.apply(entry(1, accepted(blast(total=3, reference="campaign")), queued_all, sent(0), sent(1), failed(2)))
    jobs = [[body["data"]["jobId"] for body in bodies(take(database, row))] for row in rows]
    assert jobs == [["b:2:email"], [], ["b:1:email"], ["b:0:email", "b:1:email", "b:2:email"], []]


def test_batches_are_full_or_old(database: Database) -> None:
    """A batch goes out with `max` events; an incomplete one waits `withinMs` from its first event."""
    row = add(database, batch={"max": 3, "withinMs": 1000})
    send(database, 7)
    kept_ms = journal(database)[0].kept_at_ms
    first = plan(database, row, kept_ms + 400)
    assert [len(cut.events) for cut in first.cuts] == [3, 3]
    assert first.due_in_ms == 600
    assert len({one.webhook_id for one in adopt(database.connection, first, kept_ms)}) == 2
    assert plan(database, row, kept_ms + 999).cuts == []
    due = plan(database, row, kept_ms + 1000)
    assert [len(cut.events) for cut in due.cuts] == [1]
    set_back = plan(database, row, kept_ms - 5)
    assert [len(cut.events) for cut in set_back.cuts] == [1]
    send(database, 2, first=7, number=2)
    assert [len(cut.events) for cut in plan(database, row, kept_ms + 400).cuts] == [3]


def test_a_long_backlog_makes_full_batches(database: Database) -> None:
    """A batch that a step of reading cuts short is completed by the next step."""
    row = add(database, batch={"max": 300, "withinMs": 0})
    send(database, 1000)
    assert [len(body["data"]) for body in bodies(take(database, row, START_MS * 2))] == [300, 300, 300, 100]


def test_a_batch_stays_below_its_size(database: Database) -> None:
    """Events with long texts are split into more batches."""
    row = add(database, batch={"max": 500, "withinMs": 0})
    ends: list[Event] = [
        Ended(START_MS, f"b:{n}:email", 1, 1, "failed", "permanent", "550", "\u00e9" * 3000) for n in range(120)
    ]
    database.apply(entry(1, queued(range(120)), *ends))
    taken = take(database, row, START_MS * 2)
    assert sum(len(body["data"]) for body in bodies(taken)) == 120
    assert all(BATCH_BYTES // 2 < len(one.body.encode()) <= BATCH_BYTES for one in taken[:-1])


def test_a_window_bounds_what_waits_in_redis(database: Database) -> None:
    """An endpoint gets at most 1,000 deliveries; the next follow when some have ended."""
    row = add(database)
    send(database, WINDOW + 500)
    assert len(take(database, row)) == WINDOW
    assert take(database, row) == []
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n < 200")
    assert [one.n for one in take(database, row)] == list(range(WINDOW, WINDOW + 200))


def test_a_batch_is_read_when_it_is_complete_or_due(database: Database) -> None:
    """Not at each look: a fast stream of events would be read several times."""
    row = add(database, batch={"max": 3, "withinMs": 1000})
    send(database, 2)
    kept_ms = journal(database)[0].kept_at_ms
    queries = database.watch()
    assert plan(database, row, kept_ms + 100).due_in_ms == 900
    assert not [query for query in queries if "message_logs" in query]
    assert len(plan(database, row, kept_ms + 1000).cuts) == 1
    assert [query for query in queries if "message_logs" in query]


_FILL = """UPDATE webhook_events SET data = '{"filler":"' || ? || '",' || substr(data, 2)"""


def test_a_window_bounds_bytes_too(database: Database) -> None:
    """What is in Redis exceeds 1 MB by less than a batch."""
    row = add(database)
    send(database, 5)
    database.connection.execute(_FILL, ("x" * 600_000,))
    assert len(take(database, row)) == WINDOW_BYTES // 600_000 + 1
    finish(database, row.number)
    assert len(take(database, row)) == 2


def test_a_disabled_endpoint_misses_nothing(database: Database) -> None:
    """What happened meanwhile follows when it is enabled again, in order."""
    row = add(database)
    send(database, 2)
    assert len(take(database, row)) == 2
    patch(database, row, enabled=False)
    send(database, 3, first=2, number=2)
    proposal = plan(database, row)
    assert adopt(database.connection, proposal, START_MS) == []
    patch(database, row, enabled=True)
    assert [body["data"]["jobId"] for body in bodies(take(database, row))] == [f"b:{n}:email" for n in (2, 3, 4)]


def test_a_proposal_of_before_a_change_is_dropped(database: Database) -> None:
    """The next one follows the new filters; nothing is lost in between."""
    row = add(database, events=["message.failed"])
    send(database, 1)
    old = plan(database, row)
    patch(database, row, events=["message.sent", "message.failed"])
    assert adopt(database.connection, old, START_MS) == []
    database.apply(entry(9, queued((5,)), failed(5)))
    assert len(take(database, row)) == 1


def test_rows_that_nobody_wants_are_passed_over(database: Database) -> None:
    """A rare type is found behind many others, a bounded number of rows at a time."""
    add(database)
    row = add(database, events=["message.failed"])
    values = [("message.sent", f"x:{n}:email") for n in range(planning.PASSED + 10)]
    database.connection.executemany(
        "INSERT INTO webhook_events (type, subject, mark, channel, at_ms, kept_at_ms, data)"
        " VALUES (?, ?, '1', 'email', 1, 1, '{}')", values,
    )  # fmt: skip
    database.apply(entry(1, queued(), failed()))
    first = plan(database, row)
    assert (first.cuts, first.more, first.cursor) == ([], True, planning.PASSED)
    assert len(take(database, row)) == 1


def test_what_retention_deleted_is_passed_over_at_once(database: Database) -> None:
    """An endpoint that was disabled for long continues with the first event that is left."""
    row = add(database)
    send(database, 3)
    database.connection.execute("UPDATE webhook_events SET id = id + 9000000")
    proposal = plan(database, row)
    assert [cut.events[0].event for cut in proposal.cuts] == [9_000_001, 9_000_002, 9_000_003]


def test_a_replay_repeats_a_range_under_the_same_ids(database: Database) -> None:
    """Live events come first; the replay ends at what the endpoint had already got."""
    row = add(database)
    send(database, 6)
    first = take(database, row)
    finish(database, row.number)
    database.connection.execute("UPDATE webhook_events SET kept_at_ms = 1000 * id")
    assert add_replay(database.connection, again(database, row), 2000, 5000, START_MS) == (1, 3)
    database.apply(entry(2, queued((9,)), sent(9)))
    taken = take(database, row)
    assert [one.n for one in taken] == [6, 7, 8, 9]
    assert [one.webhook_id for one in taken[1:]] == [one.webhook_id for one in first[1:4]]
    assert [one.body for one in taken[1:]] == [one.body for one in first[1:4]]
    assert database.rows("SELECT * FROM webhook_replays") == []
    assert add_replay(database.connection, again(database, row), 5_000_000_000_000, 6_000_000_000_000, 0)[1] == 0
    assert take(database, row) == []


def test_a_replay_shares_the_window(database: Database) -> None:
    """It continues as deliveries end, and loses nothing."""
    row = add(database)
    send(database, 1500)
    for _ in range(3):
        take(database, row)
        finish(database, row.number)
    assert add_replay(database.connection, again(database, row), 0, START_MS * 2, START_MS)[1] == 1500
    assert len(take(database, row)) == WINDOW
    finish(database, row.number)
    send(database, 1, first=2000, number=3)
    assert len(take(database, row)) == 501
    finish(database, row.number)
    assert take(database, row) == []


def test_a_replay_in_batches_waits_for_nothing(database: Database) -> None:
    """Batches of the same events have the same ids, and so have the events in them."""
    row = add(database, batch={"max": 4, "withinMs": 1 << 62})
    send(database, 10)
    kept_ms = journal(database)[0].kept_at_ms
    early = take(database, row, kept_ms)
    assert [len(body["data"]) for body in bodies(early)] == [4, 4]
    add_replay(database.connection, again(database, row), 0, START_MS * 2, START_MS)
    replayed = take(database, row, kept_ms)
    assert [one.webhook_id for one in replayed] == [one.webhook_id for one in early]
    assert [body["data"] for body in bodies(replayed)] == [body["data"] for body in bodies(early)]


def test_the_events_of_a_delivery_can_be_read_back(database: Database) -> None:
    """They are kept as differences, which take a byte each."""
    row = add(database, batch={"max": 500, "withinMs": 0})
    send(database, 300)
    take(database, row, START_MS * 2)
    (packed,) = database.rows("SELECT events FROM webhook_deliveries")[0]
    assert unpack_events(packed) == list(range(1, 301))
    assert len(packed) < 310
