"""Dead letters and their files: Redis stores them apart from their jobs, and the logger copies them into the database.

Each file is stored before the transaction that writes the letter, and deleted from Redis after it. After a crash in
between, the file is stored again under the same name, or it belongs to no letter and retention deletes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from services.logger.blast_rows import read_snapshot
from services.logger.database import Database
from shared.blasts import pack_blast
from shared.errors import DecodeError
from shared.events import Ended
from shared.jobs import Job, unpack_job
from shared.queue.event_log import EventEntry
from shared.queue.files import FileStore

_TOUCH = "UPDATE letter_files SET kept_at_ms = ? WHERE blast_id = ? AND digest = ?"
_KEEP = """
INSERT INTO letter_files (blast_id, digest, content, kept_at_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (blast_id, digest) DO UPDATE SET kept_at_ms = excluded.kept_at_ms
"""
_LETTER = "SELECT job, blast_id FROM dead_letters WHERE job_id = ?"
_READ = "SELECT content FROM letter_files WHERE blast_id = ? AND digest = ?"


@dataclass(frozen=True, slots=True)
class LetterFile:
    """A file that dead letters need; one of them is to the recipient with this index."""

    channel: str
    blast_id: str
    digest: str
    index: int = field(default=0, compare=False)


def files_of(jobs: Sequence[Job]) -> list[LetterFile]:
    """Return the files that jobs need, each once."""
    found = (
        LetterFile(job.channel, job.blast_id, one.digest, job.index) for job in jobs for one in job.recipient.files
    )
    return list(dict.fromkeys(found))


def failed_jobs(entries: Sequence[EventEntry]) -> list[Job]:
    """Return the jobs with files that failed according to these events."""
    return [job for job in _failed(entries) if job.recipient.files]


def _failed(entries: Sequence[EventEntry]) -> Iterator[Job]:
    for entry in entries:
        events = () if isinstance(entry.batch, DecodeError) else entry.batch.events
        for event in [one for one in events if type(one) is Ended]:  # of nearly all batches none
            if event.status == "failed" and event.job:
                try:
                    yield unpack_job(event.job)
                except DecodeError:
                    continue  # the letter is stored unread: a later version may be able to read it


def touch_file(connection: Database, file: LetterFile, now_ms: int) -> bool:
    """Mark a stored file as needed by a new letter; return False if it is not stored yet."""
    return connection.execute(_TOUCH, (now_ms, file.blast_id, file.digest)).rowcount > 0


def keep_file(connection: Database, file: LetterFile, content: bytes, now_ms: int) -> bool:
    """Store a file; return True."""
    connection.execute(_KEEP, (file.blast_id, file.digest, content, now_ms))
    return True


def read_file(connection: Database, file: LetterFile) -> bytes | None:
    """Return a stored file, or None if it is not stored."""
    row = connection.execute(_READ, (file.blast_id, file.digest)).fetchone()
    return bytes(row[0]) if row else None


def read_letter(connection: Database, job_id: str) -> tuple[bytes, bytes] | None:
    """Return a dead letter, packed, and its blast's snapshot; None if there is no such letter."""
    row = connection.execute(_LETTER, (job_id,)).fetchone()
    blast = read_snapshot(connection, row[1]) if row else None
    return (bytes(row[0]), pack_blast(blast)) if blast is not None else None


async def forget_files(store: FileStore, jobs: Sequence[Job]) -> None:
    """Release the files of stored letters in Redis; raises QueueUnavailableError. Safe to repeat."""
    by_channel: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for job in jobs:
        by_channel[job.channel].append((job.job_id, job.run))
    for channel, letters in by_channel.items():
        await store.forget(channel, letters)
