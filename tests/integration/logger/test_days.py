"""Retention in PostgreSQL: days of messages go as a whole, except what has to stay, beside readers and a writer."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from services.ingest.blasts.submission import new_blast_id
from services.logger.filters import STATUSES
from services.logger.postgres import dropping
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.days import day_of_blast
from services.logger.postgres.schema import BY_DAY, changed_after
from services.logger.postgres.store import PostgresStore
from services.logger.retention import Retention
from services.logger.writing import EventWriter
from shared.blasts import lowest_blast_id, time_of_blast_id
from shared.clock import SystemClock, rfc3339
from shared.events import Receipts
from shared.jobs import TERMINAL
from shared.queue.event_log import EventEntry
from tests.awake import awake
from tests.postgres_servers import PostgresServer
from tests.servers import PATIENCE_S
from tests.unit.logger.database import START_MS, accepted, begun, blast, entry, failed, queued, receipt, sent

# accepted in this order, some days apart
OLDER, OLD, NEW = (new_blast_id(START_MS + days * 86_400_000) for days in (0, 1, 30))


class _At(SystemClock):
    """A clock that stands."""

    def __init__(self, ms: int) -> None:
        self._ms = ms

    def now_ms(self) -> int:
        return self._ms


@pytest.fixture
async def store(postgres_server: PostgresServer) -> AsyncIterator[PostgresStore]:
    # the server ends a transaction that is idle for ten seconds, and a test may be idle for as long
    made = PostgresStore(postgres_server.make_database(), readers=2, scale=12.0)
    await made.open()
    yield made
    await made.close()


def _at(blast_id: str) -> int:
    """Return when a blast was accepted, in ms after the tests' start."""
    found = time_of_blast_id(blast_id)
    assert found is not None
    return found - START_MS


async def _write(store: PostgresStore, *entries: EventEntry) -> None:
    writer = EventWriter()
    await store.write(lambda database: writer.apply(database, entries))


async def _rows(store: PostgresStore, sql: str) -> list[tuple[object, ...]]:
    return await store.read(lambda database: database.run(sql).fetchall())


def _story(blast_id: str, first: int) -> list[EventEntry]:
    """Return a blast of four jobs: sent, failed twice, and one that has not ended."""
    at = _at(blast_id)
    return [
        entry(first, accepted(blast(blast_id, total=4)), queued(range(4), blast_id, at=at)),
        entry(first + 1, *(begun(index, blast_id, at=at + 1) for index in range(3))),
        entry(first + 2, sent(0, blast_id, at=at + 2), *(failed(index, blast_id, at=at + 2) for index in (1, 2))),
    ]


async def test_a_day_goes_with_all_that_belongs_to_it_but_what_has_not_ended(store: PostgresStore) -> None:
    """Attempts, letters and counts go with the messages; an open message stays, and ends later as it would have."""
    for place, blast_id in enumerate((OLDER, OLD, NEW)):
        await _write(store, *_story(blast_id, 10 * place))
    await _write(store, entry(40, sent(3, OLDER, at=_at(OLDER) + 3)))
    days = [day_of_blast(one) for one in (OLDER, OLD, NEW)]
    assert await _rows(store, "SELECT day FROM message_days ORDER BY day") == [(day,) for day in days]
    now_ms = (days[1] + 31) * 86_400_000
    purged = await Retention(store, 30, lambda: None, _At(now_ms)).purge()
    assert purged.rows["message_logs"] == 7
    assert await _rows(store, "SELECT job_id, status FROM message_logs ORDER BY id") == [
        (f"{OLD}:3:email", "queued"), (f"{NEW}:0:email", "sent"), (f"{NEW}:1:email", "failed"),
        (f"{NEW}:2:email", "failed"), (f"{NEW}:3:email", "queued"),
    ]  # fmt: skip
    for table in ("dead_letters", "message_attempts"):
        assert await _rows(store, f"SELECT job_id FROM {table} ORDER BY job_id") == [
            (f"{NEW}:1:email",), (f"{NEW}:2:email",)
        ]  # fmt: skip
    tables = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'gone%'"
    assert await _rows(store, tables) == []
    assert await _rows(store, "SELECT day FROM message_days ORDER BY day") == [(days[1],), (days[2],)]
    await _counts_agree_by_status(store)
    await _write(store, entry(50, sent(3, OLD, at=_at(OLD) + 9)))
    assert await _rows(store, f"SELECT status FROM message_logs WHERE blast_id = '{OLD}'") == [("sent",)]


