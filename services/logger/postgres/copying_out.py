"""Copying out: writes the log in PostgreSQL, as it is at one moment, to a SQLite file.

It is the backup, and the way back: the file takes the place of `logs.db`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from services.logger.later_indexes import LATER_INDEXES, build_index
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.tables import BY_JOB, COPIED, IDENTITIES, MADE, columns_of
from services.logger.schema import migrate
from shared.errors import KurirError

_CHUNK = 2000
_USED = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, $2)::regclass), 0)"
# only tables whose numbers SQLite never uses again; a table without rows has no line there yet
_CONTINUE = """
INSERT INTO sqlite_sequence (name, seq) SELECT ?1, ?2
WHERE EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 AND sql LIKE '%AUTOINCREMENT%')
"""


class CopyAbandonedError(KurirError):
    """Nobody waits for the copy."""


def copy_out(database: PostgresDatabase, path: Path, is_abandoned: Callable[[], bool] = lambda: False) -> None:
    """Write a new file; call it within a transaction that sees one snapshot. Raises CopyAbandonedError."""
    with closing(sqlite3.connect(path, isolation_level=None)) as target:
        for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = OFF", "synchronous = OFF"):
            target.execute(f"PRAGMA {pragma}")
        migrate(target)
        for table in (*MADE, *BY_JOB, *COPIED):
            columns = list(columns_of(database, table))
            marks = ", ".join("?" * len(columns))
            insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 -- own names
            target.execute("BEGIN")
            for rows in database.stream(f"SELECT {', '.join(columns)} FROM {table}", _CHUNK):  # noqa: S608 -- own names
                if is_abandoned():
                    raise CopyAbandonedError("the logger was stopped")
                target.executemany(insert, rows)
            target.execute("COMMIT")
        for table, column in database.run(IDENTITIES).fetchall():
            target.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            target.execute(_CONTINUE, (table, database.run(_USED, table, column).fetchone()[0]))
        for name in LATER_INDEXES:
            build_index(target, name)
