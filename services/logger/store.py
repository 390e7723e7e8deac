"""The store of the log: what the logger needs of a database, and its two adapters have: SQLite and PostgreSQL.

Every work function runs in one transaction and takes a `Database`. What `write` returned from is on disk: its events
are acknowledged to Redis then, so a power cut loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from services.logger.database import ResultT, Work
from services.logger.sql import Result
from shared.errors import KurirError

LOOK_AGAIN_S = 1.0
"""How often the leading logger looks for what another one has added to a shared database."""


class StorageError(KurirError):
    """The database cannot be written or read at the moment; `reason` is the text for health and logs.

    `of_data` is whether the values are at fault, so that trying again is no use.
    """

    def __init__(self, action: str, reason: str, *, of_data: bool = False) -> None:
        super().__init__(f"{action}: {reason}")
        self.reason = reason
        self.of_data = of_data


class QueryTooSlowError(KurirError):
    """A query exceeded its time limit and was stopped."""


class Store(Protocol):
    """A database with the log's tables; call `open` first.

    `verified` is whether the whole of it was checked for damage, `unindexed` the indexes that it does not have yet,
    `shared` whether other loggers may use it too.
    """

    verified: bool
    unindexed: list[str]
    shared: bool

    @property
    def leads(self) -> bool:
        """Whether this logger has the lead."""
        ...

    @property
    def where(self) -> str:
        """Where the database is, without secrets."""
        ...

    async def open(self) -> None:
        """Prepare the database; raises SettingsError with a one-line reason if it is not usable."""
        ...

    async def close(self) -> None:
        """Finish the current work and close all connections."""
        ...

    async def lead(self) -> None:
        """Return once this logger is the one that does what only one of them may do; an earlier lead has ended."""
        ...

    async def lost(self) -> None:
        """Return once the lead is lost: another logger may have it."""
        ...

    async def write(self, work: Work[ResultT]) -> ResultT:
        """Run `work` in one transaction, one at a time. Raises StorageError; the transaction is then rolled back."""
        ...

    async def tidy(self, work: Work[ResultT]) -> tuple[ResultT, float]:
        """Run `work` as `write` does, but a power cut may undo it; return also for how many seconds it held the writer.

        Raises StorageError.
        """
        ...

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Run `work`, which only reads, on a single snapshot. Raises StorageError and QueryTooSlowError."""
        ...

    async def drop_days(self, cutoff_ms: int, stopped: Callable[[], bool]) -> int:
        """Drop whole days of messages past the cutoff, where the database has them apart; return how many went.

        What is left is deleted row by row. Raises StorageError.
        """
        ...

    async def query(self, sql: str, limit: int) -> Result:
        """Run an operator's statement, which can only read, and return at most `limit` rows.

        Raises InvalidQueryError, StorageError and QueryTooSlowError.
        """
        ...

    async def build_index(self, name: str, stopped: Callable[[], bool]) -> bool:
        """Build one of `unindexed`; return False if `stopped` returned True meanwhile. Raises StorageError."""
        ...

    async def checkpoint(self) -> None:
        """Keep what the database writes ahead small, if that is the store's task. Raises StorageError."""
        ...

    async def flush(self) -> None:
        """Do most of a checkpoint while the writer continues. Raises StorageError."""
        ...

    async def verify(self) -> list[str]:
        """Check the whole database and return the problems found. Raises StorageError."""
        ...

    async def backup(self, target: Path) -> int:
        """Write a copy of the state of this moment to a file and return its size in bytes; raises BackupError."""
        ...

    def size_bytes(self) -> int:
        """Return the size of the database."""
        ...
