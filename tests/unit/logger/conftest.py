"""The database of the logger's unit tests: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.rows import PostgresRowWriter
from services.logger.postgres.schema import migrate
from tests.postgres_servers import PostgresServer
from tests.unit.logger.database import Database, MakeDatabase


class _OnAThread:
    """Calls a connection on one thread, as the store does: it has an event loop, and a test may have one too."""

    def __init__(self, make: Callable[[], PostgresDatabase]) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._real = self._thread.submit(make).result()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        return (lambda *values: self._thread.submit(value, *values).result()) if callable(value) else value


@pytest.fixture(scope="session")
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A connection to a database with the logger's schema, one for all tests of a process."""
    url = postgres_server.make_database()
    real = cast("PostgresDatabase", _OnAThread(lambda: PostgresDatabase(url, PostgresRowWriter())))
    migrate(real)
    yield real
    real.close()


@pytest.fixture(params=["sqlite", "postgres"])
def make_database(request: pytest.FixtureRequest) -> MakeDatabase:
    """Return a maker of empty databases; of PostgreSQL's, the last one made is the only one."""
    if request.param == "sqlite":
        return Database
    connection: PostgresDatabase = request.getfixturevalue("postgres")
    return lambda: Database(connection)


@pytest.fixture
def database(make_database: MakeDatabase) -> Iterator[Database]:
    """An empty database with the logger's schema."""
    made = make_database()
    yield made
    made.close()
