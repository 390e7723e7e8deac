"""Later indexes: those that a large file of an earlier version gets while the logger already serves.

Building one reads the whole table: with ten million messages that takes long enough to be missed. Queries are answered
meanwhile, and events wait in Redis. A new or small file has them from the start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

# The first has only ids that providers chose: the ids of our own mail contain their jobs
LATER_INDEXES: Mapping[str, str] = {
    "idx_message_id": "message_logs(message_id) WHERE channel <> 'email' AND message_id IS NOT NULL",
    "idx_delivery": "message_logs(delivery, channel) WHERE delivery IS NOT NULL",
    "idx_blast_delivery": "message_logs(blast_id, delivery) WHERE delivery IS NOT NULL",
}


def missing_indexes(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the later indexes that a file does not have yet, or with other columns."""
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index'"))
    return [name for name in LATER_INDEXES if found.get(name) != _definition(name)]


def _definition(name: str) -> str:
    return f"CREATE INDEX {name} ON {LATER_INDEXES[name]}"


def build_index(connection: sqlite3.Connection, name: str, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Build one of the later indexes, which reads the whole table; return True.

    Call it outside a transaction. Millions of keys are sorted on disk, not in memory. Queries use the index of an
    earlier version meanwhile. Raises sqlite3.OperationalError, and changes nothing, once `stopped` returns True.
    """
    (before,) = connection.execute("PRAGMA temp_store").fetchone()
    connection.execute("PRAGMA temp_store = FILE")
    connection.set_progress_handler(stopped, 100_000)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"DROP INDEX IF EXISTS {name}")
        connection.execute(_definition(name))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.set_progress_handler(None, 0)
        connection.execute(f"PRAGMA temp_store = {before}")
    return True