async def _counts_agree_by_status(store: PostgresStore) -> None:
    kept = await _rows(store, "SELECT channel, status, n FROM message_counts WHERE n <> 0 ORDER BY 1, 2")
    assert kept == await _rows(store, "SELECT channel, status, count(*) FROM message_logs GROUP BY 1, 2 ORDER BY 1, 2")


async def test_a_message_that_ended_later_keeps_what_belongs_to_it(store: PostgresStore) -> None:
    """Its attempts, its receipts and its dead letter stay, and those of the others go."""
    await _write(store, *_story(OLD, 0))
    at = _at(OLD) + 2 * 86_400_000
    bounces = [receipt("bounced", at / 1000 + n, job_id=f"{OLD}:{n}:email", severity="hard") for n in (0, 2)]
    await _write(store, entry(60, failed(2, OLD, attempt=2, at=at)), entry(61, Receipts(bounces)))
    assert await store.drop_days((day_of_blast(OLD) + 1) * 86_400_000, lambda: False) == 2
    for table, kept in (("message_attempts", 2), ("message_receipts", 1), ("dead_letters", 1)):
        assert await _rows(store, f"SELECT job_id FROM {table}") == kept * [(f"{OLD}:2:email",)], table


async def test_keeping_a_message_reads_only_its_own_rows(store: PostgresStore) -> None:
    """However many attempts a day has, those of each kept message are found by their index."""
    await _write(store, *_story(OLD, 0))
    day = day_of_blast(OLD)

    def explain(database: PostgresDatabase) -> str:
        for table in BY_DAY[1:]:
            database.script(f"CREATE TABLE kept_{table}_{day} (LIKE {table} INCLUDING ALL)")
        many = f"SELECT j, 1, 1, 0, '', '', '', '', 0, 0, 0, {day} FROM generate_series(1, 20000) AS j"
        database.script(f"INSERT INTO message_attempts_{day} {many}; ANALYZE message_attempts_{day}")
        sql = dropping._KEEP_OF_JOBS.format(table="message_attempts", day=day)
        return "\n".join(row[0] for row in database.run(f"EXPLAIN {sql}", [f"{OLD}:{n}:email" for n in range(4)]))

    plan = await store.write(explain)
    assert f"Index Cond: ((day = {day}) AND (job_id = ANY (" in plan, plan


def _plan_of_kept(day: int) -> Callable[[PostgresDatabase], str]:
    def explain(database: PostgresDatabase) -> str:
        sql = dropping._FIND_KEPT.format(day=day, late=changed_after(day))
        return "\n".join(row[0] for row in database.run(f"EXPLAIN {sql}", rfc3339((day + 2) * 86_400_000)))

    return explain


async def test_what_stays_of_a_day_is_found_without_reading_the_day(store: PostgresStore) -> None:
    """The writers wait meanwhile: indexes on the status and on late changes find the few that stay."""
    await _write(store, *_story(OLD, 0))
    plan = await store.write(_plan_of_kept(day_of_blast(OLD)))
    assert "Seq Scan" not in plan, plan
    assert re.search(r"Index Cond: \(\(GREATEST\(created_at, updated_at\) >= ", plan), plan
    assert "Index Cond: (status < 'cancelled'" in plan, plan


