"""The database as the logger's work sees it: statements and rows, whichever adapter of `store` provides them.

Work functions take a `Database` and run within one transaction of the store. A connection of sqlite3 is one as it is.
Statements have SQLite's placeholders; what else both databases understand is in `docs/logs.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from shared.errors import KurirError

ResultT = TypeVar("ResultT")


class DatabaseError(KurirError):
    """An adapter's error in a statement, where it has no exception of its own that is one; the store translates it."""


class Rows(Protocol):
    """What a statement returned."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""
        ...


class Database(Protocol):
    """Runs statements within a transaction."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Run a statement that returns no rows once for each of the parameters."""
        ...


Work = Callable[[Database], ResultT]
