"""An operator's own SQL in PostgreSQL: one statement that reads, in a transaction that cannot write.

The connection is the query's own and is closed after it, so nothing that a statement sets, prepares or locks outlasts
it. The server stops a query that takes too long.
"""

from __future__ import annotations

import base64
import re
from datetime import date, datetime, time
from typing import Any

import asyncpg

from services.logger.database import DatabaseError
from services.logger.filters import InvalidQueryError
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.sql import Result

_COMMENTS = re.compile(r"\s*(?:--[^\n]*\n|/\*.*?\*/)", re.DOTALL)
_READING = frozenset({"select", "with", "values", "table", "explain", "show"})
# the store translates these: they are not the query's fault
_STORES_OWN = (asyncpg.QueryCanceledError, asyncpg.PostgresConnectionError, OSError)


def run_query(database: PostgresDatabase, sql: str, limit: int) -> Result:
    """Run one statement and return at most `limit` rows, bytes as base64; raises InvalidQueryError."""
    if _first_word(sql) not in _READING:
        raise InvalidQueryError("only statements that read are allowed: SELECT, WITH, VALUES, TABLE, EXPLAIN, SHOW")
    database.script("BEGIN READ ONLY")
    try:
        names, rows = database.peek(sql, limit + 1)
    except DatabaseError as error:
        if isinstance(error.__cause__, _STORES_OWN):
            raise
        raise InvalidQueryError(str(error.__cause__ or error)) from error
    keys = _apart(names)
    found = [dict(zip(keys, map(_shown, row), strict=True)) for row in rows[:limit]]
    return Result(found, len(rows) > limit)


def _first_word(sql: str) -> str:
    text = sql
    while found := _COMMENTS.match(text):
        text = text[found.end() :]
    found_word = re.match(r"[\s(]*(\w+)", text)
    return found_word[1].lower() if found_word else ""


def _apart(names: list[str]) -> list[str]:
    """Return the names of columns, those that come again with a number."""
    keys: list[str] = []
    for name in names:
        again = sum(other == name for other in keys) + sum(other.startswith(f"{name}_") for other in keys)
        keys.append(f"{name}_{again + 1}" if name in keys else name)
    return keys


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
