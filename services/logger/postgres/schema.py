"""The schema in PostgreSQL: the tables of SQLite's schema, with messages and what belongs to them by day.

Text is compared by its bytes, as in SQLite. `message_logs` has partitions by the range of `id`, whose upper bits are
the day, the tables of attempts and receipts by `day`. A job id is unique in its partition, which it determines.
"""

from __future__ import annotations

import re
from importlib.resources import files

from services.logger.postgres.connecting import SCHEMA, PostgresDatabase
from services.logger.postgres.days import first_id
from services.logger.schema import NewerSchemaError
from shared.clock import rfc3339
from shared.errors import KurirError

BY_DAY = ("message_logs", "message_attempts", "message_receipts")
# entry N brings the schema from version N to N + 1; never edit a released one
MIGRATIONS = ("tables.sql", "delivery_index.sql")
MIGRATE_KEY = 0x6B75_7269_7201
"""The advisory lock of migrations, so that of several loggers one migrates."""
LAST_CHANGE = "greatest(created_at, updated_at)"
"""When a message was created or last changed; events of the two may come from machines whose clocks differ."""
_DAY_MS = 86_400_000
OLDEST_VERSION = 14
"""The oldest version of the server; earlier ones do not end the session of a leading logger that stands still."""


class UnsuitableServerError(KurirError):
    """The server or the database cannot hold the log; the message says why."""


def check_server(version_number: int, encoding: str) -> None:
    """Raise UnsuitableServerError unless the server's version (as in `server_version_num`) and encoding will do."""
    version = version_number // 10_000
    if version < OLDEST_VERSION:
        raise UnsuitableServerError(f"PostgreSQL {version} is too old: use {OLDEST_VERSION} or newer")
    if encoding != "UTF8":
        raise UnsuitableServerError(f"its encoding is {encoding}: make a database with ENCODING 'UTF8'")


def migrate(database: PostgresDatabase) -> int:
    """Bring the schema to the newest version, in one transaction; return the version.

    Raises NewerSchemaError and UnsuitableServerError.
    """
    about = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
    check_server(*database.run(about).fetchone())
    database.script("BEGIN")
    database.run("SELECT pg_advisory_xact_lock($1)", MIGRATE_KEY)
    database.script(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    version = _version(database)
    if version > len(MIGRATIONS):
        database.script("ROLLBACK")
        raise NewerSchemaError(f"its schema has version {version}; this Kurir supports up to version {len(MIGRATIONS)}")
    for name in MIGRATIONS[version:]:
        database.script(_text(name))
    if version < len(MIGRATIONS):
        database.run("DELETE FROM schema_version")
        database.run("INSERT INTO schema_version VALUES ($1)", len(MIGRATIONS))
    database.script("COMMIT")
    return len(MIGRATIONS)


def _version(database: PostgresDatabase) -> int:
    if database.run("SELECT to_regclass('schema_version')::text").fetchone()[0] is None:
        return 0
    return int(database.run("SELECT version FROM schema_version").fetchone()[0])


def _text(name: str) -> str:
    sql = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return re.sub(r"\bTEXT\b(?! column)", 'TEXT COLLATE "C"', sql)


def make_day(database: PostgresDatabase, day: int) -> None:
    """Make the partitions of a day, within a writing transaction.

    Each table is made apart and then attached: that waits for no reader, as `CREATE TABLE … PARTITION OF` does.
    """
    database.run(
        "INSERT INTO message_days (day, next_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", day, first_id(day) + 1
    )
    for table in BY_DAY:
        name = f"{table}_{day}"
        if database.run("SELECT to_regclass($1)::text", name).fetchone()[0] is not None:
            continue
        database.script(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS)")
        if table == "message_logs":
            database.script(f"CREATE UNIQUE INDEX ON {name} (job_id)")
            index_late(database, day)
        attach_day(database, table, day)


def index_late(database: PostgresDatabase, day: int) -> None:
    """Index a day's messages that were created or changed after it: retention finds the few that stay by their time."""
    database.script(f"CREATE INDEX ON message_logs_{day} (({LAST_CHANGE})) WHERE {changed_after(day)}")


def changed_after(day: int) -> str:
    """Return the condition that a message was created or changed after its day; the index of such messages has it."""
    return f"{LAST_CHANGE} >= '{rfc3339((day + 1) * _DAY_MS)}'"


def attach_day(database: PostgresDatabase, table: str, day: int) -> None:
    """Attach a day's partition of a table, which is made under its name."""
    low, high = (first_id(day), first_id(day + 1)) if table == "message_logs" else (day, day + 1)
    database.script(f"ALTER TABLE {table} ATTACH PARTITION {table}_{day} FOR VALUES FROM ({low}) TO ({high})")
