"""Endpoints and deliveries as clients see them, by pages and filters."""

from __future__ import annotations

import pytest

from services.logger.filters import InvalidQueryError, Page, Span, read_page
from services.logger.webhooks import views
from services.logger.webhooks.counting import sample_webhooks
from services.logger.webhooks.endpoints import (
    BY_CLIENT,
    Rotation,
    Row,
    TooManyWebhooksError,
    UnknownWebhookError,
    change,
    create,
    delete,
    disable,
    find,
    rotate,
)
from services.logger.webhooks.views import DeliveryFilter, count_waiting, first_delivery, list_deliveries, show
from shared.webhooks import MOST_ENDPOINTS, open_secret
from tests.unit.logger.database import START_MS, Database, entry, failed, queued, sent
from tests.unit.logger.webhooks.endpoints import SEAL, add, again, found, patch, take

URL = "https://example.com/hook"


def test_a_new_endpoint_is_shown_whole(database: Database) -> None:
    """Its secret is returned once and is not in the view; it is sealed in the row."""
    wanted = {"url": URL, "events": ["message.sent"], "batch": {"max": 5, "withinMs": 1000}, "reference": "r"}
    row, secret = create(database.connection, wanted, SEAL, START_MS)
    shown = show(database.connection, row)
    assert shown == {
        "id": row.endpoint_id, "url": URL, "events": ["message.sent"], "channels": [], "reference": "r",
        "description": "", "batch": {"max": 5, "withinMs": 1000}, "enabled": True, "disabledReason": None,
        "failingSince": None, "createdAt": "2026-09-21T14:13:20.000Z", "updatedAt": "2026-09-21T14:13:20.000Z",
        "waiting": 0, "lastDeliveredAt": None,
    }  # fmt: skip
    assert secret.startswith("whsec_")
    assert secret not in row.secrets_text
    assert open_secret(row.endpoint().secrets[0], SEAL) == secret


def test_a_client_may_bring_its_own_secret(database: Database) -> None:
    """It is used as it is."""
    own = "whsec_" + "QUJD" * 10
    row, secret = create(database.connection, {"url": URL, "events": ["*"], "secret": own}, SEAL, START_MS)
    assert secret == own
    assert open_secret(row.endpoint().secrets[0], SEAL) == own


def test_a_rotated_secret_signs_beside_the_new_one_for_a_while(database: Database) -> None:
    """The newest is first; a second rotation does not prolong the first, and ended ones are dropped."""
    row = add(database)
    first = open_secret(row.endpoint().secrets[0], SEAL)
    second = rotate(database.connection, row.endpoint_id, Rotation("", START_MS + 100, START_MS), SEAL)
    third = rotate(database.connection, row.endpoint_id, Rotation("", START_MS + 150, START_MS + 50), SEAL)
    endpoint = again(database, row).endpoint()
    assert [open_secret(sealed, SEAL) for sealed in endpoint.secrets] == [third, second, first]
    assert endpoint.secret_ends_ms == [0, START_MS + 150, START_MS + 100]
    assert endpoint.open_secrets(SEAL, START_MS + 120) == [third, second]
    rotate(database.connection, row.endpoint_id, Rotation("", START_MS + 300, START_MS + 200), SEAL)
    assert len(again(database, row).endpoint().secrets) == 2


def test_a_patch_changes_what_it_names(database: Database) -> None:
    """The rest stays; an unknown field, or a wrong value, changes nothing."""
    row = add(database, batch={"max": 5, "withinMs": 10}, description="a")
    patch(database, row, START_MS + 5, batch=None, channels=["email"])
    shown = show(database.connection, found(database, row))
    assert (shown["batch"], shown["channels"], shown["description"]) == (None, ["email"], "a")
    for wrong in ({"cursor": 0}, {"events": "message.sent"}, {"secret": "x"}):
        with pytest.raises(InvalidQueryError):
            change(database.connection, row.endpoint_id, wrong, START_MS)
    assert show(database.connection, found(database, row)) == shown


def test_a_client_disables_and_enables(database: Database) -> None:
    """The reason says who it was; nothing is journaled for it."""
    row = add(database)
    assert patch(database, row, enabled=False).disabled_reason == BY_CLIENT
    assert patch(database, row, url=URL + "/2").enabled == 0
    assert patch(database, row, enabled=True).disabled_reason == ""
    assert database.one("SELECT count(*) FROM webhook_events") == 0
    assert add(database, enabled=False).disabled_reason == BY_CLIENT


def test_a_deleted_endpoint_is_unknown_at_once(database: Database) -> None:
    """Its number is never used again."""
    row = add(database)
    delete(database.connection, row.endpoint_id)
    with pytest.raises(UnknownWebhookError):
        find(database.connection, row.endpoint_id)
    database.connection.execute("DELETE FROM webhook_endpoints")
    assert add(database).number == row.number + 1


