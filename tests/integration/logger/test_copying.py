"""Moving the log between a SQLite file and PostgreSQL: every row arrives, and what happens next counts once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.ingest.blasts.submission import new_blast_id
from services.logger.backup import BackupError
from services.logger.postgres.copying_in import CopyError, copy_in
from services.logger.postgres.store import PostgresStore
from services.logger.postgres.tables import BY_JOB, COPIED
from services.logger.sqlite_store import SqliteStore
from services.logger.webhooks.endpoints import create
from services.logger.writing import EventWriter
from shared.events import ApiRequest, Receipts, SystemEvent
from shared.queue.event_log import EventEntry
from shared.sealing import Seal
from tests.postgres_servers import PostgresServer
from tests.unit.logger.database import START_MS, accepted, begun, blast, entry, failed, queued, receipt, sent

DAY_MS = 86_400_000
FIRST, SECOND = (new_blast_id(START_MS + days * DAY_MS) for days in (0, 1))
_MESSAGE = "job_id, status, recipient_email, attempts, created_at, updated_at, delivery, state_rank, error_message"


def story() -> list[EventEntry]:
    """Return events of two blasts of different days and one of none, with receipts, requests, errors and a NUL."""
    request = ApiRequest(START_MS, "/api/messages/blast", "POST", "::1", "{}", 202, 9, "", "r", "k")
    return [
        entry(1, accepted(blast(FIRST, total=3)), queued(range(3), FIRST), producer="a"),
        entry(2, begun(0, FIRST), sent(0, FIRST), failed(1, FIRST), producer="a"),
        entry(3, accepted(blast(SECOND, total=1)), queued(range(1), SECOND, at=DAY_MS), producer="b"),
        entry(4, queued(range(2), "undated"), failed(1, "undated"), producer="b"),
        entry(5, Receipts([receipt("bounced", 9, job_id=f"{FIRST}:0:email", severity="hard")]), producer="c"),
        entry(6, Receipts([receipt("delivered", 9, job_id="later:0:email")]), producer="c"),
        entry(7, SystemEvent(START_MS, "error", "away \0 and back", "ingest"), request, producer="d"),
    ]


async def _filled(folder: Path) -> Path:
    store = SqliteStore(folder / "logs.db", readers=1)
    await store.open()
    wanted = {"url": "https://example.com/hook", "events": ["*"]}
    await store.write(lambda connection: create(connection, wanted, Seal("secret"), START_MS))
    writer = EventWriter()
    for one in story():
        await store.write(partial(writer.apply, entries=[one]))
    await store.close()
    return folder / "logs.db"


def _content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as file:
        found = {table: sorted(map(repr, file.execute(f"SELECT * FROM {table}"))) for table in (*COPIED, *BY_JOB)}
        kept = {
            table: sorted(file.execute(f"SELECT * FROM {table} WHERE n <> 0"))
            for table in ("message_counts", "delivery_counts")
        }
        messages = file.execute(f"SELECT {_MESSAGE} FROM message_logs ORDER BY job_id").fetchall()
        return {**found, **kept, "message_logs": messages}


async def test_every_row_goes_there_and_back(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """A backup of the copy has the file's rows; text loses only its NULs, which PostgreSQL cannot store."""
    path = await _filled(tmp_path)
    store = PostgresStore(postgres_server.make_database(), readers=1)
    await store.open()
    moved = await store.maintain(lambda database: copy_in(path, database))
    assert moved == 6
    assert await store.backup(tmp_path / "back.db") > 0
    before, after = _content(path), _content(tmp_path / "back.db")
    assert "away \\x00 and back" in before["system_logs"][0][0:200]
    before["system_logs"] = [row.replace("\\x00", "\ufffd") for row in before["system_logs"]]  # type: ignore[attr-defined]
    assert after == before
    again = await store.maintain(lambda database: _refused(path, database))
    assert "not empty" in again
    with pytest.raises(BackupError):
        await store.backup(tmp_path / "missing" / "back.db")
    await store.close()


def _refused(path: Path, database: Any) -> str:
    with pytest.raises(CopyError) as raised:
        copy_in(path, database)
    return str(raised.value)


@pytest.mark.parametrize("way", ["to PostgreSQL", "and back"])
async def test_what_happens_next_counts_once(postgres_server: PostgresServer, tmp_path: Path, way: str) -> None:
    """Events that were applied before the copy are known; others continue their messages' rows."""
    path = await _filled(tmp_path)
    postgres = PostgresStore(postgres_server.make_database(), readers=1)
    await postgres.open()
    await postgres.maintain(lambda database: copy_in(path, database))
    store: Any = postgres
    if way == "and back":
        await postgres.backup(tmp_path / "back.db")
        store = SqliteStore(tmp_path / "back.db", readers=1)
        await store.open()
    writer = EventWriter()
    repeated = await store.write(lambda database: writer.apply(database, story()))
    assert (repeated.events, repeated.repeated) == (0, len(story()))
    more = [entry(8, sent(2, FIRST, at=9), producer="a"), entry(9, queued((5,), SECOND, at=DAY_MS), producer="b")]
    await store.write(lambda database: writer.apply(database, more))
    query = "SELECT job_id, status FROM message_logs WHERE status IN ('sent', 'queued') ORDER BY job_id"
    found = await store.read(lambda database: database.execute(query).fetchall())
    assert found == sorted(
        [(f"{FIRST}:0:email", "sent"), (f"{FIRST}:2:email", "sent"), (f"{SECOND}:0:email", "queued"),
         (f"{SECOND}:5:email", "queued"), ("undated:0:email", "queued")]
    )  # fmt: skip
    newest = await store.read(lambda database: database.execute("SELECT max(id) FROM webhook_events").fetchone())
    assert newest[0] > 0
    await postgres.close()
    if store is not postgres:
        await store.close()


async def test_numbers_of_deleted_rows_are_not_used_again(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """Neither in PostgreSQL nor in the file that a backup of it is."""
    path = await _filled(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE sqlite_sequence SET seq = 40 WHERE name = 'webhook_endpoints'")
    postgres = PostgresStore(postgres_server.make_database(), readers=1)
    await postgres.open()
    await postgres.maintain(lambda database: copy_in(path, database))
    assert await _number_next(postgres) == 41
    await postgres.write(lambda database: database.script("DELETE FROM webhook_endpoints WHERE number = 41"))
    await postgres.backup(tmp_path / "back.db")
    back = SqliteStore(tmp_path / "back.db", readers=1)
    await back.open()
    assert await _number_next(back) == 42
    await postgres.close()
    await back.close()


async def _number_next(store: Any) -> int:
    wanted = {"url": "https://example.com/hook", "events": ["*"]}
    row, _ = await store.write(lambda connection: create(connection, wanted, Seal("secret"), START_MS))
    return int(row.number)