async def test_a_day_of_an_earlier_version_is_read_to_find_what_stays(store: PostgresStore) -> None:
    """Its partition has no index on late changes; the same messages stay."""
    await _write(store, *_story(OLD, 0))
    day = day_of_blast(OLD)
    await store.write(lambda database: database.script(f"DROP INDEX message_logs_{day}_greatest_idx"))
    assert "Seq Scan" in await store.write(_plan_of_kept(day))
    await _write(store, entry(60, failed(2, OLD, attempt=2, at=_at(OLD) + 2 * 86_400_000)))
    assert await store.drop_days((day + 1) * 86_400_000, lambda: False) == 2
    left = await _rows(store, "SELECT job_id FROM message_logs ORDER BY id")
    assert left == [(f"{OLD}:2:email",), (f"{OLD}:3:email",)]


async def test_any_status_that_is_not_terminal_keeps_a_message(store: PostgresStore) -> None:
    """The ranges between the terminal statuses leave out these alone, also statuses that do not exist yet."""
    statuses = [*STATUSES, "", "a", "cancelled2", "delivering", "fail", "sending", "zzz"]
    sql = f"SELECT status FROM unnest($1::text[]) AS given (status) WHERE {dropping._OPEN}"
    found = await store.read(lambda database: database.run(sql, statuses).fetchall())
    assert [status for (status,) in found] == [one for one in statuses if one not in TERMINAL]


async def test_the_letters_of_a_day_are_found_by_their_range(store: PostgresStore) -> None:
    """A day with hundreds of thousands of messages has few letters: looking each message up would hold the turn."""
    await _write(store, *_story(OLD, 0))
    day = day_of_blast(OLD)

    def explain(database: PostgresDatabase) -> str:
        database.script(f"CREATE TABLE gone_message_logs_{day} (LIKE message_logs_{day} INCLUDING ALL)")
        sql = (dropping._LETTERS + dropping._UNLESS_KEPT).format(day=day)
        bounds = (lowest_blast_id(_at(OLD) + START_MS), lowest_blast_id(_at(NEW) + START_MS))
        return "\n".join(row[0] for row in database.run(f"EXPLAIN {sql}", *bounds))

    plan = await store.write(explain)
    assert re.search(r"Index Cond: \(\(job_id >= .*\) AND \(job_id < ", plan), plan
    assert plan.count("Index Cond: (job_id = d.job_id)") == 2, plan
    assert "Seq Scan" not in plan, plan