def test_there_is_a_most_number_of_endpoints(database: Database) -> None:
    """Each costs a stream and a sender's loop."""
    for _ in range(MOST_ENDPOINTS):
        add(database)
    with pytest.raises(TooManyWebhooksError):
        add(database)


def test_waiting_counts_events_that_were_not_delivered(database: Database) -> None:
    """Those in Redis and those in the journal, also while it is disabled."""
    row = add(database, events=["message.sent"], batch={"max": 3, "withinMs": 10**9})
    add(database)
    database.apply(entry(1, queued(range(7)), *(sent(n) for n in range(7))))
    assert count_waiting(database.connection, row) == 7
    take(database, row)
    assert count_waiting(database.connection, again(database, row)) == 7
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n = 0")
    assert count_waiting(database.connection, again(database, row)) == 4


def test_waiting_is_an_estimate_far_behind(database: Database) -> None:
    """The rows that are looked at stand for those that follow."""
    row = add(database, events=["message.sent"])
    add(database)
    for n in range(10):
        database.apply(entry(n + 1, queued((n,)), sent(n) if n % 2 else failed(n)))
    found = {looked: count_waiting(database.connection, row, looked) for looked in (1, 2, 3, 4, 10)}
    assert found == {1: 0, 2: 5, 3: 3, 4: 5, 10: 5}


def deliveries(database: Database) -> tuple[list[str], Row]:
    """Make twenty deliveries, a second apart, every fifth failed, the last two waiting; return their ids."""
    row = add(database)
    database.apply(entry(1, queued(range(20)), *(sent(n) for n in range(20))))
    ids = [one.webhook_id for one in take(database, row)]
    database.connection.execute("UPDATE webhook_deliveries SET created_at_ms = ? + 1000 * n", (START_MS,))
    database.connection.execute("UPDATE webhook_deliveries SET status = 'delivered' WHERE n < 18")
    database.connection.execute("UPDATE webhook_deliveries SET status = 'failed' WHERE n % 5 = 0")
    return ids, again(database, row)


def listed(database: Database, row: Row, wanted: DeliveryFilter, limit: int) -> list[str]:
    """Follow all pages; return the ids."""
    every: list[str] = []
    cursor = 0
    while True:
        rows, following = list_deliveries(database.connection, row, wanted, Page(limit, cursor))
        assert len(rows) <= limit
        every += [one["id"] for one in rows]
        if following is None:
            return every
        cursor = read_page({"cursor": following}).cursor


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_deliveries_are_listed_by_pages(database: Database, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """The latest first; each filter finds all of its own, and no page has a row of another."""
    monkeypatch.setattr(views, "_LOOKED_AT", 7)
    ids, row = deliveries(database)
    assert listed(database, row, DeliveryFilter(), limit) == ids[::-1]
    assert listed(database, row, DeliveryFilter("failed"), limit) == [ids[n] for n in (15, 10, 5, 0)]
    assert listed(database, row, DeliveryFilter("waiting"), limit) == [ids[19], ids[18]]
    assert listed(database, row, DeliveryFilter("retrying"), limit) == []
    expected = [one for n, one in enumerate(ids[:18]) if n % 5][::-1]
    assert listed(database, row, DeliveryFilter("delivered"), limit) == expected
    span = Span(START_MS + 4000, START_MS + 8000)
    assert listed(database, row, DeliveryFilter(span=span), limit) == ids[4:9][::-1]


def test_a_time_is_found_by_bisection(database: Database) -> None:
    """Also where rows are missing."""
    _, row = deliveries(database)
    database.connection.execute("DELETE FROM webhook_deliveries WHERE n BETWEEN 3 AND 11")
    times = (0, START_MS + 2000, START_MS + 2001, START_MS + 12_000, START_MS * 2)
    found_at = [first_delivery(database.connection, row, at_ms) for at_ms in times]
    assert (found_at[0], found_at[1], found_at[4]) == (0, 2, 20)
    assert 3 <= found_at[2] <= 12
    assert 3 <= found_at[3] <= 12


def test_metrics_count_endpoints_by_state(database: Database) -> None:
    """The longest failure is that of an enabled one."""
    rows = [add(database) for _ in range(4)]
    patch(database, rows[0], enabled=False)
    disable(database.connection, rows[3].number, "410 Gone", START_MS)
    query = "UPDATE webhook_endpoints SET failing_since_ms = ? WHERE number = ?"
    database.connection.execute(query, (START_MS - 5000, rows[1].number))
    database.apply(entry(1, queued(), sent()))
    sample = sample_webhooks(database.connection, START_MS)
    assert sample.states == {"enabled": 1, "failing": 1, "disabled": 1, "off": 1}
    assert (sample.failing_s, sample.waiting, sample.totals) == (5.0, 4, {"events": 2})
