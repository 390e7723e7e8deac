"""An operator's own SQL, for questions that no call of the API answers.

A query can only read: SQLite asks `_authorize` about each action of a statement before it runs, and everything but
reading and computing is refused. So no query writes, attaches another file or changes a setting of the connection,
which answers the API's queries too. The store stops a query that takes too long.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlite_utils import Database

from services.logger.filters import InvalidQueryError

MOST_ROWS = 10_000
# the savepoint is that of sqlite-utils, which rolls back a statement that returns no rows
_READING = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_SAVEPOINT,
    }
)
# the store translates these: they are not the query's fault
_STORES_OWN = frozenset(
    {sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
)
# a function such as zeroblob() could fill the memory
_LONGEST_VALUE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of a query, a dictionary each; `cut`: there are more than were asked for."""

    rows: list[dict[str, Any]]
    cut: bool


def run_query(connection: sqlite3.Connection, sql: str, limit: int) -> Result:
    """Run one statement that reads and return at most `limit` rows, blobs as base64; raises InvalidQueryError."""
    database = Database(connection, execute_plugins=False, recursive_triggers=False)
    with _reading_only(connection):
        try:
            found = list(islice(database.query(sql), limit + 1))
        except (ValueError, sqlite3.Warning, sqlite3.ProgrammingError) as error:
            raise InvalidQueryError(str(error)) from error
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _STORES_OWN:
                raise
            raise InvalidQueryError(str(error)) from error
    return Result([{name: _shown(value) for name, value in row.items()} for row in found[:limit]], len(found) > limit)


@contextmanager
def _reading_only(connection: sqlite3.Connection) -> Iterator[None]:
    longest = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    connection.set_authorizer(_authorize)
    try:
        yield
    finally:
        connection.set_authorizer(None)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)


def _authorize(action: int, *_details: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _shown(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
