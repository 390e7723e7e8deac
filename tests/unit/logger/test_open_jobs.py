"""The list of open jobs, which `kurir doctor` checks against Redis."""

from __future__ import annotations

from services.logger.filters import Page
from services.logger.open_jobs import list_open
from services.logger.redelivery import RetryRequest, open_runs
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, failed, queued


def open_jobs(database: Database) -> list[tuple[str, int]]:
    jobs, following = list_open(database.connection, START_MS + 10_000, Page(10))
    assert not following
    return [(job["jobId"], job["run"]) for job in jobs]


def test_jobs_in_the_outbox_are_not_open_yet(database: Database) -> None:
    """Redis does not have it yet: the doctor would end it as lost, and it would end a second time once sent."""
    for blast_id in ("b", "other"):
        database.apply(entry(1, accepted(blast(blast_id, total=2)), queued(range(2), blast_id), producer=blast_id))
        database.apply(entry(2, failed(0, blast_id), producer=blast_id))
    open_runs(database.connection, RetryRequest(blast_id="other"), START_MS + 10)
    database.connection.execute("DELETE FROM retry_outbox")
    open_runs(database.connection, RetryRequest(blast_id="b"), START_MS + 10)
    still = [("other:1:email", 1), ("other:0:email", 2), ("b:1:email", 1)]
    assert open_jobs(database) == still
    database.connection.execute("DELETE FROM retry_outbox")
    assert open_jobs(database) == [*still, ("b:0:email", 2)]
