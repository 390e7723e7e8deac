"""Opening the log in PostgreSQL, and what the store makes of the server's errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest

from services.logger.database import Database
from services.logger.postgres.connecting import PostgresDatabase
from services.logger.postgres.schema import UnsuitableServerError, check_server
from services.logger.postgres.store import QUERY_LIMIT_S, PostgresStore
from services.logger.settings import read_settings
from services.logger.store import QueryTooSlowError, StorageError
from shared.errors import SettingsError
from tests.postgres_servers import PostgresServer
from tests.servers import PATIENCE_S, wait_for

PATIENT = 12.0
END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_TAKE_LOCK = "SELECT pg_advisory_xact_lock($1)"
_LOCKS = "SELECT nullif(count(*), 1) FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid IN (1, 2)"


@pytest.fixture
async def store(postgres_server: PostgresServer) -> AsyncIterator[PostgresStore]:
    """A store with an empty log."""
    made = PostgresStore(postgres_server.make_database(), readers=1)
    await made.open()
    yield made
    await made.close()


async def _works(run: Callable[..., Awaitable[Any]]) -> bool:
    try:
        return bool(await run(lambda database: database.execute("SELECT 1").fetchone()) == (1,))
    except StorageError:
        return False


async def _refusal(url: str) -> str:
    store = PostgresStore(url, readers=1)
    try:
        with pytest.raises(SettingsError) as refused:
            await store.open()
    finally:
        await store.close()
    (problem,) = refused.value.problems
    assert problem.startswith("database postgresql://127.0.0.1:")
    assert "secret" not in problem
    return str(problem)


async def test_a_database_that_cannot_be_used_is_refused_with_the_reason(postgres_server: PostgresServer) -> None:
    """One line names the database, without the password, and what is wrong with it."""
    server = postgres_server
    server.make_user("app", "secret")
    name = server.make_database().rpartition("/")[2]
    here = f"127.0.0.1:{server.port}"
    assert 'password authentication failed for user "app"' in await _refusal(f"postgresql://app:secret2@{here}/{name}")
    assert 'database "nowhere" does not exist' in await _refusal(server.url("nowhere"))
    # only the owner of a database may make a schema in it
    assert "permission denied" in await _refusal(f"postgresql://app:secret@{here}/{name}")
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert "its encoding is LATIN1: make a database with ENCODING 'UTF8'" in await _refusal(server.url("latin"))


async def test_a_schema_of_a_newer_version_is_refused(postgres_server: PostgresServer) -> None:
    """An older Kurir does not touch it."""
    url = postgres_server.make_database()
    store = PostgresStore(url, readers=1)
    await store.open()
    await store.close()
    postgres_server.sql("UPDATE kurir.schema_version SET version = 99", url.rpartition("/")[2])
    assert "its schema has version 99; this Kurir supports up to version 2" in await _refusal(url)


def test_a_server_that_is_too_old_is_refused() -> None:
    """The session of a leader that stands still must end by itself, which began with version 14."""
    check_server(140_000, "UTF8")
    with pytest.raises(UnsuitableServerError, match="PostgreSQL 13 is too old: use 14 or newer"):
        check_server(130_018, "UTF8")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://kurir@db/kurir", "postgresql://kurir@db", "db/kurir", "postgresql://[::1/kurir",
        "postgresql://kurir@db:port/kurir", "postgresql://kurir@db:99999/kurir", "postgresql://kurir@db/kurir#part",
        "postgresql://kurir:pass/word@db/kurir", "postgresql://kurir:pass#word@db/kurir", "postgresql://:::/kurir",
    ],
)  # fmt: skip
def test_a_url_that_is_not_of_a_database_is_a_problem_of_the_settings(url: str) -> None:
    """It is reported with the form that is expected, and quoted nowhere: a part of it may be a password."""
    with pytest.raises(SettingsError, match=r"postgresql://user@host:port/database") as refused:
        read_settings({"KURIR_DATABASE_URL": url})
    shown = " ".join(refused.value.problems)
    assert "word" not in shown.replace("password", "")
    assert "pass" not in url or "%2F" in shown


@pytest.mark.parametrize("option", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_file_that_the_url_names_must_exist(option: str) -> None:
    """The driver's error would look like a server that is away, which is waited for without end."""
    url = f"postgresql://kurir@db/kurir?sslmode=verify-full&{option}=/nowhere/a.pem"
    with pytest.raises(SettingsError, match=f"{option} names the file /nowhere/a.pem, which does not exist"):
        read_settings({"KURIR_DATABASE_URL": url, "KURIR_INTERNAL_SECRET": "s" * 16})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://kurir:secret@db/kurir", "postgresql://db/kurir"),
        ("postgresql://kurir:secret@one:5432,two:5433/kurir", "postgresql://one:5432,two:5433/kurir"),
        ("postgresql://kurir@[::1]:5432/kurir?password=secret", "postgresql://[::1]:5432/kurir"),
        ("postgresql:///kurir", "postgresql://localhost/kurir"),
    ],
)
def test_a_database_may_have_several_hosts_and_is_named_without_its_password(url: str, shown: str) -> None:
    """As the driver accepts them; the place in logs and errors has neither user nor options."""
    settings = read_settings({"KURIR_DATABASE_URL": url, "KURIR_INTERNAL_SECRET": "s" * 16})
    assert settings.database_url == url
    assert PostgresStore(settings.database_url).where == shown


