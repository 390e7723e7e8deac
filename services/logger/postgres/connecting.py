"""A connection to PostgreSQL for synchronous work: asyncpg on an event loop of the thread that uses it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import asyncpg
import uvloop

from services.logger.database import DatabaseError
from services.logger.postgres.translating import translate
from services.logger.row_writing import RowWriter

ResultT = TypeVar("ResultT")
SCHEMA = "kurir"
_MOST_PREPARED = 400
_CONNECT_S, _CLOSE_S = 10.0, 5.0
SILENT_S = 90.0
"""How long a server may be silent: longer than its own limits, of 60 s at most, which it reports."""
_OF_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.exceptions.InternalClientError)
_NONE: Mapping[str, str] = MappingProxyType({})
_SETTINGS = {
    "application_name": "kurir logger",
    "search_path": SCHEMA,
    "timezone": "UTC",
    # a table of the session is made only if it is not there, which the server would note each time
    "client_min_messages": "warning",
    # whatever the server's default is: what is read in one's turn must not be older than the turn
    "default_transaction_isolation": "read committed",
    "jit": "off",
    # planning over all days takes longer than most queries; a prepared plan leaves out days when it starts
    "plan_cache_mode": "force_generic_plan",
    "idle_in_transaction_session_timeout": "60000",
    # a machine that is gone says nothing, and its session may hold what others wait for
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


class ForgetfulRows(RowWriter, Protocol):
    """A row writer that remembers something of the database."""

    def forget(self) -> None:
        """Forget it: a transaction was rolled back."""
        ...


class PostgresRows:
    """The rows that a statement returned, or how many it changed."""

    def __init__(self, rows: Sequence[Any], status: str) -> None:
        self._rows = iter(rows)
        self._status = status

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        last = self._status.rpartition(" ")[2]
        return int(last) if last.isdecimal() else -1

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""
        row = next(self._rows, None)
        return None if row is None else tuple(row)

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        return [tuple(row) for row in self._rows]

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""
        return map(tuple, self._rows)


class PostgresDatabase:
    """A connection with its own event loop; use it from one thread at a time.

    A server that is silent for `silent_s` is taken for lost. The driver's errors are the causes of the DatabaseErrors
    that it raises.
    """

    def __init__(
        self,
        url: str,
        rows: ForgetfulRows,
        settings: Mapping[str, str] = MappingProxyType({}),
        silent_s: float = SILENT_S,
    ) -> None:
        self.rows = rows
        self._loop = uvloop.new_event_loop()
        self._prepared: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._started: asyncio.Task[object] | None = None
        self._connection: Any = None
        try:
            self._connection = self._run(_connect(url, silent_s, {**_SETTINGS, **settings}))
        except BaseException:
            self._loop.close()
            raise

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun; not on a connection that was lost, where the driver cannot say."""
        return not self.is_closed and bool(self._connection.is_in_transaction())

    @property
    def is_closed(self) -> bool:
        """Whether the connection was lost."""
        return bool(self._connection.is_closed())

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> PostgresRows:
        """Run one statement of the log, which is translated."""
        translated = translate(sql)
        return self._run(self._fetch(translated.sql, translated.values(parameters)))

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> PostgresRows:
        """Run a statement that returns no rows once for each of the parameters."""
        translated = translate(sql)
        values = [translated.values(one) for one in parameters]
        if values:
            self._run(self._connection.executemany(translated.sql, values))
        return PostgresRows((), "")

    def run(self, sql: str, *values: Any) -> PostgresRows:
        """Run a statement in PostgreSQL's own words."""
        return self._run(self._fetch(sql, values))

    def start(self, sql: str, *values: Any) -> None:
        """Send a statement and return while the server is at work; its answer is not needed.

        The next call waits until it has ended, and raises its error: COMMIT too, which is then not sent.
        """
        if sql in self._prepared:
            self._start(self._fetch(sql, values))
        else:
            self.run(sql, *values)

    def forget(self) -> None:
        """Forget what is known of the database's days: a transaction was rolled back."""
        self.rows.forget()

    def script(self, sql: str) -> None:
        """Run statements without parameters and without answers."""
        self._run(self._connection.execute(sql))

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add rows to a table by COPY; to a temporary one, or one of the log's. Like `start`, it only sends them."""
        if rows:
            sent = asyncio.Event()
            records = _noting_end(rows, sent)
            self._start(self._connection.copy_records_to_table(table, columns=columns, records=records), sent)

    def peek(self, sql: str, most: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a statement that is not kept; return the names of its columns and its first rows."""
        return self._run(self._peek(sql, most))

    def stream(self, sql: str, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a statement, `size` at a time, within a transaction."""
        cursor = self._run(self._open_cursor(sql))
        while rows := self._run(cursor.fetch(size)):
            yield [tuple(row) for row in rows]

    def close(self) -> None:
        """Close the connection and its loop."""
        if self._loop.is_closed():
            return
        try:
            self._run(self._connection.close(timeout=_CLOSE_S))
        except DatabaseError:
            self._connection.terminate()
        finally:
            self._loop.close()

    async def _fetch(self, sql: str, values: Sequence[Any]) -> PostgresRows:
        if self.is_closed:  # a prepared statement would fail in the driver's own words
            raise asyncpg.InterfaceError("the connection is closed")
        prepared = self._prepared.get(sql)
        if prepared is None:
            if len(self._prepared) >= _MOST_PREPARED:
                # those of days that are gone, among others; the driver closes them
                self._prepared.clear()
            # with a name: the driver would prepare one without a name again each time
            name = f"kurir{next(self._numbers)}"
            prepared = self._prepared[sql] = await self._connection.prepare(sql, name=name)
        rows = await prepared.fetch(*values)
        return PostgresRows(rows, prepared.get_statusmsg() or "")

    async def _open_cursor(self, sql: str) -> Any:
        return await (await self._connection.prepare(sql)).cursor()

    async def _peek(self, sql: str, most: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        prepared = await self._connection.prepare(sql)
        cursor = await prepared.cursor()
        rows = await cursor.fetch(most)
        return [one.name for one in prepared.get_attributes()], [tuple(row) for row in rows]

    def _start(self, work: Coroutine[Any, Any, object], sent: asyncio.Event | None = None) -> None:
        """Begin with a statement; return once it was sent: after one step, or when `sent` is set."""
        self._await_started(work)
        self._started = self._loop.create_task(work)
        if sent is not None:
            self._started.add_done_callback(lambda _: sent.set())
        self._loop.run_until_complete(asyncio.sleep(0) if sent is None else sent.wait())

    def _run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        self._await_started(work)
        return self._complete(work)

    def _await_started(self, following: Coroutine[Any, Any, object]) -> None:
        """Wait for the statement that was started last, before the following one, which is given up if it failed."""
        started, self._started = self._started, None
        if started is not None:
            try:
                self._complete(started)
            except BaseException:
                following.close()
                raise

    def _complete(self, work: Awaitable[ResultT]) -> ResultT:
        try:
            return self._loop.run_until_complete(work)
        except TimeoutError as error:
            if self._connection is not None:
                self._connection.terminate()
            raise DatabaseError("the server is silent") from error
        except (*_OF_DRIVER, OSError, ValueError) as error:
            raise DatabaseError(f"{error} ({type(error).__name__})") from error


def _noting_end(rows: Sequence[Sequence[Any]], end: asyncio.Event) -> Iterator[Sequence[Any]]:
    yield from rows
    end.set()


async def _connect(url: str, silent_s: float, settings: dict[str, str]) -> Any:
    connection = await asyncpg.connect(
        url, timeout=_CONNECT_S, server_settings=settings, statement_cache_size=0, command_timeout=silent_s
    )
    # sums of bigint are numeric there: they are whole numbers, and a float where they are not
    await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    return connection


def _number(text: str) -> int | float:
    return float(text) if "." in text or "e" in text.lower() or text == "NaN" else int(text)
