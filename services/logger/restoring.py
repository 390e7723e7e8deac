"""Restoring blasts: what Redis has to know of an expired blast before its dead letters can be sent again."""

from __future__ import annotations

import msgspec

from services.logger.blast_rows import counts_of, read_snapshot
from services.logger.database import Database
from services.logger.store import Store
from shared.blasts import SPAN, Blast, parts_of
from shared.jobs import JobId, unpack_job
from shared.queue.blasts import BlastStore

_WAITING = "SELECT jobs FROM retry_outbox WHERE blast_id = ? AND channel = ?"
# a job id is `blast:index:channel`; the cast gets the index alone, because PostgreSQL refuses what is not a number
_BY_TURN = """
SELECT status, CAST(substr(job_id, length(blast_id) + 2, length(job_id) - length(blast_id) - length(channel) - 2)
    AS BIGINT) / ? % ? AS turn, count(*)
FROM message_logs INDEXED BY idx_blast WHERE blast_id = ? AND channel = ? GROUP BY status, turn
"""
_decoder = msgspec.msgpack.Decoder(list[bytes])

Counts = dict[str, dict[int, dict[str, int]]]
"""The counts of a blast by channel, partition and status."""


async def restore_blast(store: Store, blasts: BlastStore, blast_id: str) -> Blast | None:
    """Restore a blast to Redis if it has expired there, and return it; None if the log does not know it.

    Raises StorageError and QueueUnavailableError; safe to repeat.
    """
    blast = await store.read(lambda connection: read_snapshot(connection, blast_id))
    if blast is None:
        return None
    missing = await blasts.keep(blast)
    # counting the rows of a large blast takes a second
    counts = await store.read(lambda connection: counts_before(connection, blast, missing)) if missing else {}
    await blasts.restore(blast, counts)
    return blast


def counts_before(connection: Database, blast: Blast, channels: list[str]) -> Counts:
    """Return a blast's counts on these channels as the queue has them: jobs in the outbox still count as `failed`."""
    known = counts_of(connection, blast.blast_id)
    found: Counts = {}
    for channel in channels:
        parts = blast.parts.get(channel)
        if parts:
            found[channel] = _by_partition(connection, blast, channel, len(parts))
        elif channel in known:
            found[channel] = {0: known[channel]}
    for channel, by_partition in found.items():
        for job in _waiting(connection, blast.blast_id, channel):
            by_status = by_partition[blast.partition_of(channel, job.index)]
            by_status["failed"] = by_status.get("failed", 0) + 1
    return found


def _by_partition(connection: Database, blast: Blast, channel: str, partitions: int) -> dict[int, dict[str, int]]:
    by_status: dict[str, list[int]] = {}
    rows = connection.execute(_BY_TURN, (SPAN, partitions, blast.blast_id, channel))
    for status, turn, count in rows:
        by_status.setdefault(status, [0] * partitions)[turn] = count
    found: dict[int, dict[str, int]] = {index: {} for index in blast.shares(channel)}
    for status, by_turn in by_status.items():
        for index, count in enumerate(parts_of(blast.blast_id, by_turn)):
            if count:
                found.setdefault(index, {})[status] = count
    return found


def _waiting(connection: Database, blast_id: str, channel: str) -> list[JobId]:
    rows = connection.execute(_WAITING, (blast_id, channel))
    jobs = (unpack_job(raw) for (packed,) in rows for raw in _decoder.decode(packed))
    return [JobId(job.blast_id, job.index, job.channel) for job in jobs]
