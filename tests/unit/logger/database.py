"""An in-memory database, and event batches that are written to it as the recorder does."""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from services.logger.later_indexes import LATER_INDEXES, build_index
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.schema import migrate
from services.logger.writing import Applied, EventWriter
from shared.blasts import Blast, pack_blast
from shared.events import Begun, BlastAccepted, Ended, Event, EventBatch, Queued, QueuedRecipient, Sent
from shared.jobs import Job, Recipient, pack_job
from shared.queue.event_log import EventEntry
from shared.receipts import Receipt, ReceiptKind
from shared.templates import Template

START_MS = 1_790_000_000_000
TEMPLATE = Template(id="reminder", name="Reminder", channels=["email", "whatsapp"], subject="s", text="x")
# the database of an example is emptied by the example itself
ORDERS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
FEWER_ORDERS = settings(ORDERS, max_examples=12)
_entry_ids = itertools.count(1)


def entry(number: int, *events: Event, producer: str = "p", channel: str = "email") -> EventEntry:
    """Return a batch as the event log returns it."""
    return EventEntry(f"{{{channel}}}:events", f"{next(_entry_ids)}-0", EventBatch(producer, number, list(events)))


def blast(blast_id: str = "b", *, total: int = 1, channel: str = "email", **changes: Any) -> Blast:
    """Return a blast of one channel."""
    fields: dict[str, Any] = {
        "blast_id": blast_id, "template": TEMPLATE, "channels": [channel], "lane": "normal",
        "created_at_ms": START_MS, "totals": {channel: total}, "total_recipients": total,
    }  # fmt: skip
    return Blast(**{**fields, **changes})


def accepted(one: Blast) -> BlastAccepted:
    return BlastAccepted(START_MS, one.blast_id, pack_blast(one))


def job(index: int = 0, blast_id: str = "b", *, run: int = 1, channel: str = "email") -> Job:
    address = f"user{index}@example.com" if channel == "email" else f"62812000{index:05d}"
    return Job(blast_id, index, channel, "normal", Recipient(address, f"User {index}"), START_MS, run=run)


def queued(indexes: Iterable[int] = (0,), blast_id: str = "b", *, run: int = 1, at: int = 0) -> Queued:
    recipients = [QueuedRecipient(index, f"user{index}@example.com", f"User {index}", "") for index in indexes]
    return Queued(START_MS + at, blast_id, "email", TEMPLATE.id, TEMPLATE.name, recipients, "queued", run)


def begun(index: int = 0, blast_id: str = "b", *, run: int = 1, attempt: int = 1, at: int = 1) -> Begun:
    return begun_together([index], blast_id, run=run, attempt=attempt, at=at)


def begun_together(
    indexes: Iterable[int], blast_id: str = "b", *, run: int = 1, attempt: int = 1, at: int = 1
) -> Begun:
    jobs = " ".join(f"{blast_id}:{index}:email" for index in indexes)
    return Begun(START_MS + at, run, attempt, "s", jobs)


def sent(
    index: int = 0, blast_id: str = "b", *, run: int = 1, attempt: int = 1, at: int = 2, late: bool = False
) -> Sent:
    job_id = f"{blast_id}:{index}:email"
    return Sent(START_MS + at, job_id, run, attempt, f"<{index}.{run}@x>", "250 ok", 7, "Hello", late)


def queued_phones(indexes: Iterable[int] = (0,), blast_id: str = "w") -> Queued:
    recipients = [QueuedRecipient(index, f"62812000{index:05d}", f"User {index}", "") for index in indexes]
    return Queued(START_MS, blast_id, "whatsapp", TEMPLATE.id, TEMPLATE.name, recipients)


def sent_phone(index: int = 0, blast_id: str = "w", *, at: int = 2) -> Sent:
    return Sent(START_MS + at, f"{blast_id}:{index}:whatsapp", 1, 1, f"wamid.{blast_id}.{index}", "{}", 7)


def receipt(kind: ReceiptKind, at: float = 1.0, *, source: str = "ses", **fields: Any) -> Receipt:
    """Return a trusted receipt of what happened `at` seconds after the start."""
    return Receipt(kind, source, START_MS / 1000 + at, **{"trusted": True, **fields})


def failed(
    index: int = 0, blast_id: str = "b", *, run: int = 1, attempt: int = 1, at: int = 2, error_class: str = "permanent"
) -> Ended:
    letter = pack_job(job(index, blast_id, run=run))
    job_id = f"{blast_id}:{index}:email"
    return Ended(START_MS + at, job_id, run, attempt, "failed", error_class, "550", "no such user", 5, letter)


