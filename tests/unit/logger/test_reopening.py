"""Reopening dead letters: how they are split into chunks for the queue."""

from __future__ import annotations

import msgspec

from services.logger.redelivery import RetryRequest, open_runs
from shared.events import Ended
from shared.jobs import Job, Recipient, pack_job
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, job, queued


def large(index: int, size: int) -> Job:
    """A job whose recipient has variables of that size."""
    recipient = Recipient(f"user{index}@example.com", f"User {index}", {"text": "x" * size})
    return msgspec.structs.replace(job(index), recipient=recipient)


def chunks(database: Database, sizes: list[int]) -> list[int]:
    """Reopen failed jobs of these sizes; return how many are in each chunk."""
    ends = [
        Ended(
            START_MS + 2, f"b:{index}:email", 1, 1, "failed", "permanent", "550", "no", 5, pack_job(large(index, size))
        )
        for index, size in enumerate(sizes)
    ]
    database.apply(entry(1, accepted(blast(total=len(sizes))), queued(range(len(sizes)))), entry(2, *ends))
    database.connection.execute("BEGIN")
    assert open_runs(database.connection, RetryRequest(blast_id="b"), START_MS + 10).reopened == len(sizes)
    database.connection.execute("COMMIT")
    packed = [row[0] for row in database.rows("SELECT jobs FROM retry_outbox ORDER BY id")]
    return [len(msgspec.msgpack.decode(jobs, type=list[bytes])) for jobs in packed]


def test_large_letters_go_over_several_chunks(database: Database) -> None:
    """A chunk blocks Redis while it is enqueued, so it has about a megabyte; a larger letter has its own."""
    assert chunks(database, [400_000, 400_000, 400_000, 3_000_000, 10, 10]) == [2, 1, 1, 2]


def test_small_letters_go_together(database: Database) -> None:
    """A chunk has at most 500."""
    assert chunks(database, [10] * 501) == [500, 1]