def test_the_driver_that_is_missing_is_a_problem_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra that installs it."""
    monkeypatch.setattr("services.logger.settings.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"pip install 'kurir\[postgres\]'"):
        read_settings({"KURIR_DATABASE_URL": "postgresql://kurir@db/kurir"})


@pytest.mark.parametrize(
    ("state", "of_data"),
    [("53100", False), ("53200", False), ("25006", False), ("22P05", True), ("23514", True), ("54000", True)],
    ids=["disk full", "out of memory", "read-only", "untranslatable", "check violated", "too large"],
)
async def test_only_a_fault_of_the_values_is_one_of_the_events(
    store: PostgresStore, state: str, *, of_data: bool
) -> None:
    """Events are set aside only if their values are refused; a full disk is waited out, and the next write works."""

    def fail(database: Database) -> None:
        database.execute("INSERT INTO message_totals VALUES ('email', 'sent', 1)")
        database.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")

    with pytest.raises(StorageError) as failed:
        await store.write(fail)
    assert failed.value.of_data is of_data
    assert await store.write(lambda database: database.execute("SELECT count(*) FROM message_totals").fetchone()) == (
        0,
    )


async def test_connections_that_the_server_ended_are_made_again(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """Reads do not notice; a write fails once, as its transaction may have been under way, and then works."""
    assert await store.read(lambda database: database.execute("SELECT 1").fetchone()) == (1,)
    postgres_server.sql(END_OTHERS, store.where.rpartition("/")[2])
    assert await store.read(lambda database: database.execute("SELECT 1").fetchone()) == (1,)
    with pytest.raises(StorageError) as failed:
        await store.write(lambda database: database.execute("SELECT 1").fetchone())
    assert not failed.value.of_data
    assert await store.write(lambda database: database.execute("SELECT 1").fetchone()) == (1,)


async def test_a_server_that_only_reads_is_left(store: PostgresStore) -> None:
    """The primary of before is a replica since a failover: the next write connects again, wherever the URL leads."""
    await store.maintain(lambda database: database.script("SET default_transaction_read_only = on"))

    def count(database: Database) -> int:
        return database.execute("INSERT INTO message_totals VALUES ('email', 'sent', 1)").rowcount

    with pytest.raises(StorageError) as failed:
        await store.write(count)
    assert not failed.value.of_data
    assert await store.write(count) == 1


async def test_a_turn_sees_what_the_one_before_committed(postgres_server: PostgresServer) -> None:
    """Even where the server's default is a snapshot of when the transaction began, which is before its turn."""
    url = postgres_server.make_database()
    name = url.rpartition("/")[2]
    postgres_server.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    # the server ends a transaction that is idle for ten seconds, and this test may be idle for as long
    one, two = (PostgresStore(url, readers=1, scale=PATIENT) for _ in range(2))
    await one.open()
    await two.open()
    begun, go_on = threading.Event(), threading.Event()

    def add(database: Database) -> None:
        begun.set()
        assert go_on.wait(60)
        database.execute("INSERT INTO message_totals VALUES ('email', 'sent', 1)")

    adding = asyncio.create_task(one.write(add))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    counting = asyncio.create_task(two.write(lambda db: db.execute("SELECT count(*) FROM message_totals").fetchone()))
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await wait_for(lambda: postgres_server.sql(waiting, name) == "1")
    go_on.set()
    await adding
    assert await counting == (1,)
    await one.close()
    await two.close()


