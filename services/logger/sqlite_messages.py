"""The rows of messages in SQLite: as few statements as possible, and as few values as possible to bind.

Most columns have one value in all rows that a transaction adds or changes, or are NULL in all of them. Binding a value
takes the driver longer than it takes SQLite to copy it to a row, and binding a NULL, of which it looks for an adapter,
twice as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from services.logger.database import Database
from services.logger.merging import INSERTED, UPDATED

# without a default: an upsert has to name them
_REQUIRED = ("job_id", "channel", "recipient_name", "template_id", "status")
# OR FAIL: an error rolls the transaction back anyway, and a statement that undoes its own rows copies each page first
_INSERT_INTO = "INSERT OR FAIL INTO message_logs"
_INSERT = f"{_INSERT_INTO} ({', '.join(INSERTED)}) VALUES ({', '.join('?' * len(INSERTED))})"
# one statement for many rows takes half the time: AUTOINCREMENT updates its counter once per statement, not per row
_INSERTED_TOGETHER = (500, 50, 5)
# and opens the table and its indexes once
_UPDATED_TOGETHER = (200, 20)


class _Given(NamedTuple):
    """Which columns of some rows have one value (`shared`), only NULLs, or several values (`own`)."""

    shared: tuple[int, ...]
    nulls: tuple[int, ...]
    own: tuple[int, ...]


def insert_messages(connection: Database, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows; each is a value for every column of `INSERTED`."""
    for some in _groups(rows, _INSERTED_TOGETHER):
        if len(some) < _INSERTED_TOGETHER[-1]:
            connection.executemany(_INSERT, some)
            continue
        given, values = _given_in(some)
        connection.execute(_insert_many(given, len(some)), values)


def update_messages(connection: Database, rows: Sequence[tuple[Any, ...]]) -> None:
    """Update rows to a new state; each is a value for every column of `UPDATED`, then the id of the row.

    The ids must have been read in the same transaction.
    """
    for some in _groups(rows, _UPDATED_TOGETHER):
        if len(some) < _UPDATED_TOGETHER[-1]:
            columns, few = _without_nulls(some)
            connection.executemany(_update(columns), few)
            continue
        given, values = _given_in(some)
        connection.execute(_update_many(given, len(some)), values)


def _groups(rows: Sequence[tuple[Any, ...]], sizes: Sequence[int]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Yield rows in groups of these sizes, from the largest on, then those that are left if there are any."""
    start = 0
    for size in sizes:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size
    if start < len(rows):
        yield rows[start:]


def _given_in(rows: Sequence[tuple[Any, ...]]) -> tuple[_Given, tuple[Any, ...]]:
    """Return what is given in rows, and the values to bind: the shared ones, then each row's own."""
    columns = list(zip(*rows, strict=True))
    alike = [at for at, values in enumerate(columns) if values.count(values[0]) == len(rows)]
    shared = tuple(at for at in alike if columns[at][0] is not None)
    nulls = tuple(at for at in alike if columns[at][0] is None)
    own = tuple(at for at in range(len(columns)) if at not in alike)
    values = chain.from_iterable(zip(*[columns[at] for at in own], strict=True))
    return _Given(shared, nulls, own), (*[columns[at][0] for at in shared], *values)


def _without_nulls(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[int, ...], Iterable[tuple[Any, ...]]]:
    """Return which columns are given in any of the rows, and the rows with only these."""
    columns = list(zip(*rows, strict=True))
    given = tuple(at for at, values in enumerate(columns) if values.count(None) < len(rows))
    return given, zip(*[columns[at] for at in given], strict=True)


@lru_cache(64)
def _insert_many(given: _Given, rows: int) -> str:
    names = ", ".join(INSERTED[at] for at in (*given.shared, *given.own))
    marks, row = "?, " * len(given.shared), f"({', '.join('?' * len(given.own))})"
    return f"{_INSERT_INTO} ({names}) SELECT {marks}own.* FROM (VALUES {', '.join([row] * rows)}) AS own"  # noqa: S608 -- own names


@lru_cache(64)
def _update_many(given: _Given, rows: int) -> str:
    """Return an upsert, which needs no table of the new values, as `UPDATE … FROM` does.

    Each row is there, since its id was read in this transaction, so what a new row would need is never written.
    """
    names = [*[UPDATED[at] for at in given.own[:-1]], "id"]
    needed = [name for name in _REQUIRED if name not in names]
    # the shared values have the first numbers, and come after the rows
    first, width = len(given.shared) + 1, len(names)
    starts = range(first, first + rows * width, width)
    marks = [
        ", ".join([*[f"?{number}" for number in range(start, start + width)], *["''"] * len(needed)])
        for start in starts
    ]
    changes = {at: f"?{number}" for number, at in enumerate(given.shared, 1)} | dict.fromkeys(given.nulls, "NULL")
    changes |= {at: f"excluded.{UPDATED[at]}" for at in given.own[:-1]}
    return (
        f"{_INSERT_INTO} ({', '.join([*names, *needed])}) VALUES {', '.join(f'({row})' for row in marks)}"
        f" ON CONFLICT (id) DO UPDATE SET {_setting(changes)}"
    )


@lru_cache(64)
def _update(given: tuple[int, ...]) -> str:
    changes = {at: "?" if at in given else "NULL" for at in range(len(UPDATED))}
    return f"UPDATE message_logs SET {_setting(changes)} WHERE id = ?"  # noqa: S608 -- this module's own words


def _setting(changes: Mapping[int, str]) -> str:
    """Return what a row is set to: a message keeps its subject if the change has none."""
    *others, subject = [changes[at] for at in range(len(UPDATED))]
    settings = [f"{name} = {value}" for name, value in zip(UPDATED, others, strict=False)]
    return ", ".join([*settings, f"subject = coalesce({subject}, subject)"])
