"""An index of a newer schema in PostgreSQL: a log of the earlier version gets it while it is in use."""

from __future__ import annotations

import pytest

from services.ingest.blasts.submission import new_blast_id
from services.logger.filters import MessageFilter, Page
from services.logger.postgres import schema
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.days import day_of_blast
from services.logger.postgres.store import PostgresStore
from services.logger.queries import find_messages
from services.logger.writing import EventWriter
from shared.events import Receipts
from tests.postgres_servers import PostgresServer
from tests.unit.logger.database import START_MS, accepted, blast, entry, queued, receipt, sent

FIRST, SECOND, THIRD = (new_blast_id(START_MS + days * 86_400_000) for days in range(3))
WITHOUT = """
SELECT count(*) FROM message_days AS d WHERE NOT EXISTS (
    SELECT 1 FROM pg_indexes WHERE tablename = 'message_logs_' || d.day AND indexdef LIKE '%(delivery, channel, id)%')
"""


async def _send(store: PostgresStore, blast_id: str, first: int) -> None:
    """Write a blast of two messages, both delivered."""
    writer = EventWriter()
    entries = [
        entry(
            first, accepted(blast(blast_id, total=2)), queued(range(2), blast_id), *(sent(n, blast_id) for n in (0, 1))
        ),
        entry(first + 1, Receipts([receipt("delivered", 5, job_id=f"{blast_id}:{n}:email") for n in (0, 1)])),
    ]
    await store.write(lambda database: writer.apply(database, entries))


async def _delivered(store: PostgresStore) -> list[str]:
    wanted = MessageFilter(channels=("email",), deliveries=("delivered",))
    found = await store.read(lambda database: find_messages(database, wanted, Page(10)))
    return [row[1].partition(":")[0] for row in found.rows]


async def _one(store: PostgresStore, sql: str) -> object:
    return await store.read(lambda database: database.run(sql).fetchone()[0])


@pytest.fixture
async def earlier(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a log that the earlier version wrote, with messages of two days."""
    url = postgres_server.make_database()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        store = PostgresStore(url, readers=1)
        await store.open()
        await _send(store, FIRST, 0)
        await _send(store, SECOND, 10)
        await store.close()
    return url


async def test_a_log_of_the_earlier_version_gets_its_index_in_use(earlier: str) -> None:
    """Queries and writes go on before and after it is built, and a day that begins meanwhile has it."""
    store = PostgresStore(earlier, readers=1)
    await store.open()
    assert store.unindexed == ["idx_delivery_channel"]
    await _send(store, THIRD, 20)
    assert await _one(store, WITHOUT) == 2
    assert await _delivered(store) == [THIRD, THIRD, SECOND, SECOND, FIRST, FIRST]
    assert await store.build_index("idx_delivery_channel", lambda: False)
    assert await _one(store, WITHOUT) == 0
    assert await _one(store, "SELECT to_regclass('idx_delivery')::text") is None
    assert await _one(store, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'idx_delivery_channel'::regclass")
    assert await _delivered(store) == [THIRD, THIRD, SECOND, SECOND, FIRST, FIRST]
    await store.close()
    again = PostgresStore(earlier, readers=1)
    await again.open()
    assert again.unindexed == []
    await again.close()


async def test_a_stop_does_not_wait_for_the_index_of_each_day(earlier: str) -> None:
    """What was built stays, and the next start builds the rest."""
    store = PostgresStore(earlier, readers=1)
    await store.open()
    asked = iter([False])
    assert not await store.build_index("idx_delivery_channel", lambda: next(asked, True))
    assert await _one(store, WITHOUT) == 1
    assert await _one(store, "SELECT to_regclass('idx_delivery')::text") == "idx_delivery"
    assert await store.build_index("idx_delivery_channel", lambda: False)
    assert await _one(store, WITHOUT) == 0
    await store.close()


async def test_a_new_log_has_the_index_from_the_start(postgres_server: PostgresServer) -> None:
    """Nothing is left to build, and a page by delivery and channel is read from it."""
    store = PostgresStore(postgres_server.make_database(), readers=1)
    await store.open()
    assert store.unindexed == []
    await _send(store, FIRST, 0)
    assert await _one(store, WITHOUT) == 0

    def explain(database: PostgresDatabase) -> str:
        query = (
            "EXPLAIN SELECT id FROM message_logs WHERE delivery = $1 AND channel = $2 AND id >= $3 AND id < $4"
            " ORDER BY id DESC LIMIT $5"
        )
        database.script(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off"
        )
        return "\n".join(row[0] for row in database.run(query, "delivered", "email", 0, 1 << 60, 10))

    plan = await store.read(explain)
    day = day_of_blast(FIRST)
    assert f"using message_logs_{day}_delivery_channel_id_idx" in plan, plan
    await store.close()