async def test_a_day_with_many_messages_to_keep_is_left_to_the_deletion_by_rows(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition stays, the messages that ended go."""
    monkeypatch.setattr(dropping, "MOST_KEPT", 0)
    await _write(store, *_story(OLD, 0))
    now_ms = (day_of_blast(OLD) + 31) * 86_400_000
    purged = await Retention(store, 30, lambda: None, _At(now_ms)).purge()
    assert purged.rows["message_logs"] == 3
    assert await _rows(store, "SELECT job_id FROM message_logs") == [(f"{OLD}:3:email",)]
    await _counts_agree_by_status(store)


async def test_a_reader_in_the_way_only_delays_the_drop(store: PostgresStore) -> None:
    """Detaching waits for a moment at a time, so that other readers never wait long behind it."""
    await _write(store, *_story(OLD, 0))
    reading, done = threading.Event(), threading.Event()

    def read(database: object) -> None:
        database.run("SELECT count(*) FROM message_logs").fetchone()  # type: ignore[attr-defined]
        reading.set()
        assert done.wait(50)  # the server ends a reader that is idle for a minute

    slow = asyncio.create_task(store.read(read))
    assert await asyncio.to_thread(reading.wait, PATIENCE_S)
    now_ms = (day_of_blast(OLD) + 31) * 86_400_000
    dropping_days = asyncio.create_task(store.drop_days(now_ms - 30 * 86_400_000, lambda: False))
    longest_s = 0.0
    async with awake() as spent:
        for _ in range(5):
            began_s = spent.seconds
            await _rows(store, "SELECT count(*) FROM message_logs")
            longest_s = max(longest_s, spent.seconds - began_s)
            await asyncio.sleep(0.1)
    assert not dropping_days.done()
    done.set()
    await slow
    assert await dropping_days == 3
    assert longest_s < 5.0  # not as long as the reader in the way


class _DiedError(BaseException):
    """The logger is gone: nothing of it handles this."""


class _Dying:
    """A store whose logger dies at one step of a transaction's work, just before its commit or just after it."""

    def __init__(self, store: PostgresStore, step: str, *, committed: bool) -> None:
        self.read = store.read
        self._store, self._step, self._committed = store, step, committed

    async def write(self, work: Callable[[Any], Any]) -> Any:
        """Run work, and die if it is the one."""
        return await self._run(self._store.write, work)

    async def apart(self, work: Callable[[Any], Any]) -> Any:
        """Run work beside the writers, and die if it is the one."""
        return await self._run(self._store.apart, work)

    async def _run(self, run: Callable[[Callable[[Any], Any]], Awaitable[Any]], work: Callable[[Any], Any]) -> Any:
        dies = self._step in work.__code__.co_names

        def dying(database: Any) -> Any:
            done = work(database)
            if dies and not self._committed:
                raise _DiedError
            return done

        done = await run(dying)
        if dies:
            raise _DiedError
        return done


@pytest.mark.parametrize("committed", [False, True], ids=["uncommitted", "committed"])
@pytest.mark.parametrize("step", ["_detach", "_delete_letters", "_drop_tables"])
async def test_a_crash_while_days_are_dropped_is_made_good(store: PostgresStore, step: str, committed: bool) -> None:
    """The next run ends what was begun: both days go but for their open messages, once, and nothing is left over."""
    for place, blast_id in enumerate((OLDER, OLD)):
        await _write(store, *_story(blast_id, 10 * place))
    cutoff_ms = (day_of_blast(OLD) + 1) * 86_400_000
    with pytest.raises(_DiedError):
        await dropping.drop_days(_Dying(store, step, committed=committed), cutoff_ms, lambda: False)
    before = await _rows(store, "SELECT count(*) FROM message_logs")
    dropped = await store.drop_days(cutoff_ms, lambda: False)
    open_ones = await _rows(store, "SELECT job_id, status FROM message_logs ORDER BY id")
    assert open_ones == [(f"{one}:3:email", "queued") for one in (OLDER, OLD)]
    assert dropped == int(str(before[0][0])) - 2
    assert await _rows(store, "SELECT job_id FROM dead_letters UNION SELECT job_id FROM message_attempts") == []
    assert await _rows(store, "SELECT tablename FROM pg_tables WHERE tablename ~ '^(gone|kept)_'") == []
    await _counts_agree_by_status(store)
    await _write(store, *(entry(40 + n, sent(3, one, at=_at(one) + 9)) for n, one in enumerate((OLDER, OLD))))
    assert await store.drop_days(cutoff_ms, lambda: False) == 2


async def test_a_day_is_deleted_beside_the_writers(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may take long to delete: events are written meanwhile."""
    await _write(store, *_story(OLD, 0), entry(5, sent(3, OLD, at=_at(OLD) + 3)))
    drop, loop = dropping._drop_tables, asyncio.get_running_loop()

    def dropped(database: PostgresDatabase, day: int) -> None:
        drop(database, day)
        asyncio.run_coroutine_threadsafe(_write(store, *_story(NEW, 10)), loop).result(60)

    monkeypatch.setattr(dropping, "_drop_tables", dropped)
    assert await store.drop_days((day_of_blast(OLD) + 1) * 86_400_000, lambda: False) == 4
    assert await _rows(store, "SELECT DISTINCT blast_id FROM message_logs") == [(NEW,)]
    assert await _rows(store, "SELECT tablename FROM pg_tables WHERE tablename ~ '^(gone|kept)_'") == []


async def test_a_stop_between_the_steps_does_not_end_retention(store: PostgresStore) -> None:
    """A day that was detached, and not deleted yet, has an open message that ends; it is dropped again."""
    for place, blast_id in enumerate((OLDER, OLD)):
        await _write(store, *_story(blast_id, 10 * place))
    cutoff_ms = (day_of_blast(OLD) + 1) * 86_400_000
    asked = iter([False])
    assert await store.drop_days(cutoff_ms, lambda: next(asked, True)) == 3
    await _write(store, entry(20, sent(3, OLDER, at=_at(OLDER) + 9)))
    assert await store.drop_days(cutoff_ms, lambda: False) == 4
    assert await _rows(store, "SELECT job_id FROM message_logs") == [(f"{OLD}:3:email",)]
    assert await _rows(store, "SELECT tablename FROM pg_tables WHERE tablename ~ '^(gone|kept)_'") == []


async def test_a_day_that_fails_does_not_hold_up_the_others(store: PostgresStore) -> None:
    """Whatever is wrong with its tables: the next day goes, and what follows in the retention too."""
    for place, blast_id in enumerate((OLDER, OLD)):
        await _write(store, *_story(blast_id, 10 * place))
    await store.write(
        lambda database: database.script(f"CREATE VIEW gone_message_attempts_{day_of_blast(OLDER)} AS SELECT 1")
    )
    assert await store.drop_days((day_of_blast(OLD) + 1) * 86_400_000, lambda: False) == 3
    left = await _rows(store, "SELECT blast_id, count(*) FROM message_logs GROUP BY blast_id ORDER BY count(*)")
    assert left == [(OLD, 1), (OLDER, 4)]


async def test_a_day_of_which_nothing_would_go_is_left_alone(store: PostgresStore) -> None:
    """Its partition stays the same table: open messages are not moved again each day."""
    await _write(store, *_story(OLD, 0))
    cutoff_ms = (day_of_blast(OLD) + 1) * 86_400_000
    assert await store.drop_days(cutoff_ms, lambda: False) == 3
    identity = f"SELECT 'message_logs_{day_of_blast(OLD)}'::regclass::oid::bigint"
    before = await _rows(store, identity)
    assert await store.drop_days(cutoff_ms, lambda: False) == 0
    assert await _rows(store, identity) == before


async def test_what_stays_of_a_day_is_copied_before_readers_are_kept_out(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query reads the table while the day's rows are copied; the copies have the attempts of their messages alone."""
    await _write(store, *_story(OLD, 0), entry(5, begun(3, OLD, at=_at(OLD) + 5)))
    copy, seen = dropping._copy_kept, []
    loop = asyncio.get_running_loop()

    def copied(database: Any, day: int, cutoff_ms: int) -> int:
        kept = copy(database, day, cutoff_ms)
        reading = asyncio.run_coroutine_threadsafe(_rows(store, "SELECT count(*) FROM message_logs"), loop)
        seen.append((reading.result(60), database.run(_LOCKS, "message_logs").fetchone()[0]))
        return kept

    monkeypatch.setattr(dropping, "_copy_kept", copied)
    assert await store.drop_days((day_of_blast(OLD) + 1) * 86_400_000, lambda: False) == 3
    assert seen == [([(4,)], 0)]


_LOCKS = "SELECT count(*) FROM pg_locks WHERE relation = $1::regclass AND mode = 'AccessExclusiveLock'"


async def test_a_kept_day_has_the_indexes_of_any_other(store: PostgresStore) -> None:
    """Also after it was replaced twice: a query over all days uses them, and a job id stays unique."""
    await _write(store, *_story(OLD, 0))
    cutoff_ms = (day_of_blast(OLD) + 1) * 86_400_000
    tables = f"SELECT count(*) FROM pg_indexes WHERE tablename = 'message_logs_{day_of_blast(OLD)}'"
    before = await _rows(store, tables)
    await store.drop_days(cutoff_ms, lambda: False)
    assert await _rows(store, tables) == before
    await _write(store, entry(9, queued((7, 8), OLD, at=_at(OLD)), sent(7, OLD, at=_at(OLD) + 1)))
    assert await store.drop_days(cutoff_ms, lambda: False) == 1
    assert await _rows(store, tables) == before
    found = await _rows(store, "SELECT job_id FROM message_logs ORDER BY id")
    assert found == [(f"{OLD}:3:email",), (f"{OLD}:8:email",)]
