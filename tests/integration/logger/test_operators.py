"""An operator's own SQL in PostgreSQL: it reads everything and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.logger.filters import InvalidQueryError
from services.logger.postgres import store as store_module
from services.logger.postgres.store import PostgresStore
from services.logger.postgres.turns import WRITER_KEY
from services.logger.store import QueryTooSlowError
from services.logger.writing import EventWriter
from tests.postgres_servers import PostgresServer
from tests.unit.logger.database import entry, failed, queued, sent


@pytest.fixture
async def store(postgres_server: PostgresServer) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(postgres_server.make_database(), readers=1)
    await made.open()
    writer = EventWriter()
    await made.write(lambda database: writer.apply(database, [entry(1, queued(range(3)), sent(0), failed(1))]))
    yield made
    await made.close()


async def test_a_query_returns_rows_by_name(store: PostgresStore) -> None:
    """Columns in their order, two of one name apart, bytes as base64, at most as many rows as asked for."""
    columns = "status, count(*) AS n, count(*) AS n, '\\x00ff'::bytea AS raw"
    sql = f"/* c */ SELECT {columns} FROM message_logs GROUP BY 1 ORDER BY 1"
    found = await store.query(sql, 2)
    assert found.rows == [
        {"status": "failed", "n": 1, "n_2": 1, "raw": "AP8="},
        {"status": "queued", "n": 1, "n_2": 1, "raw": "AP8="},
    ]
    assert found.cut


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM message_logs RETURNING id",
        "WITH gone AS (DELETE FROM message_logs RETURNING id) SELECT * FROM gone",
        "EXPLAIN ANALYZE DELETE FROM message_logs",
        "SELECT 1; DELETE FROM message_logs",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT nextval('api_logs_id_seq')",
        "SELECT * INTO mine FROM message_logs",
        "COMMIT",
        "SET default_transaction_read_only = off",
        "DO $$ BEGIN DELETE FROM message_logs; END $$",
        "COPY message_logs TO STDOUT",
        "SELECT nothing FROM message_logs",
        "not SQL",
        "",
    ],
)
async def test_only_reading_is_allowed(store: PostgresStore, sql: str) -> None:
    """With the reason; nothing has changed."""
    with pytest.raises(InvalidQueryError):
        await store.query(sql, 10)
    assert (await store.query("SELECT count(*) AS n FROM message_logs", 1)).rows == [{"n": 3}]


async def test_a_slow_query_is_stopped_and_its_locks_go(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a query takes cannot hold up the writer."""
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "QUERY_LIMIT_S", 0.3)
        with pytest.raises(QueryTooSlowError):
            await store.query("SELECT pg_sleep(20)", 1)
    await store.query(f"SELECT pg_advisory_lock({WRITER_KEY})", 1)
    assert await store.write(lambda database: database.run("SELECT 1").fetchone()) == (1,)
