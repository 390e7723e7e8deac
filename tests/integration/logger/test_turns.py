"""Turns of writing: a session that stands still in its turn is ended, one that works is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from services.logger.database import DatabaseError
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.rows import PostgresRowWriter
from services.logger.postgres.turns import WRITER_KEY, begin_turn
from tests.postgres_servers import PostgresServer
from tests.servers import wait_for

HASTY = 0.1
WAITS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 1 AND NOT granted"
GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """Make a database with one table."""
    made = postgres_server.make_database()
    postgres_server.sql("CREATE TABLE written (n bigint)", made.rpartition("/")[2])
    return made


@pytest.fixture
def writer(url: str) -> Iterator[PostgresDatabase]:
    """A session that waits for its turn."""
    made = PostgresDatabase(url, PostgresRowWriter(), {"search_path": "public"})
    yield made
    made.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that has the turn."""
    made = await asyncpg.connect(url)
    await made.execute("BEGIN")
    await made.execute(f"SELECT pg_advisory_xact_lock({WRITER_KEY})")
    yield made
    made.terminate()


async def _count(writer: PostgresDatabase) -> int:
    """Return how many rows there are, in a turn."""

    def count() -> int:
        begin_turn(writer, HASTY)
        return int(writer.run("SELECT count(*) FROM written").fetchone()[0])

    return await asyncio.to_thread(count)


async def test_a_logger_that_stands_still_in_mid_copy_loses_its_turn(
    writer: PostgresDatabase, other: asyncpg.Connection
) -> None:
    """The server takes it for active; its rows are undone, and the next writer continues."""
    begun, thawed = asyncio.Event(), asyncio.Event()

    async def rows() -> AsyncIterator[bytes]:
        yield b"1\n"
        begun.set()
        await thawed.wait()

    copying = asyncio.create_task(other.copy_to_table("written", source=rows()))
    await begun.wait()
    assert await _count(writer) == 0
    thawed.set()
    with pytest.raises(GONE):
        await copying


async def test_a_turn_that_works_for_long_is_not_ended(
    writer: PostgresDatabase, other: asyncpg.Connection, url: str
) -> None:
    """Who waits for it gives up for the moment; it completes."""
    third = await asyncpg.connect(url)
    await third.execute("SELECT pg_advisory_lock(1)")
    await other.execute("INSERT INTO written VALUES (1)")
    working = asyncio.create_task(other.execute("SELECT pg_advisory_xact_lock(1)"))
    await wait_for(lambda: third.fetchval(WAITS), what="the turn to work")
    with pytest.raises(DatabaseError, match="another session has held the turn to write for too long"):
        await _count(writer)
    await third.close()
    await working
    await other.execute("COMMIT")
    assert await _count(writer) == 1
