"""The store: the one connection that writes, on a thread of its own, and read-only connections beside it.

SQLite in WAL mode lets readers go on while the writer commits. Every commit is synced to disk before events
are acknowledged to Redis (`synchronous=FULL`), so a power cut loses nothing either. Checkpoints never happen
inside a commit: `checkpoint` does them apart, most of the work on another connection.
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
from pathlib import Path
from typing import TypeVar

from services.logger.schema import NewerSchemaError, migrate
from shared.errors import KurirError, SettingsError

ResultT = TypeVar("ResultT")
Work = Callable[[sqlite3.Connection], ResultT]

BUSY_TIMEOUT_S = 5.0
LOCK_WAIT_S = 10.0
QUERY_LIMIT_S = 5.0
CHECKPOINT_BYTES = 32 * 1024 * 1024
# reading a larger file whole would keep a start waiting for seconds: it is checked beside the work
CHECK_FIRST_BYTES = 64 * 1024 * 1024
_PAGE_CACHE_KIB = 65_536
_READER_CACHE_KIB = 8_192
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REPAIR = "stop Kurir and restore a backup (kurir backup writes them), or move the file away to begin a new one"


class StorageError(KurirError):
    """The database cannot be written or read right now; `reason` is fit for health and logs."""

    def __init__(self, action: str, error: sqlite3.Error) -> None:
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        super().__init__(f"{action}: {error} ({name})")
        self.reason = f"{error} ({name})"


class QueryTooSlowError(KurirError):
    """A query was stopped because it took longer than a query may."""


class Store:
    """The SQLite file; `open` before anything else. `path` must lie on a local disk.

    `busy_s` is how long a call waits for a lock that another program holds on the file, `lock_wait_s` how long `open`
    waits for another logger to let it go.
    """

    def __init__(
        self, path: Path, readers: int = 3, busy_s: float = BUSY_TIMEOUT_S, lock_wait_s: float = LOCK_WAIT_S
    ) -> None:
        self.path = path
        self._busy_s = busy_s
        self._lock_wait_s = lock_wait_s
        self.verified = False
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._reading = ThreadPoolExecutor(readers, thread_name_prefix="db-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._lock: int | None = None

    async def open(self) -> None:
        """Lock, check, migrate; raises SettingsError with one clear line where the file cannot be used."""
        await asyncio.get_running_loop().run_in_executor(self._writing, self._open)

    async def close(self) -> None:
        """Finish the work under way and close every connection."""
        await asyncio.to_thread(self._close)

    async def write(self, work: Work[ResultT]) -> ResultT:
        """Run `work` in one transaction on the writer's thread; all or nothing.

        Raises StorageError where the disk is full, the file locked or broken; nothing was written then.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._transact, work)

    async def maintain(self, work: Work[ResultT]) -> ResultT:
        """Run `work` on the writer's thread outside a transaction; its commits may be lost in a power cut."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._maintain, work)

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Run `work` on a read-only connection, all of it on one state of the file, whatever is written meanwhile.

        Raises StorageError and QueryTooSlowError.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._query, work)

    async def checkpoint(self) -> None:
        """Move what the write-ahead log holds into the file, if it has grown.

        What `flush` could not reach is little, and the writer then finishes it, so that the log begins again at its
        start.
        """
        if self.wal_bytes() < CHECKPOINT_BYTES:
            return
        await self.flush()
        await self.maintain(_checkpoint)

    async def flush(self) -> None:
        """Sync what the write-ahead log holds and move it into the file, on a reader's thread beside the writer.

        A commit that comes meanwhile waits for the disk as long as this has much to move. Raises StorageError.
        """
        await asyncio.get_running_loop().run_in_executor(self._reading, self._flush)

    async def verify(self) -> list[str]:
        """Look at the whole file on a thread of its own; return what is wrong. Raises StorageError.

        Cancelled, it ends soon, and the thread with it.
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
            migrate(connection)
        except NewerSchemaError as error:
            raise SettingsError([f"database {self.path}: {error}"]) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            hint = f"; {_REPAIR}" if code in _CORRUPT else ""
            raise SettingsError([f"database {self.path} cannot be opened: {error}{hint}"]) from error

    def _check(self, connection: sqlite3.Connection) -> None:
        """Look at the whole file; raises SettingsError with what is wrong and what to do."""
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
            raise StorageError("integrity check", error) from error
        self.verified = not found
        return found

    def _connect_writer(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        # a log that has grown is cut when it begins again, so that its size says whether a checkpoint is due
        connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES // 2}")
        # deleted personal data is zeroed where that costs no extra write
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("PRAGMA temp_store = MEMORY")
        self._writer = connection
        return connection

    def _transact(self, work: Work[ResultT]) -> ResultT:
        connection = self._writer
        try:
            if connection is None:
                connection = self._connect_writer()
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._give_up(connection)
            raise StorageError("write", error) from error
        except BaseException:
            self._give_up(connection)
            raise
        return result

    def _give_up(self, connection: sqlite3.Connection | None) -> None:
        """Roll back; a connection that cannot even do that is dropped, and the next write opens another."""
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            connection.close()

    def _maintain(self, work: Work[ResultT]) -> ResultT:
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
            raise StorageError("maintenance", error) from error

    def _query(self, work: Work[ResultT]) -> ResultT:
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
            raise StorageError("read", error) from error
        except sqlite3.DatabaseError as error:
            raise StorageError("read", error) from error

    def _flush(self) -> None:
        connection = self._reader()
        connection.set_progress_handler(None, 0)
        try:
            _checkpoint(connection)
        except sqlite3.DatabaseError as error:
            raise StorageError("checkpoint", error) from error

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
            # opened for writing because a read-only connection cannot checkpoint, then bound to read
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


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    """Return what SQLite's quick check finds wrong."""
    found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    return [] if found == ["ok"] else found


def _lock(path: Path, wait_s: float) -> int:
    """Hold the file that says a logger owns the database; the kernel lets it go with the process."""
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
                raise SettingsError([f"another logger has {path.with_suffix('')} open; only one may"]) from None
            time.sleep(0.05)
        else:
            return descriptor


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
