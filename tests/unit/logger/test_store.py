"""The store: one owner, forward-only migrations, damage detection and read-only readers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from services.logger import schema
from services.logger.filters import MessageFilter, Page
from services.logger.later_indexes import LATER_INDEXES, build_index, missing_indexes
from services.logger.queries import find_messages
from services.logger.schema import NewerSchemaError, migrate
from services.logger.sqlite_store import SqliteStore
from services.logger.store import StorageError
from shared.clock import rfc3339
from shared.errors import SettingsError
from tests.servers import PATIENCE_S


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, readers=1, lock_wait_s=0.05)
    await store.open()
    return store


async def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """Two loggers on one file would each rely on their own view of it."""
    first = await opened(tmp_path / "logs.db")
    second = SqliteStore(tmp_path / "logs.db", lock_wait_s=0.05)
    with pytest.raises(SettingsError, match="another logger"):
        await second.open()
    await second.close()
    await first.close()
    third = await opened(tmp_path / "logs.db")
    await third.close()


async def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """It is rolled back completely, and the next transaction works."""
    store = await opened(tmp_path / "logs.db")

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO message_counts VALUES ('email', 'sent', 1)")
        connection.execute("INSERT INTO message_counts VALUES ('email', 'sent', 1)")

    with pytest.raises(StorageError, match="UNIQUE"):
        await store.write(half)
    assert await store.write(lambda c: c.execute("SELECT count(*) FROM message_counts").fetchone()) == (0,)
    await store.close()


async def test_a_query_sees_one_state_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes several statements; a write between them must not change what it sees."""
    monkeypatch.setattr("services.logger.sqlite_store.QUERY_LIMIT_S", 600.0)
    store = await opened(tmp_path / "logs.db")
    read_once, written = threading.Event(), threading.Event()

    def look_twice(connection: sqlite3.Connection) -> list[int]:
        query = "SELECT count(*) FROM system_logs"
        first = connection.execute(query).fetchone()[0]
        read_once.set()
        assert written.wait(60)
        return [first, connection.execute(query).fetchone()[0]]

    looking = asyncio.create_task(store.read(look_twice))
    assert await asyncio.to_thread(read_once.wait, PATIENCE_S)
    await store.write(lambda c: c.execute("INSERT INTO system_logs (level, message) VALUES ('error', 'x')"))
    written.set()
    assert await looking == [0, 0]
    assert await store.read(lambda c: c.execute("SELECT count(*) FROM system_logs").fetchone()[0]) == 1
    await store.close()


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """Queries run on read-only connections."""
    store = await opened(tmp_path / "logs.db")
    with pytest.raises(StorageError, match="readonly"):
        await store.read(lambda c: c.execute("DELETE FROM message_logs"))
    await store.close()


