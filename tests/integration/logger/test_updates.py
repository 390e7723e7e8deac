"""Updates in PostgreSQL: they are copied into a table of the session, which has those of one call at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from services.ingest.blasts.submission import new_blast_id
from services.logger.database import DatabaseError
from services.logger.postgres import rows
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.rows import _clean
from services.logger.postgres.store import PostgresStore
from services.logger.store import StorageError
from services.logger.writing import EventWriter
from shared.queue.event_log import EventEntry
from tests.postgres_servers import PostgresServer
from tests.unit.logger.database import START_MS, accepted, begun, blast, entry, failed, queued, sent

FIRST, SECOND = (new_blast_id(START_MS + days * 86_400_000) for days in range(2))
SHOWN = "SELECT job_id, status, subject, error_message FROM message_logs ORDER BY id"
_REFUSE_FAILURES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no failures here'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON message_logs FOR EACH ROW WHEN (NEW.status = 'failed') EXECUTE FUNCTION refuse()
"""
_REFUSE_NOTHING = "DROP TRIGGER refuse ON message_logs"


@pytest.fixture(params=[(0, 250), (0, 1), (50, 1)], ids=["copied", "copied in parts", "arrays"])
async def store(
    postgres_server: PostgresServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresStore]:
    """A store with a blast of two messages on each of two days."""
    few, first_part = request.param
    monkeypatch.setattr(rows, "FEW", few)
    monkeypatch.setattr(rows, "FIRST_PART", first_part)
    monkeypatch.setattr(rows, "GROWTH", first_part)
    made = PostgresStore(postgres_server.make_database(), readers=1)
    await made.open()
    for place, blast_id in enumerate((FIRST, SECOND)):
        await _write(made, entry(place, accepted(blast(blast_id, total=2)), queued(range(2), blast_id)))
    yield made
    await made.close()


async def _write(store: PostgresStore, *calls: EventEntry) -> None:
    """Apply entries in one transaction, each on its own."""

    def work(database: PostgresDatabase) -> None:
        for one in calls:
            EventWriter().apply(database, [one])

    await store.write(work)


async def _statuses(store: PostgresStore) -> list[str]:
    return [row[1] for row in await store.read(lambda database: database.run(SHOWN).fetchall())]


async def test_updates_of_several_days_and_calls_are_each_applied_once(store: PostgresStore) -> None:
    """A later call of the transaction does not repeat what an earlier one wrote, nor does the next transaction."""
    await _write(
        store,
        entry(10, begun(0, FIRST), begun(0, SECOND)),
        entry(11, sent(0, FIRST), begun(1, SECOND)),
        entry(12, sent(0, SECOND)),
    )
    assert await _statuses(store) == ["sent", "queued", "sent", "processing"]
    await _write(store, entry(13, sent(1, FIRST)))
    assert await _statuses(store) == ["sent", "sent", "sent", "processing"]


async def test_updates_work_on_a_connection_that_is_new_or_rolled_back(store: PostgresStore) -> None:
    """The table is made again if its transaction was undone, or if the session that had it is gone."""

    def undone(database: PostgresDatabase) -> None:
        EventWriter().apply(database, [entry(10, sent(0, FIRST))])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.write(undone)
    await _write(store, entry(10, begun(0, FIRST)))
    assert await _statuses(store) == ["processing", "queued", "queued", "queued"]
    await store.maintain(lambda database: database.close())
    await _write(store, entry(11, sent(0, FIRST)))
    assert await _statuses(store) == ["sent", "queued", "queued", "queued"]


async def test_a_part_that_fails_undoes_those_before_it(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a statement that was only started ends its transaction, and the events are written later."""
    monkeypatch.setattr(rows, "FEW", 0)
    monkeypatch.setattr(rows, "FIRST_PART", 1)
    await store.write(lambda database: database.script(_REFUSE_FAILURES))
    events = entry(10, sent(0, FIRST), sent(1, FIRST), failed(0, SECOND))
    with pytest.raises(StorageError, match="no failures here"):
        await _write(store, events)
    assert await _statuses(store) == ["queued"] * 4
    await store.write(lambda database: database.script(_REFUSE_NOTHING))
    await _write(store, events)
    assert await _statuses(store) == ["sent", "sent", "failed", "queued"]


async def test_many_updates_outside_a_transaction_are_refused(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be deleted by the commit of the COPY, before they are applied."""
    monkeypatch.setattr(rows, "FEW", 0)

    def outside(database: PostgresDatabase) -> None:
        with pytest.raises(DatabaseError, match="has not begun"):
            EventWriter().apply(database, [entry(10, sent(0, FIRST))])

    await store.maintain(outside)


async def test_a_text_with_nul_is_written_without_it(store: PostgresStore) -> None:
    """PostgreSQL has no NUL; the rows beside it, and a text that spells it, stay as they are."""
    texts = ("a\0b", r"a\u0000b")
    both = [msgspec.structs.replace(failed(n, FIRST), message=text) for n, text in enumerate(texts)]
    await _write(store, entry(10, *both))
    found = await store.read(lambda database: database.run(SHOWN).fetchall())
    assert [row[3] for row in found[:2]] == ["a\ufffdb", r"a\u0000b"]


def test_rows_without_nul_are_not_changed() -> None:
    """Values of all types, and a text that is no UTF-8, which the driver refuses later."""
    values = [(1, None, b"\0", 1.5, True, "text"), (1 << 62, "\ud800", b"", 0, False, "\\u0000")]
    assert _clean(values) == values
