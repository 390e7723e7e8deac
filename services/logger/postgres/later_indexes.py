"""Later indexes in PostgreSQL: those of a newer schema, which the days of a large log get while the logger runs.

A migration makes such an index for the table, and days that are made from then on have it. The others get theirs one by
one: only writers of that day wait meanwhile, and a stop does not wait for all of them. The index that it replaces
serves queries until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.schema import MIGRATE_KEY
from services.logger.postgres.turns import begin_turn

REPLACES: Mapping[str, str] = {"idx_delivery_channel": "idx_delivery"}
"""Each later index with the one that it replaces, which is there until all days have the new one."""
_LACKING = """
SELECT c.relname, substring(pg_get_indexdef($1::regclass) FROM ' USING .*') FROM pg_inherits AS t
JOIN pg_class AS c ON c.oid = t.inhrelid
WHERE t.inhparent = 'message_logs'::regclass AND NOT EXISTS (
    SELECT 1 FROM pg_inherits AS i JOIN pg_index AS x ON x.indexrelid = i.inhrelid
    WHERE i.inhparent = $1::regclass AND x.indrelid = c.oid
) ORDER BY 1
"""
# queries wait behind it for as long
_LOCK_WAIT = "2s"


def missing_indexes(database: PostgresDatabase) -> list[str]:
    """Return the names of the later indexes that a day may not have yet."""
    found = "SELECT to_regclass($1)::text"
    return [name for name, old in REPLACES.items() if database.run(found, old).fetchone()[0] is not None]


def build_index(database: PostgresDatabase, name: str, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Build a later index for the days that lack it, then drop the one that it replaces; return False if stopped.

    Call it outside a transaction. Each day is a transaction, so what was built is kept if a later one fails.
    """
    for table, definition in database.run(_LACKING, name).fetchall():
        if stopped():
            return False
        database.script("BEGIN")
        # of several loggers one builds at a time
        database.run("SELECT pg_advisory_xact_lock($1)", MIGRATE_KEY)
        part = name.removeprefix("idx_")
        database.script(f"CREATE INDEX IF NOT EXISTS {table}_{part} ON {table}{definition}")
        database.script(f"ALTER INDEX {name} ATTACH PARTITION {table}_{part}; COMMIT")
    # no writer is in the way then
    begin_turn(database)
    database.script(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'; DROP INDEX IF EXISTS {REPLACES[name]}; COMMIT")
    return True
