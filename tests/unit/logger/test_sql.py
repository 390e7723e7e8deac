"""An operator's own SQL: it reads everything and changes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from services.logger import sqlite_store as store_module
from services.logger.filters import InvalidQueryError
from services.logger.sql import run_query
from services.logger.sqlite_store import SqliteStore
from services.logger.store import QueryTooSlowError, StorageError
from tests.unit.logger.database import Database, MakeDatabase, entry, queued, sent


@pytest.fixture
def make_database() -> MakeDatabase:
    """Only SQLite: another database has other words for this."""
    return Database


def test_a_query_returns_rows_by_name(database: Database) -> None:
    """Columns in their order, two of one name apart, blobs as base64, at most as many rows as asked for."""
    database.apply(entry(1, queued(range(3)), sent(0)))
    found = run_query(
        database.connection,
        "WITH RECURSIVE one(n) AS (SELECT 1) SELECT status, count(*) AS n, count(*) AS n, x'00ff' AS raw, NULL AS none"
        " FROM message_logs, one GROUP BY 1 ORDER BY 1 -- counts",
        10,
    )
    assert found.rows == [
        {"status": "queued", "n": 2, "n_2": 2, "raw": "AP8=", "none": None},
        {"status": "sent", "n": 1, "n_2": 1, "raw": "AP8=", "none": None},
    ]
    assert not found.cut
    cut = run_query(database.connection, "SELECT job_id FROM message_logs", 2)
    assert (len(cut.rows), cut.cut) == (2, True)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM message_logs RETURNING id",
        "UPDATE message_logs SET status = 'sent'",
        "INSERT INTO blasts (blast_id, created_at_ms) VALUES ('x', 1) RETURNING 1",
        "CREATE TABLE mine (x)",
        "CREATE TEMP TABLE mine (x)",
        "DROP TABLE message_logs",
        "PRAGMA query_only = OFF",
        "/* */ PRAGMA user_version = 7",
        "SELECT * FROM pragma_user_version",
        "VACUUM",
        "BEGIN",
        "ROLLBACK",
        "SELECT 1; DELETE FROM message_logs",
        "SELECT load_extension('x')",
        "SELECT nothing FROM message_logs",
        "SELECT length(zeroblob(1000000000))",
        "not SQL",
        "",
    ],
)
def test_only_reading_is_allowed(database: Database, sql: str) -> None:
    """With the reason; nothing has changed, and the connection serves the next query."""
    database.apply(entry(1, queued(range(3))))
    before = list(database.connection.iterdump())
    with pytest.raises(InvalidQueryError) as refused:
        run_query(database.connection, sql, 10)
    assert str(refused.value)
    assert list(database.connection.iterdump()) == before
    assert run_query(database.connection, "SELECT count(*) AS n FROM message_logs", 1).rows == [{"n": 3}]
    database.apply(entry(2, sent(0)))  # the connection may write again


def test_other_files_cannot_be_attached(database: Database, tmp_path: Path) -> None:
    """A database of another program stays its own, and none is made."""
    with pytest.raises(InvalidQueryError):
        run_query(database.connection, f"ATTACH '{tmp_path}/other.db' AS other", 10)
    assert list(tmp_path.iterdir()) == []


async def test_no_setting_of_the_connection_changes(tmp_path: Path) -> None:
    """A PRAGMA takes effect even where it returns no rows; it is refused before it runs."""
    store = SqliteStore(tmp_path / "logs.db", readers=1)
    await store.open()
    with pytest.raises(InvalidQueryError):
        await store.read(lambda connection: run_query(connection, "PRAGMA query_only = OFF", 10))
    with pytest.raises(StorageError, match="readonly"):
        await store.read(lambda connection: connection.execute("DELETE FROM blasts"))
    await store.close()


async def test_a_slow_query_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails as any query of the API does, and the reader serves the next one."""
    monkeypatch.setattr(store_module, "QUERY_LIMIT_S", 0.2)
    store = SqliteStore(tmp_path / "logs.db", readers=1)
    await store.open()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    async with asyncio.timeout(30):
        with pytest.raises(QueryTooSlowError):
            await store.read(lambda connection: run_query(connection, endless, 10))
    found = await store.read(lambda connection: run_query(connection, "SELECT 1 AS one", 10))
    assert found.rows == [{"one": 1}]
    with pytest.raises(InvalidQueryError):
        await store.read(lambda connection: run_query(connection, "DELETE FROM blasts RETURNING 1", 10))
    await store.close()
    with sqlite3.connect(tmp_path / "logs.db") as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()
