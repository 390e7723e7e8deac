"""The store in a SQLite file: one writing connection on its own thread, and several read-only connections.

In WAL mode SQLite lets readers continue while the writer commits. Every commit is synced to disk (`synchronous=FULL`)
before its events are acknowledged to Redis, so a power cut loses nothing. No commit runs a checkpoint: `checkpoint`
runs them separately and does most of the work on another connection.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from services.logger.backup import write_backup
from services.logger.database import ResultT
from services.logger.later_indexes import build_index, missing_indexes
from services.logger.schema import NewerSchemaError, migrate
from services.logger.sql import Result, run_query
from services.logger.store import QueryTooSlowError, StorageError
from shared.errors import SettingsError

SqliteWork = Callable[[sqlite3.Connection], ResultT]
"""Work that may do what only SQLite can, beside all work on a `Database`."""

BUSY_TIMEOUT_S = 5.0
LOCK_WAIT_S = 10.0
QUERY_LIMIT_S = 5.0
CHECKPOINT_BYTES = 32 * 1024 * 1024
# checking a larger file, or building its indexes, would delay the start by seconds: `verify` checks it in the
# background, and the recorder builds the indexes before it writes the first event
CHECK_FIRST_BYTES = 64 * 1024 * 1024
_PAGE_CACHE_KIB = 65_536
_READER_CACHE_KIB = 8_192
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# errors about the values of a row, not about the disk or the file
_FAULTS_OF_DATA = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
_REPAIR = "stop Kurir and restore a backup made with `kurir backup`, or move the file away to start with an empty one"


class SqliteStore:
    """The SQLite file; call `open` first. `path` must be on a local disk.

    `unindexed` names the indexes that a large file does not have yet. `busy_s` is how long a call waits for a lock that
    another program holds on the file. `lock_wait_s` is how long `open` waits for another logger to close it.
    """

    def __init__(
        self, path: Path, readers: int = 3, busy_s: float = BUSY_TIMEOUT_S, lock_wait_s: float = LOCK_WAIT_S
    ) -> None:
        self.path = path
        self._busy_s = busy_s
        self._lock_wait_s = lock_wait_s
        self.verified = False
        self.unindexed: list[str] = []
        self.shared = False
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._reading = ThreadPoolExecutor(readers, thread_name_prefix="db-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._lock: int | None = None

    @property
    def leads(self) -> bool:
        """True: no other logger has the file open."""
        return True

    @property
    def where(self) -> str:
        """The file's path."""
        return str(self.path)

    async def open(self) -> None:
        """Lock, check and migrate the file; raises SettingsError with a one-line reason if it is not usable."""
        await asyncio.get_running_loop().run_in_executor(self._writing, self._open)

    async def close(self) -> None:
        """Finish the current work and close all connections."""
        await asyncio.to_thread(self._close)

    async def lead(self) -> None:
        """Return: the only logger that has the file open always leads."""

    async def lost(self) -> None:
        """Never return: the lock on the file is held until the end."""
        await asyncio.Event().wait()

    async def write(self, work: SqliteWork[ResultT]) -> ResultT:
        """Run `work` in one transaction on the writer's thread.

        Raises StorageError if the disk is full, or the file is locked or broken; the transaction is then rolled back.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._transact, work)

    async def maintain(self, work: SqliteWork[ResultT]) -> ResultT:
        """Run `work` on the writer's thread outside a transaction; a power cut may lose its commits."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._maintain, work)

    async def tidy(self, work: SqliteWork[ResultT]) -> tuple[ResultT, float]:
        """Run `work` in one transaction that a power cut may undo; return also for how many seconds it held the writer.

        Raises StorageError.
        """

        def transact(connection: sqlite3.Connection) -> tuple[ResultT, float]:
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
            return result, time.perf_counter() - began

        return await self.maintain(transact)

    async def read(self, work: SqliteWork[ResultT]) -> ResultT:
        """Run `work` on a read-only connection in one transaction: it sees a single snapshot of the file.

        Raises StorageError and QueryTooSlowError.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._query, work)

    async def drop_days(self, cutoff_ms: int, stopped: Callable[[], bool]) -> int:
        """Return 0: a file has all days in one table."""
        del cutoff_ms, stopped
        return 0

    async def query(self, sql: str, limit: int) -> Result:
        """Run an operator's statement, which can only read; raises InvalidQueryError too."""
        return await self.read(lambda connection: run_query(connection, sql, limit))

    async def build_index(self, name: str, stopped: Callable[[], bool]) -> bool:
        """Build one of `unindexed`, unless `stopped` returns True meanwhile; return True. Raises StorageError."""
        return await self.maintain(partial(build_index, name=name, stopped=stopped))

    async def backup(self, target: Path) -> int:
        """Copy the file while the writer continues; return the copy's size in bytes. Raises BackupError."""
        abandoned = threading.Event()
        try:
            return await asyncio.to_thread(write_backup, self.path, target, abandoned.is_set)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    async def checkpoint(self) -> None:
        """Checkpoint the write-ahead log into the database file, if it has grown.

        `flush` moves most of it; the writer then moves the few pages that are left, so that the log restarts from its
        beginning.
        """
        if self.wal_bytes() < CHECKPOINT_BYTES:
            return
        await self.flush()
        await self.maintain(_checkpoint)

    async def flush(self) -> None:
        """Checkpoint the write-ahead log on a reader's thread, while the writer continues.

        A commit made during a long checkpoint has to wait for the disk. Raises StorageError.
        """
        await asyncio.get_running_loop().run_in_executor(self._reading, self._flush)

    async def verify(self) -> list[str]:
        """Check the whole file on a separate thread and return the problems found. Raises StorageError.

        After a cancellation the check and its thread end soon.
        """
        abandoned = threading.Event()
        try:
            return await asyncio.to_thread(self._verify, abandoned.is_set)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        return _size(self.path.with_name(self.path.name + "-wal"))

    def size_bytes(self) -> int:
        """Return the size of the database with its write-ahead log."""
        return _size(self.path) + self.wal_bytes()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path.with_name(self.path.name + ".lock"), self._lock_wait_s)
        try:
            fresh = _size(self.path) == 0
            connection = self._connect_writer()
            if not fresh and self.size_bytes() <= CHECK_FIRST_BYTES:
                self._check(connection)
            self.verified = fresh or self.verified
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            # of the whole process: set while there is no reader. /tmp of a container is small, or in memory
            connection.execute(f"PRAGMA temp_store_directory = '{_quoted(self.path.parent)}'")
            migrate(connection)
            self.unindexed = missing_indexes(connection)
            while self.unindexed and self.size_bytes() <= CHECK_FIRST_BYTES:
                build_index(connection, self.unindexed.pop())
        except NewerSchemaError as error:
            raise SettingsError([f"database {self.path}: {error}"]) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            hint = f"; {_REPAIR}" if code in _CORRUPT else ""
            raise SettingsError([f"database {self.path} cannot be opened: {error}{hint}"]) from error

    def _check(self, connection: sqlite3.Connection) -> None:
        """Check the whole file; raises SettingsError with the problems and what to do."""
        found = _quick_check(connection)
        if found:
            raise SettingsError([f"database {self.path} is damaged ({'; '.join(found)}): {_REPAIR}"])
        self.verified = True

    def _verify(self, is_abandoned: Callable[[], bool]) -> list[str]:
        try:
            with closing(sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None)) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.set_progress_handler(is_abandoned, 10_000)
                found = _quick_check(connection)
        except sqlite3.DatabaseError as error:
            raise _failure("integrity check", error) from error
        self.verified = not found
        return found

    def _connect_writer(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        # truncate a grown log when it restarts, so that its size shows whether a checkpoint is due
        connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES // 2}")
        # overwrite deleted personal data with zeros where that costs no extra write
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("PRAGMA temp_store = MEMORY")
        self._writer = connection
        return connection

    def _transact(self, work: SqliteWork[ResultT]) -> ResultT:
        connection = self._writer
        try:
            if connection is None:
                connection = self._connect_writer()
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._give_up(connection)
            raise _failure("write", error) from error
        except BaseException:
            self._give_up(connection)
            raise
        return result

    def _give_up(self, connection: sqlite3.Connection | None) -> None:
        """Roll back; close a connection that cannot roll back, so that the next write opens a new one."""
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            connection.close()

    def _maintain(self, work: SqliteWork[ResultT]) -> ResultT:
        try:
            connection = self._writer or self._connect_writer()
            connection.execute("PRAGMA synchronous = NORMAL")
            try:
                return work(connection)
            finally:
                self._give_up(connection)
                if self._writer is not None:
                    connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            raise _failure("maintenance", error) from error

    def _query(self, work: SqliteWork[ResultT]) -> ResultT:
        connection = self._reader()
        deadline = time.monotonic() + QUERY_LIMIT_S
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        try:
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise QueryTooSlowError(f"the query took longer than {QUERY_LIMIT_S:g} s") from error
            raise _failure("read", error) from error
        except sqlite3.DatabaseError as error:
            raise _failure("read", error) from error

    def _flush(self) -> None:
        connection = self._reader()
        connection.set_progress_handler(None, 0)
        try:
            _checkpoint(connection)
        except sqlite3.DatabaseError as error:
            raise _failure("checkpoint", error) from error

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode=rw",
                uri=True,
                timeout=self._busy_s,
                isolation_level=None,
                check_same_thread=False,
            )
            # opened read-write because a read-only connection cannot checkpoint, then restricted to reading
            connection.execute("PRAGMA query_only = ON")
            connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    def _close(self) -> None:
        self._reading.shutdown()
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._writing.submit(self._close_writer).result()
        self._writing.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _failure(action: str, error: sqlite3.Error) -> StorageError:
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    return StorageError(action, f"{error} ({name})", of_data=isinstance(error, _FAULTS_OF_DATA))


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("'", "''")


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    """Return the problems that SQLite's quick check finds."""
    found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    return [] if found == ["ok"] else found


def _lock(path: Path, wait_s: float) -> int:
    """Lock the file that marks the database as in use; the kernel releases the lock when the process ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingsError([f"cannot write {path}: {error.strerror}"]) from error
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise SettingsError([f"another logger has {path.with_suffix('')} open; only one can use it"]) from None
            time.sleep(0.05)
        else:
            return descriptor


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