async def test_a_query_of_the_api_that_takes_too_long_is_stopped(store: PostgresStore) -> None:
    """It is reported as too slow, not as a fault of the database, and the next one is answered."""
    limited: list[str] = []

    def sleep(database: PostgresDatabase) -> None:
        # the limit of the connection, which a machine that stands still would reach with any other query
        limited.append(database.run("SHOW statement_timeout").fetchone()[0])
        database.script("SET LOCAL statement_timeout = 200")
        database.execute("SELECT pg_sleep(30)")

    with pytest.raises(QueryTooSlowError):
        await store.read(sleep)
    assert limited == [f"{QUERY_LIMIT_S:g}s"]
    assert await store.read(lambda database: database.execute("SELECT 1").fetchone()) == (1,)


async def test_a_server_that_is_silent_is_taken_for_lost(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is given up, which is an error like others; what follows has a new one, once it gets its turn."""
    impatient = partial(PostgresDatabase, silent_s=1.0)
    monkeypatch.setattr("services.logger.postgres.store.PostgresDatabase", impatient)
    for work in (store.maintain, store.read):
        await work(lambda database: database.close())  # the next one is impatient
    for run in (store.write, store.read):
        with pytest.raises(StorageError, match="the server is silent") as failed:
            await run(lambda database: database.execute("SELECT pg_sleep(2)").fetchone())
        assert not failed.value.of_data
        await wait_for(partial(_works, run), 30)


async def test_the_errors_of_the_driver_stay_in_its_adapter(store: PostgresStore) -> None:
    """A statement that is wrong is a StorageError like any other."""
    with pytest.raises(StorageError) as failed:
        await store.read(lambda database: database.execute("SELECT nothing FROM nowhere").fetchone())
    assert isinstance(failed.value.__cause__, Exception)
    assert isinstance(failed.value.__cause__.__cause__, asyncpg.UndefinedTableError)


async def test_the_error_of_a_started_statement_is_raised_by_the_next_call(store: PostgresStore) -> None:
    """Also where the next call is the commit, which is not sent then; the connection stays in use."""
    divide = "SELECT 1 / (1 - x) FROM generate_series(0, $1::int) AS x"

    def start(database: PostgresDatabase) -> None:
        database.execute("INSERT INTO webhook_totals (name, n) VALUES ('undone', 1)")
        database.run(divide, 0)
        database.start(divide, 1)

    def start_and_read(database: PostgresDatabase) -> None:
        start(database)
        database.execute("SELECT 1")

    def start_and_stop(database: PostgresDatabase) -> None:
        start(database)
        raise RuntimeError

    pid = await store.maintain(_pid)
    for work in (start, start_and_read):
        with pytest.raises(StorageError, match="division by zero"):
            await store.write(work)
        assert await store.maintain(_pid) == pid
    with pytest.raises(RuntimeError):
        await store.write(start_and_stop)
    assert await store.read(lambda database: database.execute("SELECT count(*) FROM webhook_totals").fetchone()) == (0,)
    assert await _works(store.write)


async def test_a_started_statement_is_at_work_before_the_next_call(postgres_server: PostgresServer) -> None:
    """Nothing has to be asked for to let the server begin with it."""
    url = postgres_server.make_database()
    store = PostgresStore(url, readers=1, scale=PATIENT)
    await store.open()

    def start(database: PostgresDatabase) -> int:
        database.run(_TAKE_LOCK, 1)
        database.start(_TAKE_LOCK, 2)
        return asyncio.run(_wait_for_locks(url))

    assert await store.write(start) == 2
    await store.close()


def _pid(database: PostgresDatabase) -> int:
    return int(database.run("SELECT pg_backend_pid()").fetchone()[0])


async def _wait_for_locks(url: str) -> int:
    """Wait until sessions have both locks; return the number of locks."""
    connection = await asyncpg.connect(url)
    try:
        return await wait_for(lambda: connection.fetchval(_LOCKS), what="both locks")
    finally:
        await connection.close()
