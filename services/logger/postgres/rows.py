"""The statements on the path of every event in PostgreSQL: one for each table and day, with arrays of values, or COPY.

Rows are sorted wherever two transactions could meet, and the database's writers take turns (`store`), so what is read
here is true until the transaction ends. A day's partitions are addressed by their own names: no statement has to find
or lock those of other days.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, TypeVar, cast

import msgspec

from services.logger.database import Database, DatabaseError
from services.logger.folding import JobChange
from services.logger.merging import INSERTED, Known, Merged, Tally
from services.logger.postgres import statements as sql
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.days import DAY_BITS, day_of, day_of_blast
from services.logger.postgres.schema import make_day
from services.logger.postgres.translating import clean
from services.logger.row_writing import Alike, Deliveries, OldJob, Together, metadata_of
from shared.clock import rfc3339
from shared.events import ApiRequest, EventBatch, SystemEvent

ItemT = TypeVar("ItemT")
KeyT = TypeVar("KeyT", bound=tuple[Any, ...])
FEW = 50
"""Up to this number of updates are given as arrays: one round trip instead of three."""
FIRST_PART, GROWTH = 250, 4
"""Changes in the first part that is written, and how many times larger each part is than the one before."""
# as JSON has it; a text that spells it is looked at too
_NUL = rb"\u0000"
_ENCODER = msgspec.json.Encoder()


class PostgresRowWriter:
    """The row writer of PostgreSQL; it remembers which days have partitions until `forget`."""

    def __init__(self) -> None:
        self._days: set[int] = set()

    def forget(self) -> None:
        """Forget the days: a transaction was rolled back, or another logger dropped one."""
        self._days.clear()

    def note_batches(
        self, connection: Database, batches: Sequence[EventBatch], now_s: int, _producers: dict[str, int]
    ) -> list[bool]:
        """Record batches as applied; return for each whether it is new.

        Producers are not remembered: another logger's retention may have deleted one.
        """
        if not batches:
            return []
        database = _own(connection)
        names = sorted({clean(batch.producer) for batch in batches})
        numbers: dict[str, int] = dict(database.run(sql.PRODUCERS, names).fetchall())
        if missing := [name for name in names if name not in numbers]:
            numbers |= dict(database.run(sql.NEW_PRODUCERS, missing).fetchall())
        keys = [(numbers[clean(batch.producer)], batch.sequence) for batch in batches]
        new = set(database.run(sql.APPLIED, *_columns(keys, 2), now_s).fetchall())
        found = []
        for key in keys:
            found.append(key in new)
            new.discard(key)
        return found

    def find_known(self, connection: Database, job_ids: Sequence[str]) -> Iterator[Known]:
        """Yield the existing rows of jobs."""
        database = _own(connection)
        for day, some in _by(job_ids, day_of):
            self._need(database, day)
            yield from starmap(Known, database.run(sql.KNOWN.format(day=day), list(some)))

    def parts(self, changes: Sequence[JobChange]) -> Iterator[Sequence[JobChange]]:
        """Yield ever larger parts: the server is at work on one while the next is merged."""
        start, size = 0, FIRST_PART
        while start < len(changes):
            yield changes[start : start + size]
            start, size = start + size, size * GROWTH

    def write_jobs(self, connection: Database, merged: Merged) -> None:
        """Write the rows of jobs, their dead letters, and the bounds of the ids of each minute."""
        database = _own(connection)
        _widen(database, "created_minutes", merged.predated)
        self._insert(database, merged)
        self._update(database, merged.updates)
        for day, completions in _by(merged.completions, lambda row: int(row[-1]) >> DAY_BITS):
            database.run(sql.COMPLETE.format(day=day), *_columns(_clean(completions), len(sql.COMPLETED) + 1))
        for day, attempts in _by(merged.attempts, lambda row: int(row[-1]) >> DAY_BITS):
            database.run(sql.ATTEMPTS.format(day=day), *_columns(attempts, 2))
        if merged.settled:
            database.run(sql.SETTLED, [job_id for (job_id,) in merged.settled])
        letters = {row[0]: row for row in merged.letters}
        if letters:
            database.run(sql.LETTERS, *_columns(_clean(letters.values()), len(sql.LETTER)))

    def _insert(self, database: PostgresDatabase, merged: Merged) -> None:
        """Add new rows; the bounds of their minutes come first, since the rows may be under way after this."""
        pairs = zip(_clean(merged.inserts), merged.created, strict=True)
        for day, some in _by(pairs, lambda pair: day_of(pair[0][0])):
            self._need(database, day)
            first = database.run(sql.RESERVE, day, len(some)).fetchone()[0]
            _widen(database, "created_minutes", [(minute, first + n) for n, (_, (minute, _)) in enumerate(some)])
            rows = [(first + n, *row) for n, (row, _) in enumerate(some)]
            database.copy(f"message_logs_{day}", ("id", *INSERTED), rows)

    def _update(self, database: PostgresDatabase, updates: Sequence[tuple[Any, ...]]) -> None:
        """Bring rows to their new states: many by COPY, which takes the logger a fifth of the time of arrays."""
        rows = _clean(updates)
        if len(rows) <= FEW:
            for day, some in _by(rows, lambda row: int(row[-1]) >> DAY_BITS):
                database.run(sql.UPDATE.format(day=day), *_columns(some, len(sql.UPDATED) + 1))
            return
        if not database.in_transaction:
            raise DatabaseError("many updates are written within a transaction, which has not begun")
        days = sorted({row[-1] >> DAY_BITS for row in rows})
        database.script(sql.GIVEN_UPDATES)
        database.copy("given_updates", (*sql.UPDATED, "id"), rows)
        for day in days:
            database.start(sql.UPDATE_MANY.format(day=day))

    def end_together(self, connection: Database, together: Together, was: str) -> int:
        """End the messages that have this status in this run; return how many."""
        database, day = _own(connection), day_of_blast(together.blast_id)
        self._need(database, day)
        _, job_ids, status, error_class, message, run, at, rank = together
        values = (status, clean(message), at, clean(error_class), rank, list(job_ids), was, run)
        return database.run(sql.END_TOGETHER.format(day=day), *values).rowcount

    def write_tally(self, connection: Database, tally: Tally) -> None:
        """Change the counts; those of rows follow from those of blasts, whose ids have the day."""
        database = _own(connection)
        days: Counter[tuple[int, str, str]] = Counter()
        for (blast_id, channel, status), n in tally.blasts.items():
            days[day_of_blast(blast_id), channel, status] += n
        _add(database, sql.ADD_DAYS, days)
        _add(database, sql.ADD_TOTALS, tally.totals)
        _add(database, sql.ADD_BLASTS, tally.blasts)
        if minutes := sorted((*key, *counts) for key, counts in tally.minutes.items()):
            database.run(sql.MINUTES, *_columns(minutes, 8))

    def write_attempts(
        self, connection: Database, attempts: Iterable[tuple[Any, ...]], errors: Mapping[tuple[int, str, str], int]
    ) -> None:
        """Write attempts, and count errors by day, channel and class; of two reports of one attempt the later wins."""
        database = _own(connection)
        latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for row in attempts:
            before = latest.get(row[:4])
            if before is None or (row[9], row[4]) > (before[9], before[4]):
                latest[row[:4]] = row
        for day, some in _by(latest.values(), lambda row: day_of(row[0])):
            self._need(database, day)
            database.run(sql.ATTEMPT.format(day=day), *_columns(_clean(some), 11), day)
        _add(database, sql.ADD_ERRORS, errors)

    def write_receipts(self, connection: Database, alike: Mapping[Alike, Sequence[str]]) -> None:
        """Add the rows of new receipts: of each the jobs that it is about."""
        database = _own(connection)
        rows = [(job_id, *like) for (_, *like), jobs in alike.items() for job_id in jobs]
        for day, some in _by(rows, lambda row: day_of(str(row[0]))):
            self._need(database, day)
            database.copy(f"message_receipts_{day}", (*sql.RECEIPT, "day"), _clean([(*row, day) for row in some]))

    def write_deliveries(self, connection: Database, deliveries: Deliveries) -> None:
        """Write the deliveries of messages, and change their counts."""
        database = _own(connection)
        updates = [(kind, at, row_id) for (kind, at), ids in deliveries.updates.items() for row_id in ids]
        for day, some in _by(updates, lambda row: row[2] >> DAY_BITS):
            database.run(sql.DELIVERY.format(day=day), *_columns(some, 3))
        days: Counter[tuple[int, str, str]] = Counter()
        for (blast_id, channel, delivery), n in deliveries.counts.items():
            days[day_of_blast(blast_id), channel, delivery] += n
        _add(database, sql.ADD_DELIVERY_DAYS, days)
        _add(database, sql.ADD_OF_BLASTS, deliveries.counts)

    def drop_jobs(self, connection: Database, jobs: Sequence[OldJob]) -> None:
        """Delete the rows of messages and what belongs to them, and change the counts."""
        database = _own(connection)
        for day, some in _by(jobs, lambda job: job.row_id >> DAY_BITS):
            names = [job.job_id for job in some]
            database.run(sql.DROP.format(day=day), [job.row_id for job in some])
            for statement in sql.DROP_OF_JOBS:
                database.run(statement.format(day=day), names)
            _add(database, sql.ADD_DAYS, _minus((day, job.channel, job.status) for job in some))
            reported = _minus((day, job.channel, job.delivery) for job in some if job.delivery)
            _add(database, sql.ADD_DELIVERY_DAYS, reported)

    def write_requests(self, connection: Database, requests: Iterable[ApiRequest]) -> None:
        """Add requests to the API."""
        database, every = _own(connection), list(requests)
        rows = [
            (one.endpoint, one.method, one.ip_address, one.body, one.status, one.duration_ms, one.error or None,
             rfc3339(one.at_ms), one.request_id, one.api_key)
            for one in every
        ]  # fmt: skip
        ids = _append(database, "api_logs", sql.REQUEST, rows)
        minutes: dict[int, list[int]] = {}
        for one in every:
            counts = minutes.setdefault(one.at_ms // 60_000, [0, 0, 0, 0, 0])
            added = (1, 400 <= one.status < 500, one.status >= 500, one.duration_ms)
            counts[:4] = [before + n for before, n in zip(counts, added, strict=False)]
            counts[4] = max(counts[4], one.duration_ms)
        if minutes:
            values = sorted((minute, *counts) for minute, counts in minutes.items())
            database.run(sql.API_MINUTES, *_columns(values, 6))
        _widen(database, "request_minutes", [(one.at_ms // 60_000, row) for one, row in zip(every, ids, strict=True)])

    def write_system(self, connection: Database, events: Iterable[SystemEvent]) -> None:
        """Add events of services."""
        database, every = _own(connection), list(events)
        rows = [(one.level, one.message, metadata_of(one), rfc3339(one.at_ms), one.service) for one in every]
        ids = _append(database, "system_logs", sql.SYSTEM, rows)
        _widen(database, "system_minutes", [(one.at_ms // 60_000, row) for one, row in zip(every, ids, strict=True)])

    def _need(self, database: PostgresDatabase, day: int) -> None:
        """Make a day's partitions, if it has none yet."""
        if day not in self._days:
            if database.run(sql.HAS_DAY, day).fetchone() is None:
                make_day(database, day)
            self._days.add(day)


