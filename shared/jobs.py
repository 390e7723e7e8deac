"""A job: one message to one recipient through one channel, and how it is packed for the queue.

A job carries the recipient and its variables, never the rendered message: the sender renders it from the blast's
immutable snapshot. Its id is deterministic, so a repeated request gives the same job ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from shared.errors import DecodeError
from shared.numbers import packed_number

Lane = Literal["high", "normal", "bulk"]
Status = Literal[
    "scheduled", "queued", "processing", "retrying", "sent", "failed", "cancelled", "expired", "suppressed"
]
TERMINAL: tuple[Status, ...] = ("sent", "failed", "cancelled", "expired", "suppressed")

LANE_OF_PRIORITY: dict[int, Lane] = {0: "high", 1: "normal", 2: "bulk"}


class Attachment(msgspec.Struct, frozen=True, array_like=True):
    """A file attached to a message; `content` is the raw bytes, not base64.

    `content_type` is a media type with its parameters (`shared.media_types`). The html shows an attachment with a
    `content_id` as `cid:<content id>`.
    """

    filename: str
    content_type: str
    content: bytes
    content_id: str = ""


class StoredFile(msgspec.Struct, frozen=True, array_like=True):
    """An attachment stored apart from its job, under its blast and the digest of its content; `size` is in bytes."""

    filename: str
    content_type: str
    digest: str
    size: int
    content_id: str = ""


class Recipient(msgspec.Struct, frozen=True, array_like=True):
    """The recipient of a job: a normalised address (email, or phone digits without `+`) and its own variables.

    In the queue the attachments are stored separately, as `files`, and `attachments` is None: an earlier version, which
    does not know `files`, then cannot decode the job, and so sends no mail without its attachments.
    """

    address: str
    name: str
    variables: dict[str, Any] = {}
    reference: str = ""
    attachments: list[Attachment] | None = []
    files: list[StoredFile] = []


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One message to one recipient through one channel.

    `attempts` counts the attempts used before this queue entry was written (a deferral rewrites the entry); the entry's
    delivery count has those made since. Times are milliseconds since the epoch, 0 for none. `unused_ms` is where an
    earlier version, which may run beside this one, keeps the start that it booked.
    """

    blast_id: str
    index: int
    channel: str
    lane: Lane
    recipient: Recipient
    enqueued_at_ms: int
    expires_at_ms: int = 0
    run: int = 1
    attempts: int = 0
    deferrals: int = 0
    first_deferred_at_ms: int = 0
    marketing: bool = False
    unused_ms: int = 0

    @property
    def job_id(self) -> str:
        """The deterministic id `<blast_id>:<recipient index>:<channel>`."""
        return f"{self.blast_id}:{self.index}:{self.channel}"


def with_files_apart(job: Job) -> tuple[Job, dict[str, bytes]]:
    """Return the job with its attachments as `files`, and their contents by digest; unchanged if it has none."""
    recipient = job.recipient
    if not recipient.attachments:
        return job, {}
    contents: dict[str, bytes] = {}
    files = []
    for one in recipient.attachments:
        digest = hashlib.blake2b(one.content, digest_size=16).hexdigest()
        contents[digest] = one.content
        files.append(StoredFile(one.filename, one.content_type, digest, len(one.content), one.content_id))
    apart = msgspec.structs.replace(recipient, attachments=None, files=files)
    return msgspec.structs.replace(job, recipient=apart), contents


def with_contents(job: Job, contents: Mapping[str, bytes]) -> Job:
    """Return the job with its files as attachments; raises KeyError with the digest of a missing file."""
    recipient = job.recipient
    attachments = [
        Attachment(one.filename, one.content_type, contents[one.digest], one.content_id) for one in recipient.files
    ]
    whole = msgspec.structs.replace(recipient, attachments=attachments, files=[])
    return msgspec.structs.replace(job, recipient=whole)


class JobId(msgspec.Struct, frozen=True):
    """The parts of a job id."""

    blast_id: str
    index: int
    channel: str


# an index that fits into 63 bits
_JOB_ID = re.compile(r"([^:]+):([0-9]{1,18}):([^:]+)")


def is_job_id(text: str) -> bool:
    """Return whether a text is a job id."""
    return _JOB_ID.fullmatch(text) is not None


def parse_job_id(job_id: str) -> JobId | None:
    """Split a job id into its parts; return None for any other text."""
    found = _JOB_ID.fullmatch(job_id)
    return JobId(found[1], int(found[2]), found[3]) if found else None


_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(Job)


def pack_job(job: Job) -> bytes:
    """Pack a job for the queue (msgpack, an array of fields in order)."""
    return _encoder.encode(job)


def unpack_job(raw: bytes) -> Job:
    """Unpack a job; raises DecodeError, which keeps the bytes."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DecodeError("job", raw) from error


def legible_job_id(raw: bytes) -> str:
    """Return the id of a job that cannot be unpacked, "" if not even its first fields can be read."""
    try:
        match msgspec.msgpack.decode(raw):
            case [str(blast_id), int(index), str(channel), *_]:
                job_id = f"{blast_id}:{index}:{channel}"
                return job_id if parse_job_id(job_id) else ""
    except (msgspec.DecodeError, ValueError):
        pass  # not even msgpack
    return ""