class Database:
    """An empty database with the logger's schema: SQLite's in memory, or that of a PostgreSQL connection."""

    def __init__(self, postgres: PostgresDatabase | None = None) -> None:
        self.is_postgres = postgres is not None
        # tests run statements of both databases on it, and some that only one of them has
        self.connection: Any = postgres or _in_memory()
        self.writer = EventWriter()
        if postgres is not None:
            empty(postgres)

    def forget(self) -> None:
        """Forget what is known of the database, as after a rollback."""
        self.writer.forget()
        if self.is_postgres:
            self.connection.forget()

    def apply(self, *entries: EventEntry) -> Applied:
        """Write entries in one transaction."""
        return self.apply_all(entries)

    def apply_all(self, entries: Sequence[EventEntry], following: Sequence[EventEntry] = ()) -> Applied:
        """Write entries in one transaction; those of the next one may be known."""
        self.connection.execute("BEGIN")
        try:
            applied = self.writer.apply(self.connection, entries, following)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return applied

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query."""
        found: list[tuple[Any, ...]] = self.connection.execute(query, values).fetchall()
        return found

    def one(self, query: str, *values: Any) -> Any:
        """Return the first column of the first row."""
        return self.connection.execute(query, values).fetchone()[0]

    def counts_agree(self) -> None:
        """Check that the kept counts match the rows."""
        by_status = {(c, s): n for c, s, n in self.rows(
            "SELECT channel, status, count(*) FROM message_logs GROUP BY channel, status")}  # fmt: skip
        kept = {(c, s): n for c, s, n in self.rows("SELECT channel, status, n FROM message_counts") if n}
        assert kept == by_status
        by_blast = {(b, s): n for b, s, n in self.rows(
            "SELECT blast_id, status, count(*) FROM message_logs GROUP BY blast_id, status")}  # fmt: skip
        kept_blasts = {(b, s): n for b, s, n in self.rows("SELECT blast_id, status, n FROM blast_counts") if n}
        assert kept_blasts == by_blast
        reported = self.rows("SELECT blast_id, channel, delivery, count(*) FROM message_logs"
                             " WHERE delivery IS NOT NULL GROUP BY 1, 2, 3")  # fmt: skip
        assert sorted(self.rows("SELECT * FROM blast_deliveries WHERE n <> 0")) == sorted(reported)
        by_delivery: Counter[tuple[str, str]] = Counter()
        for _, channel, delivery, n in reported:
            by_delivery[channel, delivery] += n
        assert {(c, d): n for c, d, n in self.rows("SELECT * FROM delivery_counts WHERE n <> 0")} == by_delivery
        waiting = dict(self.rows("SELECT channel, count(*) FROM early_receipts GROUP BY channel"))
        assert dict(self.rows("SELECT channel, n FROM early_counts WHERE state = 'waiting' AND n <> 0")) == waiting

    def watch(self) -> list[str]:
        """Return a list to which each statement is added that runs from now on."""
        queries: list[str] = []
        if isinstance(self.connection, sqlite3.Connection):
            self.connection.set_trace_callback(queries.append)
        else:
            self.connection = _Watched(self.connection, queries)
        return queries

    def close(self) -> None:
        """Close the connection, unless other tests use it too."""
        if not self.is_postgres:
            self.connection.close()


class _Watched:
    """A connection that notes the statements of the log."""

    def __init__(self, connection: PostgresDatabase, queries: list[str]) -> None:
        self._connection = connection
        self._queries = queries

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        self._queries.append(sql)
        return self._connection.execute(sql, parameters)


MakeDatabase = Callable[[], Database]


def _in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    migrate(connection)
    for name in LATER_INDEXES:
        build_index(connection, name)
    return connection


_EMPTY = """
DO $$ DECLARE name text; counter text; has boolean; BEGIN
    FOR name IN SELECT tablename FROM pg_tables
        WHERE schemaname = 'kurir' AND tablename NOT IN ('schema_version', 'lead') LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', name) INTO has;
        IF has THEN EXECUTE format('DELETE FROM %I', name); END IF;
    END LOOP;
    FOR counter IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'kurir' AND last_value IS NOT NULL LOOP
        EXECUTE format('ALTER SEQUENCE %I RESTART', counter);
    END LOOP;
END $$
"""


def empty(postgres: PostgresDatabase) -> None:
    """Delete all rows, and let the ids begin again."""
    if postgres.in_transaction:
        postgres.script("ROLLBACK")
    postgres.script(_EMPTY)
    postgres.forget()