async def test_a_damaged_file_is_reported_at_the_start(tmp_path: Path) -> None:
    """The error says what to do, and the file stays unchanged."""
    path = tmp_path / "logs.db"
    store = await opened(path)
    await store.write(
        lambda c: c.executemany(
            "INSERT INTO system_logs (level, message) VALUES ('error', ?)", ((f"{n:0200}",) for n in range(2000))
        )
    )
    await store.maintain(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    await store.close()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(raw)
    with pytest.raises(SettingsError, match="restore a backup"):
        await opened(path)
    assert path.read_bytes() == raw


async def test_a_large_file_is_checked_in_the_background(tmp_path: Path) -> None:
    """`verify` checks a file that the start skipped, and can be cancelled."""
    store = await opened(tmp_path / "logs.db")
    assert store.verified
    store.verified = False
    assert await store.verify() == []
    assert store.verified
    checking = asyncio.create_task(store.verify())
    await asyncio.sleep(0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    await store.close()


def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    """Each raises the version by one; migrations that already ran do not run again."""
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        steps = ["CREATE TABLE a (x)", "INSERT INTO a VALUES (1)"]
        assert migrate(connection, steps) == 2
        assert migrate(connection, [*steps, "INSERT INTO a VALUES (3)"]) == 3
        assert connection.execute("SELECT x FROM a").fetchall() == [(1,), (3,)]


def test_rows_from_before_a_migration_are_found_by_their_times(tmp_path: Path) -> None:
    """The second migration also records the first and last id of each minute for existing rows."""
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        migrate(connection, schema.MIGRATIONS[:1])
        for minute in (5, 3, 5):
            connection.execute(
                "INSERT INTO system_logs (level, message, created_at) VALUES ('error', 'x', ?)",
                (rfc3339(minute * 60_000),),
            )
        assert migrate(connection) == len(schema.MIGRATIONS)
        assert connection.execute("SELECT * FROM system_minutes").fetchall() == [(3, 2, 2), (5, 1, 3)]


def test_recipients_from_before_a_migration_have_their_identity(tmp_path: Path) -> None:
    """The third migration records it only for rows whose address differs from its identity."""
    identities = {
        "Siti@example.com": "siti@example.com",
        "siti@m\u00fcnchen.de": "siti@xn--mnchen-3ya.de",
        "siti@example.com": None,
        "5215512345678": "525512345678",
        "558187654321": "5581987654321",
        "525512345678": None,
        "6281224772000": None,
    }
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        migrate(connection, schema.MIGRATIONS[:2])
        for address in identities:
            column = "recipient_email" if "@" in address else "recipient_phone"
            connection.execute(
                f"INSERT INTO message_logs (job_id, channel, {column}, recipient_name, template_id, status)"
                " VALUES (?1, 'c', ?1, 'R', 't', 'sent')",
                (address,),
            )
        migrate(connection)
        assert dict(connection.execute("SELECT job_id, recipient_identity FROM message_logs")) == identities


async def test_a_large_file_gets_its_indexes_after_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building them reads the whole table: the file is open, and queries are answered, before that."""
    first = await opened(tmp_path / "logs.db")
    assert first.unindexed == []
    await first.write(lambda c: [c.execute(f"DROP INDEX {name}") for name in LATER_INDEXES])
    await first.close()
    monkeypatch.setattr("services.logger.sqlite_store.CHECK_FIRST_BYTES", 0)
    large = await opened(tmp_path / "logs.db")
    assert large.unindexed == list(LATER_INDEXES)
    for name in LATER_INDEXES:
        await large.maintain(partial(build_index, name=name))
    await large.close()
    again = await opened(tmp_path / "logs.db")
    assert again.unindexed == []
    await again.close()


async def test_the_index_of_an_earlier_version_serves_until_the_new_one_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same name and fewer columns; a query by delivery is answered before and after."""
    first = await opened(tmp_path / "logs.db")
    earlier = "CREATE INDEX idx_delivery ON message_logs(delivery) WHERE delivery IS NOT NULL"
    await first.write(lambda c: [c.execute("DROP INDEX idx_delivery"), c.execute(earlier)])
    await first.close()
    monkeypatch.setattr("services.logger.sqlite_store.CHECK_FIRST_BYTES", 0)
    store = await opened(tmp_path / "logs.db")
    assert store.unindexed == ["idx_delivery"]
    wanted = MessageFilter(deliveries=("bounced",), channels=("email",))
    for _ in range(2):
        assert (await store.read(lambda c: find_messages(c, wanted, Page(5)))).rows == []
        await store.maintain(lambda c: build_index(c, "idx_delivery"))
    assert await store.read(missing_indexes) == []
    await store.close()


async def test_building_an_index_ends_with_the_service(tmp_path: Path) -> None:
    """A stop does not wait for it; nothing is left, and the next start builds it."""
    store = await opened(tmp_path / "logs.db")
    row = "INSERT INTO message_logs (job_id, channel, recipient_name, template_id, status) VALUES (?, 'w', '', '', '')"
    await store.write(
        lambda c: [c.execute("DROP INDEX idx_delivery"), c.executemany(row, ((n,) for n in range(50_000)))]
    )
    with pytest.raises(StorageError, match="interrupted"):
        await store.maintain(lambda c: build_index(c, "idx_delivery", lambda: True))
    assert await store.read(missing_indexes) == ["idx_delivery"]
    assert await store.maintain(lambda c: build_index(c, "idx_delivery"))
    assert await store.maintain(lambda c: c.execute("PRAGMA temp_store").fetchone()) == (2,)
    await store.close()


def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    """A half-applied migration would match neither version."""
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        migrate(connection, ["CREATE TABLE a (x)"])
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, ["CREATE TABLE a (x)", "CREATE TABLE b (x); INSERT INTO nothing VALUES (1)"])
        connection.rollback()
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert schema.tables(connection) == ["a"]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database with an unknown, newer version is left alone."""
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 99")
        with pytest.raises(NewerSchemaError, match="99"):
            migrate(connection)


OLD_COLUMNS = {
    "message_logs": [
        "id", "job_id", "channel", "recipient_email", "recipient_phone", "recipient_name", "template_id",
        "template_name", "subject", "status", "error_message", "message_id", "attempts", "created_at", "updated_at",
    ],
    "api_logs": [
        "id", "endpoint", "method", "ip_address", "request_body", "response_status", "response_time_ms",
        "error_message", "created_at",
    ],
    "system_logs": ["id", "level", "message", "metadata", "created_at"],
}  # fmt: skip
OLD_INDEXES = {
    "idx_job_id", "idx_status", "idx_channel", "idx_recipient_email", "idx_created_at", "idx_api_endpoint",
    "idx_api_created_at", "idx_system_level", "idx_system_created_at",
}  # fmt: skip


def test_the_old_systems_columns_and_indexes_come_first(tmp_path: Path) -> None:
    """Scripts that read the old tables by position or name still work."""
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        migrate(connection)
        for table, columns in OLD_COLUMNS.items():
            found = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            assert found[: len(columns)] == columns
        indexes = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
        assert indexes >= OLD_INDEXES
