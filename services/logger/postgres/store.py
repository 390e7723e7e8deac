"""The store in PostgreSQL: one writing connection, and several that read, each on a thread of its own.

Writing transactions take turns over all loggers of a database: each holds an advisory lock until it ends. So all that
rests on there being one writer holds here too, and loggers share everything but that turn: reading the streams,
decoding, queries, and being there when another is not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from services.logger.backup import write_file
from services.logger.database import DatabaseError, ResultT, Work
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.copying_out import copy_out
from services.logger.postgres.dropping import drop_days
from services.logger.postgres.later_indexes import build_index, missing_indexes
from services.logger.postgres.leading import Leading
from services.logger.postgres.operators import run_query
from services.logger.postgres.rows import PostgresRowWriter
from services.logger.postgres.schema import UnsuitableServerError, migrate
from services.logger.postgres.turns import IDLE_S, begin_turn
from services.logger.schema import NewerSchemaError
from services.logger.sql import Result
from services.logger.store import QueryTooSlowError, StorageError
from shared.errors import SettingsError
from shared.logs import get_logger

log = get_logger()
PostgresWork = Callable[[PostgresDatabase], ResultT]
QUERY_LIMIT_S = 5.0
_MEASURE_EVERY_S = 15.0
_CONNECT_AGAIN_S = 1.0
_WRITER = {"statement_timeout": "60000", "synchronous_commit": "on"}
# a statement is planned when a day has few rows, and kept while it grows to millions
_PLANS = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"}
_BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# of the values, not of the server: class 22 and 23, what the driver refuses to encode, and what exceeds a limit of the
# server, such as an index row's size
_FAULTS_OF_DATA = (
    asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError,
    asyncpg.exceptions.UntranslatableCharacterError, UnicodeError, OverflowError,
)  # fmt: skip
# the server is not there, starts, stops, or has no connection left
_AWAY = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError, asyncpg.TooManyConnectionsError,
)  # fmt: skip


class PostgresStore:
    """The log in the schema `kurir` of a database; `readers` connections answer queries.

    `scale` multiplies the times of the lead and of the turns, for tests.
    """

    def __init__(self, url: str, readers: int = 3, scale: float = 1.0) -> None:
        self._url = url
        self._scale = scale
        # not below 3 s: a busy machine pauses for that long, and connects again each time
        self._idle_ms = str(round(IDLE_S * max(scale, 0.3) * 1000))
        self.verified = True
        self.unindexed: list[str] = []
        self.shared = True
        self._leading = Leading(self._connect_leader, scale)
        self.rows = PostgresRowWriter()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._reading = ThreadPoolExecutor(readers, thread_name_prefix="db-reader")
        self._local = threading.local()
        self._readers: list[PostgresDatabase] = []
        self._writer: PostgresDatabase | None = None
        self._size = 0
        self._measured_s = -_MEASURE_EVERY_S

    @property
    def leads(self) -> bool:
        """Whether this logger has the lead, as far as it knows."""
        return self._leading.holds

    @property
    def where(self) -> str:
        """The URL without user and password."""
        parts = urlsplit(self._url)
        hosts = parts.netloc.rpartition("@")[2]
        return f"postgresql://{hosts or 'localhost'}{parts.path}"

    async def open(self) -> None:
        """Connect and migrate, as soon as the server answers.

        Raises SettingsError with a one-line reason if the database is not usable.
        """
        while reason := await asyncio.get_running_loop().run_in_executor(self._writing, self._open):
            log.warning("the database cannot be reached; trying again", database=self.where, reason=reason)
            await asyncio.sleep(_CONNECT_AGAIN_S)
        await self._measure()

    async def close(self) -> None:
        """Finish the current work and close all connections."""
        await self._leading.close()
        await asyncio.to_thread(self._close)

    async def lead(self) -> None:
        """Return once this logger is the one that does what only one of them may do."""
        await self._leading.lead()

    async def lost(self) -> None:
        """Return once the connection that holds the lead is gone."""
        await self._leading.lost()

    async def write(self, work: PostgresWork[ResultT]) -> ResultT:
        """Run `work` in one transaction, when it is this logger's turn.

        Raises StorageError if the server is away or refuses; the transaction is then rolled back, unless the connection
        was lost while it was committed. What is done with the events that it applied is safe to repeat.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._transact, work)

    async def tidy(self, work: PostgresWork[ResultT]) -> tuple[ResultT, float]:
        """Run `work` in a transaction that a power cut may undo; return also for how many seconds it held the turn."""

        def timed(database: PostgresDatabase) -> tuple[ResultT, float]:
            began = time.perf_counter()
            database.script("SET LOCAL synchronous_commit = off")
            return work(database), time.perf_counter() - began

        return await self.write(timed)

    async def maintain(self, work: PostgresWork[ResultT]) -> ResultT:
        """Run `work` on the writing connection, outside a transaction and without waiting for a turn."""

        def run() -> ResultT:
            try:
                return work(self._connect_writer())
            except DatabaseError as error:
                raise _failure("maintenance", error) from error

        return await asyncio.get_running_loop().run_in_executor(self._writing, run)

    async def apart(self, work: PostgresWork[ResultT]) -> ResultT:
        """Run `work` in a transaction on a connection of its own, without a turn; raises StorageError."""

        def run() -> ResultT:
            database = self._connect(_WRITER)
            try:
                database.script("BEGIN")
                result = work(database)
                database.script("COMMIT")
            finally:
                database.close()
            return result

        try:
            return await asyncio.to_thread(run)
        except DatabaseError as error:
            raise _failure("write", error) from error

    async def read(self, work: PostgresWork[ResultT]) -> ResultT:
        """Run `work` on a single snapshot, which it cannot change. Raises StorageError and QueryTooSlowError."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._read, work)

    async def drop_days(self, cutoff_ms: int, stopped: Callable[[], bool]) -> int:
        """Drop the partitions of days before the cutoff; return how many messages went. Raises StorageError."""
        return await drop_days(self, cutoff_ms, stopped)

    async def query(self, sql: str, limit: int) -> Result:
        """Run an operator's statement on a connection of its own; raises InvalidQueryError too."""

        def run() -> Result:
            database = self._connect({"default_transaction_read_only": "on", **_limits()})
            try:
                return run_query(database, sql, limit)
            finally:
                database.close()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, run)
        except DatabaseError as error:
            raise _failure("query", error) from error

    async def build_index(self, name: str, stopped: Callable[[], bool]) -> bool:
        """Build one of `unindexed`; return False if `stopped` returned True meanwhile. Raises StorageError."""

        def run() -> bool:
            database = None
            try:
                database = self._connect_writer()
                return build_index(database, name, stopped)
            except DatabaseError as error:
                self._give_up(database)
                raise _failure("write", error) from error

        return await asyncio.get_running_loop().run_in_executor(self._writing, run)

    async def checkpoint(self) -> None:
        """Measure the database now and then: the server does its own checkpoints."""
        if time.monotonic() - self._measured_s >= _MEASURE_EVERY_S:
            await self._measure()

    async def flush(self) -> None:
        """Do nothing: the server flushes."""

    async def verify(self) -> list[str]:
        """Return nothing: the server checks its own pages where it is set up to."""
        return []

    async def backup(self, target: Path) -> int:
        """Write a copy of the state of this moment to a SQLite file and return its size; raises BackupError."""
        abandoned = threading.Event()
        try:
            return await asyncio.to_thread(self._copy_out, target, abandoned.is_set)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def size_bytes(self) -> int:
        """Return the size of the database, as it was measured in the last seconds."""
        return self._size

    async def _measure(self) -> None:
        self._measured_s = time.monotonic()
        self._size = await self.read(
            lambda database: int(database.run("SELECT pg_database_size(current_database())").fetchone()[0])
        )

    def _copy_out(self, target: Path, is_abandoned: Callable[[], bool]) -> int:
        """Copy on a connection of its own, whose transaction may last."""

        def write(partial: Path) -> None:
            database = self._connect({"idle_in_transaction_session_timeout": "0"})
            try:
                database.script(_BEGIN_READING)
                copy_out(database, partial, is_abandoned)
            finally:
                database.close()

        return write_file(target, write)

    def _open(self) -> str:
        """Connect and migrate; return why the server cannot be reached, "" if it can."""
        try:
            database = self._connect_writer()
            migrate(database)
            self.unindexed = missing_indexes(database)
        except (NewerSchemaError, UnsuitableServerError) as error:
            raise SettingsError([f"database {self.where}: {error}"]) from error
        except DatabaseError as error:
            self._give_up(self._writer)
            if isinstance(error.__cause__, _AWAY):
                return str(error)
            raise SettingsError([f"database {self.where} cannot be opened: {error}"]) from error
        return ""

    def _connect(self, settings: dict[str, str]) -> PostgresDatabase:
        return PostgresDatabase(self._url, self.rows, settings)

    def _connect_leader(self) -> PostgresDatabase:
        # the server ends the session, and with it the lead, of a logger that stands still
        return self._connect({"statement_timeout": "5000", "idle_session_timeout": self._idle_ms})

    def _connect_writer(self) -> PostgresDatabase:
        if self._writer is None or self._writer.is_closed:
            if self._writer is not None:
                self._writer.close()
            # a transaction whose logger stopped in the middle holds up all others until the server ends it
            idle = {"idle_in_transaction_session_timeout": self._idle_ms}
            self._writer = self._connect({**_WRITER, **_PLANS, **idle})
        return self._writer

    def _transact(self, work: Work[ResultT] | PostgresWork[ResultT]) -> ResultT:
        database = None
        try:
            database = self._connect_writer()
            begin_turn(database, self._scale)
            result = work(database)
            database.script("COMMIT")
        except DatabaseError as error:
            self._give_up(database, leave=isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError))
            raise _failure("write", error) from error
        except BaseException:
            self._give_up(database)
            raise
        return result

    def _give_up(self, database: PostgresDatabase | None, *, leave: bool = False) -> None:
        """Roll back; close a connection that cannot, or that must be left, so that the next write opens a new one.

        A server that only reads is a replica, at least since a failover: the URL leads to the new primary by now.
        """
        self.rows.forget()
        if database is None:
            return
        try:
            if database.in_transaction:
                database.script("ROLLBACK")
        except DatabaseError:
            pass
        else:
            if not database.is_closed and not leave:
                return
        self._writer = None
        database.close()

    def _read(self, work: Work[ResultT] | PostgresWork[ResultT]) -> ResultT:
        try:
            database = self._begin_reading()
            try:
                return work(database)
            finally:
                if database.in_transaction:
                    database.script("ROLLBACK")
        except DatabaseError as error:
            raise _failure("read", error) from error

    def _begin_reading(self) -> PostgresDatabase:
        """Begin a transaction, on a new connection if the server ended the one of before."""
        database = self._reader()
        try:
            database.script(_BEGIN_READING)
        except DatabaseError:
            if not database.is_closed:
                raise
            database = self._reader()
            database.script(_BEGIN_READING)
        return database

    def _reader(self) -> PostgresDatabase:
        database: PostgresDatabase | None = getattr(self._local, "database", None)
        if database is None or database.is_closed:
            if database is not None:
                # forgotten first: the server may still be away, so that the next line fails
                self._local.database = None
                self._readers.remove(database)
                database.close()
            database = self._local.database = self._connect(_limits())
            self._readers.append(database)
        return database

    def _close(self) -> None:
        self._reading.shutdown()
        for database in self._readers:
            database.close()
        self._readers.clear()
        self._writing.shutdown()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _limits() -> dict[str, str]:
    return {"statement_timeout": str(round(QUERY_LIMIT_S * 1000))}


def _failure(action: str, error: DatabaseError) -> StorageError | QueryTooSlowError:
    cause = error.__cause__
    if isinstance(cause, asyncpg.QueryCanceledError) and action != "write":
        return QueryTooSlowError(f"the query took longer than {QUERY_LIMIT_S:g} s")
    return StorageError(action, str(error), of_data=isinstance(cause, _FAULTS_OF_DATA))