def _own(connection: Database) -> PostgresDatabase:
    return cast("PostgresDatabase", connection)


def _by(items: Iterable[ItemT], day: Callable[[ItemT], int]) -> Iterator[tuple[int, list[ItemT]]]:
    """Yield the items of each day, the earliest first."""
    groups: defaultdict[int, list[ItemT]] = defaultdict(list)
    for item in items:
        groups[day(item)].append(item)
    yield from sorted(groups.items())


def _clean(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return rows as PostgreSQL takes them; nearly always none has a NUL, and looking at each value takes long."""
    every = [tuple(row) for row in rows]
    try:
        if _NUL not in _ENCODER.encode(every):
            return every
    except UnicodeEncodeError:  # the driver reports it
        pass
    return [tuple(map(clean, row)) for row in every]


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return the values of rows by column."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _minus(keys: Iterable[KeyT]) -> dict[KeyT, int]:
    return {key: -n for key, n in Counter(keys).items()}


def _add(database: PostgresDatabase, statement: str, counts: Mapping[KeyT, int]) -> None:
    """Add to counts, in the order of their keys."""
    if rows := sorted((*key, n) for key, n in counts.items() if n):
        database.run(statement, *_columns(_clean(rows), len(rows[0])))


def _append(
    database: PostgresDatabase, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> list[int]:
    """Add rows to a table, in their order; return their ids."""
    if not rows:
        return []
    ids = [row[0] for row in database.run(sql.IDS, table, len(rows))]
    database.copy(table, ("id", *columns), _clean([(row_id, *row) for row_id, row in zip(ids, rows, strict=True)]))
    return ids


def _widen(database: PostgresDatabase, table: str, rows: Iterable[tuple[int, int]]) -> None:
    """Widen the bounds of the ids of minutes."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for minute, row_id in rows:
        first[minute] = min(row_id, first.get(minute, row_id))
        last[minute] = max(row_id, last.get(minute, row_id))
    if first:
        values = sorted((minute, low, last[minute]) for minute, low in first.items())
        database.run(sql.WIDEN.format(table=table), *_columns(values, 3))
