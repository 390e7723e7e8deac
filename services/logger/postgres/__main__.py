"""`python -m services.logger.postgres FILE`: copies the log from a SQLite file into PostgreSQL (`kurir copy-logs`).

KURIR_DATABASE_URL names the database. No logger may have the file open.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from services.logger.database import DatabaseError
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.copying_in import CopyError, copy_in
from services.logger.postgres.rows import PostgresRowWriter
from services.logger.postgres.schema import UnsuitableServerError, migrate
from services.logger.schema import NewerSchemaError
from services.logger.settings import read_database_url
from services.logger.sqlite_store import SqliteStore
from shared.errors import SettingsError
from shared.settings import EnvReader

_LONGEST_S = 3600.0
_PATIENT = {"idle_in_transaction_session_timeout": "0"}


def main(arguments: list[str]) -> int:
    """Copy, and return the exit code: 1 if the copy failed, 2 if the settings are at fault."""
    try:
        reader = EnvReader(os.environ)
        url = read_database_url(reader)
        if not url:
            reader.problem("KURIR_DATABASE_URL is missing")
        reader.finish()
        path = Path(arguments[0])
        copied = _copy(path, url)
    except SettingsError as error:
        print("\n".join(error.problems), file=sys.stderr)  # noqa: T201 -- a command for people
        return 2
    except (CopyError, DatabaseError, NewerSchemaError, UnsuitableServerError) as error:
        print(f"nothing was copied: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{copied} messages copied; start the logger with KURIR_DATABASE_URL, and keep {path} until you are content")  # noqa: T201
    return 0


def _copy(path: Path, url: str) -> int:
    """Copy while the file is locked and has the newest schema."""
    if not path.is_file():
        raise CopyError(f"{path} does not exist")
    store = SqliteStore(path, readers=1, lock_wait_s=0.0)
    with asyncio.Runner() as runner:
        runner.run(store.open())
        runner.run(store.checkpoint())
    try:
        database = PostgresDatabase(url, PostgresRowWriter(), _PATIENT, _LONGEST_S)
        try:
            migrate(database)
            return copy_in(path, database, lambda table, rows: print(f"{table}: {rows}", flush=True))  # noqa: T201
        finally:
            database.close()
    finally:
        with asyncio.Runner() as runner:
            runner.run(store.close())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
