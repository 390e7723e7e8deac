"""Copying in: moves the log of a SQLite file into an empty PostgreSQL database, all of it in one transaction.

The file is only read, and locked against loggers meanwhile. Which batches of events were applied is copied too, so
what waits in Redis continues where the file ended. Messages get new row ids, in their old order within each day.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.days import day_of, first_id
from services.logger.postgres.schema import make_day
from services.logger.postgres.tables import BY_JOB, COPIED, IDENTITIES, columns_of
from services.logger.postgres.translating import clean
from services.logger.schema import MIGRATIONS
from shared.errors import KurirError

_CHUNK = 5000
_COUNTS = """
INSERT INTO message_day_counts (day, channel, status, n)
SELECT id >> 36, channel, status, count(*) FROM message_logs GROUP BY 1, 2, 3
"""
_DELIVERIES = """
INSERT INTO delivery_day_counts (day, channel, delivery, n)
SELECT id >> 36, channel, delivery, count(*) FROM message_logs WHERE delivery IS NOT NULL GROUP BY 1, 2, 3
"""
_MINUTES = """
INSERT INTO created_minutes (minute, first_id, last_id)
SELECT floor(extract(epoch FROM created_at::timestamptz) / 60)::bigint, min(id), max(id) FROM message_logs GROUP BY 1
"""
Report = Callable[[str, int], None]


class CopyError(KurirError):
    """The log cannot be copied; the message says why."""


def copy_in(path: Path, database: PostgresDatabase, report: Report = lambda _table, _rows: None) -> int:
    """Copy the file into the database, whose schema is there and empty; return the number of messages.

    Calls `report` with each table and the number of its rows. Raises CopyError, and DatabaseError if PostgreSQL fails;
    the database is then as it was.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as source:
        source.execute("BEGIN")
        version = source.execute("PRAGMA user_version").fetchone()[0]
        if version != len(MIGRATIONS):
            raise CopyError(f"{path} has schema version {version}, not {len(MIGRATIONS)}: start this Kurir on it once")
        database.script("BEGIN")
        try:
            _check_empty(database)
            messages = _copy_messages(source, database)
            report("message_logs", messages)
            for table in BY_JOB:
                report(table, _copy_by_job(source, database, table))
            for table in COPIED:
                report(table, _copy_table(source, database, table))
            for statement in (_COUNTS, _DELIVERIES, _MINUTES):
                database.script(statement)
            _continue_ids(source, database)
            _compare(source, database)
        except BaseException:
            if database.in_transaction:
                database.script("ROLLBACK")
            raise
        database.script("COMMIT")
    database.script("ANALYZE")
    return messages


def _check_empty(database: PostgresDatabase) -> None:
    for table in ("message_logs", "blasts", "api_logs", "applied_events", "webhook_endpoints"):
        if database.run(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0]:  # noqa: S608 -- own names
            raise CopyError(f"the database is not empty: the table {table} has rows")


def _copy_messages(source: sqlite3.Connection, database: PostgresDatabase) -> int:
    """Copy messages in the order of their ids; each day's get the day's next ids."""
    columns = columns_of(database, "message_logs")
    names = [name for name in columns if name != "id"]
    rows = source.execute(f"SELECT {', '.join(names)} FROM message_logs ORDER BY id")  # noqa: S608 -- own names
    place = names.index("job_id")
    following: dict[int, int] = {}
    total = 0
    for chunk in _chunks(rows):
        total += len(chunk)
        for day, some in _by_day(chunk, place):
            first = following.get(day) or _begin_day(database, day)
            following[day] = first + len(some)
            numbered = [(row_id, *row) for row_id, row in enumerate(some, start=first)]
            database.copy(f"message_logs_{day}", ["id", *names], numbered)
    for day, next_id in following.items():
        database.run("UPDATE message_days SET next_id = $2 WHERE day = $1", day, next_id)
    return total


def _begin_day(database: PostgresDatabase, day: int) -> int:
    make_day(database, day)
    return first_id(day) + 1


def _copy_by_job(source: sqlite3.Connection, database: PostgresDatabase, table: str) -> int:
    columns = columns_of(database, table)
    total = 0
    for chunk in _chunks(source.execute(f"SELECT {', '.join(columns)} FROM {table}")):  # noqa: S608 -- own names
        total += len(chunk)
        for day, some in _by_day(_typed(chunk, columns), list(columns).index("job_id")):
            make_day(database, day)
            database.copy(f"{table}_{day}", [*columns, "day"], [(*row, day) for row in some])
    return total


def _copy_table(source: sqlite3.Connection, database: PostgresDatabase, table: str) -> int:
    columns = columns_of(database, table)
    total = 0
    for chunk in _chunks(source.execute(f"SELECT {', '.join(columns)} FROM {table}")):  # noqa: S608 -- own names
        total += len(chunk)
        database.copy(table, list(columns), _typed(chunk, columns))
    return total


def _chunks(rows: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := [tuple(map(clean, row)) for row in islice(rows, _CHUNK)]:
        yield chunk


def _typed(rows: Sequence[tuple[Any, ...]], columns: dict[str, str]) -> Sequence[tuple[Any, ...]]:
    """Return rows with the truth values that SQLite has as numbers."""
    flags = [kind == "boolean" for kind in columns.values()]
    if not any(flags):
        return rows
    return [tuple(bool(value) if flag else value for value, flag in zip(row, flags, strict=True)) for row in rows]


def _by_day(rows: Sequence[tuple[Any, ...]], place: int) -> list[tuple[int, list[tuple[Any, ...]]]]:
    groups: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        groups[day_of(row[place])].append(row)
    return sorted(groups.items())


def _continue_ids(source: sqlite3.Connection, database: PostgresDatabase) -> None:
    """Let new rows get ids above those that were copied, and above those of rows that were deleted."""
    used = dict(source.execute("SELECT name, seq FROM sqlite_sequence"))
    for table, column in database.run(IDENTITIES).fetchall():
        highest = f"greatest((SELECT max({column}) FROM {table}), {int(used.get(table, 0))})"  # noqa: S608 -- own names
        database.script(
            f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), greatest({highest}, 1), {highest} > 0)"
        )


def _compare(source: sqlite3.Connection, database: PostgresDatabase) -> None:
    """Raise CopyError unless each table has as many rows as in the file."""
    for table in ("message_logs", *BY_JOB, *COPIED):
        query = f"SELECT count(*) FROM {table}"  # noqa: S608 -- own names
        there, here = source.execute(query).fetchone()[0], database.run(query).fetchone()[0]
        if there != here:
            raise CopyError(f"the table {table} has {there} rows in the file and {here} in the database")
