"""Redelivery: sending dead letters again.

One transaction opens the next run of a dead letter: it deletes the letter, sets the row to `queued` and adds the job to
the outbox. The outbox enqueues the job right away, or later if Redis was away or this process died. The outbox entry's
id names the jobs in the queue, so repeated tries add them once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import msgspec
import orjson

from services.logger.blast_rows import CHANGE, read_snapshot
from services.logger.database import Database
from services.logger.letters import files_of, read_file
from services.logger.restoring import restore_blast
from services.logger.store import LOOK_AGAIN_S, StorageError, Store
from services.logger.writing import write_events
from shared.blasts import Blast
from shared.channels import CHANNELS
from shared.clock import Clock, SystemClock
from shared.errors import KurirError, QueueFullError, QueueUnavailableError
from shared.events import Queued, QueuedRecipient
from shared.jobs import Job, pack_job, unpack_job
from shared.lifecycle import Stop, drain_on_wake
from shared.logs import get_logger
from shared.queue.blasts import BlastStore
from shared.queue.producer import MAX_CHUNK, Chunk, Producer

log = get_logger()

# dead letters per transaction; at this size other writers wait for about 50 ms at most
LETTERS_A_TRANSACTION = 1000
_RETRY_S = 2.0
_CHUNK_BYTES = 1024 * 1024
UNCERTAIN = "uncertain"
# opens runs within a transaction, at a time in ms
Opening = Callable[[Database, int], "Reopened"]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[bytes])


class NotRetryableError(KurirError):
    """The job did not fail, its blast was cancelled, or its blast no longer exists."""


class UnknownJobError(KurirError):
    """No message has this id."""


class UnknownBlastError(KurirError):
    """No blast has this id."""


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """Which dead letters to send again: those of a blast, perhaps on one channel, or that of a single job.

    Of a blast's, perhaps only those that failed with a class of errors, and with a code; "" is no code, None any.
    """

    job_id: str = ""
    blast_id: str = ""
    channel: str = ""
    include_uncertain: bool = False
    error_class: str = ""
    error_code: str | None = None

    @property
    def of_a_reason(self) -> bool:
        """Whether only letters with a certain error are meant."""
        return bool(self.error_class) or self.error_code is not None


@dataclass(frozen=True, slots=True)
class Reopened:
    """How many of the requested dead letters were reopened, and how many were skipped.

    `after` is where to continue among the letters of a blast, 0 at the end.
    """

    reopened: int = 0
    skipped: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """Jobs of one blast on one channel that wait to be enqueued, at most one chunk."""

    entry_id: int
    blast_id: str
    channel: str
    jobs: list[Job]
    created_at_ms: int

    @property
    def series(self) -> str:
        """The name of these jobs in the queue; the time keeps it unique after a database was restored from a backup."""
        return f"run:{self.entry_id}-{self.created_at_ms}"


_OF_BLAST = """
SELECT job_id, channel, job FROM dead_letters
WHERE blast_id = ?1 AND (?2 = '' OR channel = ?2) AND (?3 OR error_class <> 'uncertain') LIMIT ?4
"""
OF_REASON = """
SELECT rowid, job_id, channel, job, error_class FROM dead_letters INDEXED BY idx_dead_letters_blast
WHERE blast_id = ? AND channel = ? AND rowid > ? ORDER BY rowid LIMIT ?
"""
_CODES = """
SELECT job_id, coalesce(error_code, '') FROM message_logs WHERE job_id IN (SELECT value FROM json_each(?))
"""
_OF_JOB = "SELECT job_id, channel, job FROM dead_letters WHERE job_id = ?"
_LEFT = "SELECT count(*) FROM dead_letters WHERE blast_id = ?1 AND (?2 = '' OR channel = ?2)"
_OUTBOX = """
INSERT INTO retry_outbox (blast_id, channel, jobs, letters, created_at_ms) VALUES (?, ?, ?, ?, ?)
"""
_NEXT = "SELECT id, blast_id, channel, jobs, created_at_ms FROM retry_outbox WHERE id > ? ORDER BY id LIMIT 1"


def open_runs(connection: Database, wanted: RetryRequest, now_ms: int) -> Reopened:
    """Open the next run of at most `LETTERS_A_TRANSACTION` dead letters; call it within a transaction.

    Raises UnknownJobError, UnknownBlastError and NotRetryableError.
    """
    if wanted.job_id:
        return _open_job(connection, wanted, now_ms)
    blast = read_snapshot(connection, wanted.blast_id)
    if blast is None:
        raise UnknownBlastError(wanted.blast_id)
    if is_cancelled(connection, wanted.blast_id):
        return Reopened()
    parameters = (wanted.blast_id, wanted.channel, wanted.include_uncertain, LETTERS_A_TRANSACTION)
    letters = connection.execute(_OF_BLAST, parameters).fetchall()
    open_letters(connection, blast, letters, now_ms)
    return Reopened(len(letters))


def open_runs_of_reason(connection: Database, now_ms: int, wanted: RetryRequest, after: int) -> Reopened:
    """Read at most `LETTERS_A_TRANSACTION` letters of a blast on a channel; open the next run of those with the error.

    A transaction reads few letters, however few of them match, so that other writers never wait long. Raises
    UnknownBlastError.
    """
    blast = read_snapshot(connection, wanted.blast_id)
    if blast is None:
        raise UnknownBlastError(wanted.blast_id)
    if is_cancelled(connection, wanted.blast_id):
        return Reopened()
    rows = connection.execute(OF_REASON, (wanted.blast_id, wanted.channel, after, LETTERS_A_TRANSACTION)).fetchall()
    matching = [row for row in rows if wanted.error_class in {"", row[4]}]
    if wanted.error_code is not None:
        job_ids = orjson.dumps([row[1] for row in matching]).decode()
        codes: dict[str, str] = dict(connection.execute(_CODES, (job_ids,)).fetchall())
        matching = [row for row in matching if codes.get(row[1], "") == wanted.error_code]
    letters = [row[1:4] for row in matching if wanted.include_uncertain or row[4] != UNCERTAIN]
    open_letters(connection, blast, letters, now_ms)
    following = rows[-1][0] if len(rows) == LETTERS_A_TRANSACTION else 0
    return Reopened(len(letters), len(matching) - len(letters), following)


def count_left(connection: Database, wanted: RetryRequest) -> int:
    """Return how many dead letters of a blast are left: the uncertain ones, or all if it was cancelled."""
    return int(connection.execute(_LEFT, (wanted.blast_id, wanted.channel)).fetchone()[0])


def _open_job(connection: Database, wanted: RetryRequest, now_ms: int) -> Reopened:
    row = connection.execute(
        "SELECT m.status, m.run, d.error_class, m.blast_id FROM message_logs m"
        " LEFT JOIN dead_letters d ON d.job_id = m.job_id WHERE m.job_id = ?",
        (wanted.job_id,),
    ).fetchone()
    if row is None:
        raise UnknownJobError(wanted.job_id)
    status, run, error_class, blast_id = row
    if run > 1 and status in {"queued", "processing", "retrying"}:
        return Reopened()  # a repeated call: the next run is already in progress
    if error_class is None:
        raise NotRetryableError(f"the message is {status}; only failed messages can be sent again")
    if error_class == UNCERTAIN and not wanted.include_uncertain:
        return Reopened(skipped=1)
    blast = read_snapshot(connection, blast_id)
    if blast is None:
        raise NotRetryableError("the blast of this message no longer exists")
    if is_cancelled(connection, blast_id):
        raise NotRetryableError("the blast of this message was cancelled")
    open_letters(connection, blast, connection.execute(_OF_JOB, (wanted.job_id,)).fetchall(), now_ms)
    return Reopened(1)


def is_cancelled(connection: Database, blast_id: str) -> bool:
    """Return whether a blast was cancelled: none of its messages is begun again, dead letters included."""
    row = connection.execute("SELECT cancelled_at_ms FROM blasts WHERE blast_id = ?", (blast_id,)).fetchone()
    return bool(row and row[0])


def open_letters(connection: Database, blast: Blast, letters: Sequence[tuple[str, str, bytes]], now_ms: int) -> None:
    """Move letters into the outbox and update their rows to the new run."""
    by_channel = groupby(sorted(letters, key=lambda letter: letter[1]), key=lambda letter: letter[1])
    for channel, group in by_channel:
        jobs = [_next_run(unpack_job(raw), now_ms) for _, _, raw in group]
        # jobs of one event share their run
        for _, same_run in groupby(sorted(jobs, key=lambda job: job.run), key=lambda job: job.run):
            for chunk in _chunks(same_run):
                _open_chunk(connection, blast, channel, chunk, now_ms)
    if letters:
        connection.execute(CHANGE["reopened"], (now_ms, "", blast.blast_id))


def _chunks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """Split jobs into chunks of about a megabyte, because a chunk blocks Redis while it is enqueued."""
    chunk, size = list[Job](), 0
    for job in jobs:
        size += len(pack_job(job))
        if chunk and (len(chunk) == MAX_CHUNK or size > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], len(pack_job(job))
        chunk.append(job)
    if chunk:
        yield chunk


def _open_chunk(connection: Database, blast: Blast, channel: str, jobs: list[Job], now_ms: int) -> None:
    packed = _encoder.encode([pack_job(job) for job in jobs])
    connection.execute(_OUTBOX, (blast.blast_id, channel, packed, b"", now_ms))
    connection.executemany("DELETE FROM dead_letters WHERE job_id = ?", ((job.job_id,) for job in jobs))
    recipients = [
        QueuedRecipient(job.index, job.recipient.address, job.recipient.name, job.recipient.reference) for job in jobs
    ]
    template = blast.template
    write_events(
        connection,
        [Queued(now_ms, blast.blast_id, channel, template.id, template.name, recipients, "queued", jobs[0].run)],
    )


def _next_run(job: Job, now_ms: int) -> Job:
    """Return the job for its next run, with no attempts or deferrals used; its expiry stays."""
    return msgspec.structs.replace(
        job,
        run=job.run + 1,
        attempts=0,
        deferrals=0,
        first_deferred_at_ms=0,
        unused_ms=0,
        enqueued_at_ms=now_ms,
    )


class Outbox:
    """Enqueues reopened jobs in the order in which they were reopened."""

    def __init__(self, store: Store, producer: Producer, blasts: BlastStore, clock: Clock | None = None) -> None:
        self._store = store
        self._producer = producer
        self._blasts = blasts
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()

    async def reopen(self, wanted: RetryRequest) -> Reopened:
        """Open the next runs of dead letters in bounded transactions and wake the outbox to enqueue them.

        Raises StorageError and the errors of `open_runs`; runs opened before an error stay open.
        """
        if wanted.of_a_reason and wanted.blast_id:
            return await self._reopen_reason(wanted)
        reopened = 0
        while True:
            done = await self.open(lambda connection, now_ms: open_runs(connection, wanted, now_ms))
            reopened += done.reopened
            if done.reopened == LETTERS_A_TRANSACTION:
                continue
            left = await self._store.read(lambda connection: count_left(connection, wanted)) if wanted.blast_id else 0
            return Reopened(reopened, done.skipped + left)

    async def _reopen_reason(self, wanted: RetryRequest) -> Reopened:
        reopened = skipped = 0
        for channel in [wanted.channel] if wanted.channel else list(CHANNELS):
            on_channel, after, first = replace(wanted, channel=channel), 0, True
            while after or first:
                done = await self.open(partial(open_runs_of_reason, wanted=on_channel, after=after))
                reopened, skipped, after, first = reopened + done.reopened, skipped + done.skipped, done.after, False
        return Reopened(reopened, skipped)

    async def open(self, opening: Opening) -> Reopened:
        """Open runs in one transaction and wake the outbox to enqueue them.

        Raises StorageError and the errors of `opening`.
        """
        now_ms = self._clock.now_ms()
        done = await self._store.write(lambda connection: opening(connection, now_ms))
        self._wake.set()
        return done

    async def run(self, stop: Stop) -> None:
        """Enqueue the outbox's jobs until stopped: at the start, after `reopen`, and again after failures."""
        # with several loggers, another one may have added entries
        again_s = LOOK_AGAIN_S if self._store.shared else None
        await drain_on_wake(self.drain, self._wake, stop, _RETRY_S, again_s)

    async def drain(self) -> bool:
        """Enqueue all waiting entries; return False if Redis or the database prevented it."""
        last = 0
        try:
            while (entry := await self._store.read(lambda connection: _next_entry(connection, last))) is not None:  # noqa: B023
                await self._enqueue(entry)
                last = entry.entry_id
        except (QueueUnavailableError, QueueFullError, StorageError) as error:
            log.warning("retried messages wait to be enqueued", reason=str(error))
            return False
        return True

    async def _enqueue(self, entry: OutboxEntry) -> None:
        blast = await restore_blast(self._store, self._blasts, entry.blast_id)
        if blast is None:
            log.error(
                "retried messages dropped; their blast no longer exists", blast=entry.blast_id, jobs=len(entry.jobs)
            )
        else:
            chunk = Chunk(blast, entry.channel, 0, entry.jobs, entry.series)
            lost = await self._put_files(chunk)
            done = await self._producer.enqueue(replace(chunk, lenient=lost > 0))
            # a failover must not lose them: the request to send them again was answered
            indexes = [job.index for job in entry.jobs]
            if not await self._blasts.confirm_run(blast, entry.channel, entry.series, indexes):
                raise QueueUnavailableError("a failover lost retried messages; they are enqueued again")
            if not done.added:
                await self._blasts.release(blast)
            log.info("retried messages enqueued", blast=entry.blast_id, channel=entry.channel, jobs=len(entry.jobs))
        await self._store.write(
            lambda connection: connection.execute("DELETE FROM retry_outbox WHERE id = ?", (entry.entry_id,)).rowcount
        )

    async def _put_files(self, chunk: Chunk) -> int:
        """Copy the files of dead letters back to Redis, one at a time; return how many are lost."""
        lost = 0
        for file in files_of(chunk.jobs):
            content = await self._store.read(lambda connection: read_file(connection, file))  # noqa: B023 -- run at once
            if content is None:
                log.error("attachment of retried messages missing", blast=file.blast_id, file=file.digest)
                lost += 1
            else:
                await self._producer.put_files(chunk, {file.digest: content})
        return lost


def _next_entry(connection: Database, after: int) -> OutboxEntry | None:
    row = connection.execute(_NEXT, (after,)).fetchone()
    if row is None:
        return None
    entry_id, blast_id, channel, jobs, created_at_ms = row
    return OutboxEntry(entry_id, blast_id, channel, [unpack_job(raw) for raw in _decoder.decode(jobs)], created_at_ms)
