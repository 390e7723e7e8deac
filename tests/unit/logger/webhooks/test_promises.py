"""What a client may rely on, whatever the log knows, however often it does something, whatever the clock says."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest

from services.logger.webhooks.endpoints import KEEP_SECRET_MS, Rotation, delete, disable, rotate
from services.logger.webhooks.expiring import expire_events
from shared.events import BlastChanged, ChannelChanged
from shared.webhooks import MOST_ENDPOINTS, sign
from tests.unit.logger.database import START_MS, Database, MakeDatabase, accepted, blast, entry, queued, sent
from tests.unit.logger.webhooks.endpoints import SEAL, add, again, bodies, journal, take

DAY_MS = 86_400_000


def test_a_blast_that_is_known_late_loses_no_event(database: Database) -> None:
    """The blast is reported in another stream than its messages, so after an outage the logger reads it later."""
    row = add(database, reference="campaign")
    database.apply(entry(1, queued(), sent()))
    taken = take(database, row)
    database.apply(entry(2, accepted(blast(reference="campaign")), channel="gateway"))
    taken += take(database, row)
    assert [body["data"]["jobId"] for body in bodies(taken)] == ["b:0:email"]


def test_a_batch_id_is_never_given_to_other_events(make_database: MakeDatabase) -> None:
    """A machine is lost, its database restored from a backup, Redis is empty: receivers know the ids of before."""

    def batch_of(index: int) -> tuple[str, str]:
        database = make_database()  # the backup: an endpoint without deliveries
        with closing(database):
            row = add(database, batch={"max": 10, "withinMs": 0})
            database.apply(entry(1, queued((index,)), sent(index)))
            (one,) = take(database, row, START_MS * 2)
            return one.webhook_id, one.body

    before, after = batch_of(0), batch_of(1)
    assert before[1] != after[1]
    assert before[0] != after[0]


def test_a_disabled_webhooks_url_is_not_shown_to_others(database: Database) -> None:
    """Its path or its query may be all that authenticates a request to it."""
    row = add(database, url="https://hooks.example.com/services/T0KEN-OF-THE-PATH?key=0f-the-query")
    other = add(database)
    disable(database.connection, row.number, "410 Gone", START_MS)
    (body,) = bodies(take(database, other))
    assert body["data"]["webhookId"] == row.endpoint_id
    assert "T0KEN" not in str(body)
    assert "0f-the-query" not in str(body)


@pytest.mark.parametrize("address", ["ana@example.com", "+6281200000001"])
def test_a_reason_of_a_pause_shows_no_recipient(database: Database, address: str) -> None:
    """Providers quote the address that they refused; the events say nothing of recipients."""
    row = add(database)
    words = f"550 5.7.1 <{address}>: recipient refused"
    database.apply(entry(1, ChannelChanged(START_MS, "email", "paused", words)))
    database.apply(entry(2, accepted(blast()), queued(), BlastChanged(START_MS + 5, "b", "paused", words)))
    events = bodies(take(database, row))
    assert {body["type"] for body in events} == {"channel.paused", "blast.paused"}
    assert address not in str(events)


def test_one_body_that_cannot_be_made_holds_up_nobody(database: Database) -> None:
    """Metadata may be nested as deeply as its blast could be written."""
    row = add(database)
    nested: Any = "x"
    for _ in range(254):
        nested = {"a": nested}
    database.apply(entry(1, accepted(blast(metadata=nested)), queued(), sent()))
    assert database.rows("SELECT count(*) FROM webhook_events") == [(1,)]
    assert len(take(database, row)) == 1


def test_a_secret_that_is_rotated_often_fits_a_header(database: Database) -> None:
    """Servers take header lines of 8 KB; a script may rotate every minute."""
    row = add(database)
    for n in range(300):
        rotate(database.connection, row.endpoint_id, Rotation("", START_MS + n + KEEP_SECRET_MS, START_MS + n), SEAL)
    secrets = again(database, row).endpoint().open_secrets(SEAL, START_MS + 300)
    assert len(sign(secrets, "evt_x", 1, b"{}")) < 8000


def test_a_removed_webhook_makes_room_for_another(database: Database) -> None:
    """Also while its partition is not deleted yet, such as while Redis is away."""
    rows = [add(database) for _ in range(MOST_ENDPOINTS)]
    delete(database.connection, rows[0].endpoint_id)
    add(database)


def test_a_clock_that_was_far_ahead_does_not_end_retention(database: Database) -> None:
    """Once it is right, what was written meanwhile has a time that is not in the future."""
    add(database)
    database.apply(entry(1, queued((0, 1)), sent(0)))
    database.connection.execute("UPDATE webhook_events SET kept_at_ms = 1000")
    database.apply(entry(2, sent(1)))
    database.connection.execute("UPDATE webhook_events SET kept_at_ms = kept_at_ms + ? WHERE id = 2", (365 * DAY_MS,))
    database.apply(entry(3, queued((2,)), sent(2)))
    times = [event.kept_at_ms for event in journal(database)]
    assert times[0] == 1000
    assert times[1] == times[2] <= time.time() * 1000
    expire_events(times[2])(database.connection, 500)
    assert [event.event for event in journal(database)] == [2, 3]
