"""A search for a recipient, as users type it, finds all messages to that recipient and no others."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from services.logger import queries, streams
from services.logger.counting import count_messages
from services.logger.database import Database as LogDatabase
from services.logger.filters import Page, read_message_filter
from shared.events import Queued, QueuedRecipient
from tests.unit.logger.database import START_MS, TEMPLATE, Database, accepted, begun, blast, entry, queued

SENT_TO = [
    "siti+news@example.com",
    "Siti+News@example.com",
    "siti@example.com",
    "Ani@münchen.de",
    "ani@example.com",
    "0812abc@example.com",
    "6281224772000",
    "6281224772001",
    "5215512345678",
    "525512345678",
    "558187654321",
]
SEARCHES = {
    "recipient=siti%2Bnews@example.com": [0, 1],
    "recipient=siti+news@example.com": [0, 1],
    "recipient=SITI+NEWS@Example.com": [0, 1],
    "recipient=siti": [0, 1, 2],
    "recipient=Siti@": [2],
    "recipient=ani@m%C3%BCnchen.de": [3],
    "recipient=ANI@xn--mnchen-3ya.de": [3],
    "recipient=ani": [3, 4],
    "recipient=0812": [5, 6, 7],
    "recipient=081224772000": [6],
    "recipient=0812-2477-2000": [6],
    "recipient=(0812)+2477+200": [6, 7],
    "recipient=%2B62+812+2477+2000": [6],
    "recipient=+62812": [6, 7],
    "recipient=0062812": [6, 7],
    "recipient=%2B62+(0)812": [6, 7],
    "recipient=812+2477+2001": [7],
    "recipient=6281224772001": [7],
    "recipient=5215512345678": [8, 9],
    "recipient=%2B52+55+1234+5678": [8, 9],
    "recipient=5581987654321": [10],
    "recipient=55+81+8765-4321": [10],
    "recipient=siti&masked=1": [],
    "recipient=SITI@example.com&masked=1": [2],
    "recipient=siti%2Bnews@example.com&masked=1": [0, 1],
    "recipient=0812-2477-2000&masked=1": [6],
    "recipient=0812-2477&masked=1": [],
    "recipient=nobody": [],
    "recipient=0813": [],
}


@pytest.fixture
def told(database: Database) -> Database:
    """Return a database with a message to each address; the last row began before its address was known."""
    last = len(SENT_TO) - 1
    recipients = [QueuedRecipient(index, address, "R", "") for index, address in enumerate(SENT_TO)]
    database.apply(entry(1, accepted(blast(total=last + 1)), begun(last)))
    database.apply(entry(2, Queued(START_MS, "b", "email", TEMPLATE.id, TEMPLATE.name, recipients, "queued", 1)))
    return database


def found(connection: LogDatabase, query: str) -> list[int]:
    """Return the recipient indexes of the messages that a query finds."""
    wanted = read_message_filter({name: values[0] for name, values in parse_qs(query).items()}, "ID")
    rows = queries.find_messages(connection, wanted, Page(100)).rows
    assert count_messages(connection, wanted)["total"] == len(rows)
    return sorted(int(row[1].split(":")[1]) for row in rows)


@pytest.mark.parametrize("query", SEARCHES)
def test_a_recipient_is_found_in_any_usual_spelling(query: str, told: Database) -> None:
    """It matches any case, both forms of a domain, a plus that became a space, and numbers in any notation."""
    assert found(told.connection, query) == SEARCHES[query]


@pytest.mark.parametrize("query", ["recipient=siti+news@example.com", "recipient=0812", "recipient=SITI"])
def test_a_recipient_is_found_among_many_similar_ones(
    query: str, told: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the indexes find too many rows to sort, the rows are scanned instead, with the same result."""
    monkeypatch.setattr(streams, "MOST_PREFIXED", 1)
    assert found(told.connection, query) == SEARCHES[query.lower()]


def test_a_recipient_that_is_its_own_identity_has_no_second(told: Database) -> None:
    """For such recipients the column stays null and takes no room in its index."""
    told.apply(entry(3, queued(range(50, 60))))
    query = "SELECT count(*), count(recipient_identity) FROM message_logs"
    assert told.rows(query) == [(len(SENT_TO) + 10, 4)]
