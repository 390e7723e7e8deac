"""Retention by partitions: a day whose messages are all past the period is dropped, however many they are.

What must stay (messages that have not ended, or ended later) is copied into new tables, which then take the place of
the day's partitions; those are detached and renamed, in the same transaction, with the day's counts. The dead letters
of their messages go in a second one. Then nothing needs the detached tables: they are dropped beside the writers, for
whom deleting the files of a large day would take too long. The next run finishes what a crash left.

Detaching needs a moment without readers of the table. It waits for it only briefly, because new readers wait behind
it, and tries again; only changes of the catalogue follow, because nobody reads until the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Protocol

import asyncpg

from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.schema import BY_DAY, LAST_CHANGE, attach_day, changed_after
from services.logger.store import QueryTooSlowError, StorageError
from shared.blasts import lowest_blast_id
from shared.clock import rfc3339
from shared.jobs import TERMINAL
from shared.logs import get_logger

log = get_logger()
MOST_KEPT = 20_000
"""The most messages that are moved; a day with more is left to the deletion row by row."""
_LOCK_WAIT = "200ms"
# reading a whole day: beside the writers, and within their turn
_READ_WITHIN, _TURN_WITHIN = "50s", "12s"
_TRIES, _PAUSE_S = 50, 0.5
_DAY_MS = 86_400_000
_ENDED = sorted(TERMINAL)
# these statements consist of this module's own words; {day} is a number. All statuses but the terminal ones, as ranges
# of the index on the status: the messages of a whole day would be read for NOT IN
_OPEN = " OR ".join((
    f"status < '{_ENDED[0]}'",
    *(f"(status > '{one}' AND status < '{following}')" for one, following in pairwise(_ENDED)),
    f"status > '{_ENDED[-1]}'",
))  # fmt: skip
_KEPT = f"({LAST_CHANGE} >= $1 AND {{late}}) OR {_OPEN}"
_OLD_DAYS = "SELECT day FROM message_days WHERE day > 0 AND day < $1 ORDER BY day"
_EVERY = "SELECT coalesce(sum(n), 0)::bigint FROM message_day_counts WHERE day = $1"
_COUNT_KEPT = f"SELECT count(*) FROM (SELECT 1 FROM message_logs_{{day}} WHERE {_KEPT} LIMIT $2) AS kept"  # noqa: S608
_FIND_KEPT = f"SELECT id, job_id FROM message_logs_{{day}} WHERE {_KEPT}"  # noqa: S608
_KEEP = "INSERT INTO kept_message_logs_{day} SELECT * FROM message_logs_{day} WHERE id = ANY($1::bigint[])"
_KEEP_OF_JOBS = """
INSERT INTO kept_{table}_{day} SELECT * FROM {table}_{day} WHERE day = {day} AND job_id = ANY($1::text[])
"""
_RECOUNT = """
INSERT INTO message_day_counts (day, channel, status, n)
SELECT {day}, channel, status, count(*) FROM message_logs_{day} GROUP BY channel, status
"""
_RECOUNT_DELIVERIES = """
INSERT INTO delivery_day_counts (day, channel, delivery, n)
SELECT {day}, channel, delivery, count(*) FROM message_logs_{day} WHERE delivery IS NOT NULL GROUP BY channel, delivery
"""
_GONE = """
SELECT substring(tablename FROM 'gone_message_logs_([0-9]+)')::bigint FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'gone\\_message\\_logs\\_%' ORDER BY 1
"""
# by the range of the day's job ids: a day has far fewer letters than messages
_LETTERS = """
DELETE FROM dead_letters AS d
WHERE d.job_id >= $1 AND d.job_id < $2 AND EXISTS (SELECT 1 FROM gone_message_logs_{day} AS g WHERE g.job_id = d.job_id)
"""
_UNLESS_KEPT = " AND NOT EXISTS (SELECT 1 FROM message_logs_{day} AS m WHERE m.job_id = d.job_id)"


class Transactions(Protocol):
    """The part of the store that dropping needs."""

    def read(self, work: Callable[[PostgresDatabase], list[int]], /) -> Awaitable[list[int]]:
        """Run work that reads."""
        ...

    def write(self, work: Callable[[PostgresDatabase], int], /) -> Awaitable[int]:
        """Run work in a transaction."""
        ...

    def apart(self, work: Callable[[PostgresDatabase], None], /) -> Awaitable[None]:
        """Run work in a transaction beside the writers."""
        ...


async def drop_days(store: Transactions, cutoff_ms: int, stopped: Callable[[], bool]) -> int:
    """Drop the days before the cutoff; return how many messages went with them.

    A day that fails is logged and left to the deletion row by row, and to the next run. Raises StorageError if the
    days cannot be read.
    """
    await _finish_all(store, stopped)
    unfinished = set(await store.read(_gone))
    dropped = 0
    for day in await store.read(lambda database: [row[0] for row in database.run(_OLD_DAYS, cutoff_ms // _DAY_MS)]):
        if day not in unfinished and not stopped():
            dropped += await _drop(store, day, cutoff_ms, stopped)
    await _finish_all(store, stopped)
    return dropped


async def _finish_all(store: Transactions, stopped: Callable[[], bool]) -> None:
    for day in await store.read(_gone):
        if not stopped():
            await _finish(store, day, stopped)


async def _finish(store: Transactions, day: int, stopped: Callable[[], bool]) -> None:
    """Delete the dead letters of a detached day, and then its tables."""
    if await _patiently(store, day, lambda database: _delete_letters(database, day), stopped) is None:
        return
    try:
        await store.apart(lambda database: _drop_tables(database, day))
    except StorageError as error:
        log.warning(
            "the tables of a dropped day are still there; the next run tries again", day=day, reason=error.reason
        )


async def _drop(store: Transactions, day: int, cutoff_ms: int, stopped: Callable[[], bool]) -> int:
    """Detach a day, unless nothing would go or too much would stay; return how many messages went."""
    try:
        every, kept = await store.read(lambda database: _count(database, day, cutoff_ms))
    except (StorageError, QueryTooSlowError) as error:
        log.warning("a day's rows were not counted; they are deleted one by one", day=day, reason=str(error))
        return 0
    if kept > MOST_KEPT or (kept and kept == every):
        return 0
    return await _patiently(store, day, lambda database: _detach(database, day, cutoff_ms), stopped) or 0


async def _patiently(
    store: Transactions, day: int, work: Callable[[PostgresDatabase], int], stopped: Callable[[], bool]
) -> int | None:
    """Run work as soon as no reader is in the way; return None if one always was, or if it failed."""
    for _ in range(_TRIES):
        try:
            return await store.write(work)
        except StorageError as error:
            driver = error.__cause__.__cause__ if error.__cause__ else None
            if not isinstance(driver, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError) or stopped():
                log.warning("a day was not dropped; the next run tries again", day=day, reason=error.reason)
                return None
        await asyncio.sleep(_PAUSE_S)
    log.warning("a day was not dropped, because queries always read it; the next run tries again", day=day)
    return None


def _gone(database: PostgresDatabase) -> list[int]:
    """Return the days that are detached and not deleted yet."""
    return [row[0] for row in database.run(_GONE)]


def _count(database: PostgresDatabase, day: int, cutoff_ms: int) -> list[int]:
    """Return how many messages a day has, and how many of them have to stay."""
    # the planner has no statistics of a day's few open and late messages
    database.script(f"SET LOCAL statement_timeout = '{_READ_WITHIN}'; SET LOCAL enable_seqscan = off")
    every = database.run(_EVERY, day).fetchone()[0]
    kept = database.run(
        _COUNT_KEPT.format(day=day, late=changed_after(day)), rfc3339(cutoff_ms), MOST_KEPT + 1
    ).fetchone()[0]
    return [int(every), int(kept)]


def _detach(database: PostgresDatabase, day: int, cutoff_ms: int) -> int:
    """Detach a day's partitions and let copies of what stays take their place; return how many messages went."""
    database.script(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'; SET LOCAL statement_timeout = '{_TURN_WITHIN}'")
    # the copies would be in vain while a query is in the way
    database.script(f"SAVEPOINT free; LOCK TABLE ONLY {', ONLY '.join(BY_DAY)}; ROLLBACK TO SAVEPOINT free")
    kept = _copy_kept(database, day, cutoff_ms)
    every = database.run(_EVERY, day).fetchone()[0]
    for table in BY_DAY:
        database.script(f"ALTER TABLE {table} DETACH PARTITION {table}_{day}")
        database.script(f"ALTER TABLE {table}_{day} RENAME TO gone_{table}_{day}")
        if kept:
            database.script(f"ALTER TABLE kept_{table}_{day} RENAME TO {table}_{day}")
            attach_day(database, table, day)
    for counts in ("message_day_counts", "delivery_day_counts"):
        database.run(f"DELETE FROM {counts} WHERE day = $1", day)  # noqa: S608 -- own names
    if kept:
        database.script(_RECOUNT.format(day=day))
        database.script(_RECOUNT_DELIVERIES.format(day=day))
    else:
        database.run("DELETE FROM message_days WHERE day = $1", day)
    database.forget()
    return int(every) - kept


def _copy_kept(database: PostgresDatabase, day: int, cutoff_ms: int) -> int:
    """Copy what stays of a day into tables like its partitions, with their indexes; return how many messages stay.

    They are looked for again, within the turn: one that was sent again since they were counted has to stay too.
    """
    found = database.run(_FIND_KEPT.format(day=day, late=changed_after(day)), rfc3339(cutoff_ms)).fetchall()
    if not found:
        return 0
    for table in BY_DAY:
        database.script(f"CREATE TABLE kept_{table}_{day} (LIKE {table}_{day} INCLUDING DEFAULTS INCLUDING INDEXES)")
    database.run(_KEEP.format(day=day), [row_id for row_id, _ in found])
    for table in BY_DAY[1:]:
        database.run(_KEEP_OF_JOBS.format(table=table, day=day), [job_id for _, job_id in found])
    return len(found)


def _delete_letters(database: PostgresDatabase, day: int) -> int:
    """Delete the dead letters of a detached day, but those of messages that stay; return how many went."""
    has_kept = database.run("SELECT to_regclass($1)::text", f"message_logs_{day}").fetchone()[0]
    letters = (_LETTERS + (_UNLESS_KEPT if has_kept else "")).format(day=day)
    return database.run(letters, lowest_blast_id(day * _DAY_MS), lowest_blast_id((day + 1) * _DAY_MS)).rowcount


def _drop_tables(database: PostgresDatabase, day: int) -> None:
    for table in BY_DAY:
        database.script(f"DROP TABLE IF EXISTS gone_{table}_{day}")
