"""A blast: one accepted request, as the immutable snapshot that senders render from, and the spread of its jobs.

Where a channel's queue has several partitions, the jobs of 500 recipient indexes go to one partition, those of the next
500 to the next one, from one on that the blast's id decides. So a job id names the partition of its job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from zlib import crc32

import msgspec

from shared.errors import DecodeError
from shared.jobs import Attachment, Lane
from shared.numbers import packed_number
from shared.templates import Template

SPAN = 500
"""How many recipient indexes in a row have their jobs in one partition: those of a whole chunk."""

BlastState = Literal[
    "enqueueing", "scheduled", "running", "paused", "completed", "completed_with_failures", "cancelled", "incomplete"
]


class Blast(msgspec.Struct, frozen=True, omit_defaults=True):
    """The accepted request, complete and immutable: content, global variables, sender, times.

    `totals` is the number of jobs per channel, known before the first is queued; `parts` is the number of a channel's
    jobs in each partition, absent where the queue has one. So a blast keeps its spread when the number of partitions is
    raised. `from_address` is an RFC 5322 mailbox, empty for the configured one. Times are milliseconds since the epoch,
    0 for none.
    """

    blast_id: str
    template: Template
    channels: list[str]
    lane: Lane
    created_at_ms: int
    totals: dict[str, int]
    total_recipients: int
    variables: dict[str, Any] = {}
    from_address: str = ""
    reply_to: str = ""
    scheduled_at_ms: int = 0
    expires_at_ms: int = 0
    attachments: list[Attachment] = []
    reference: str = ""
    metadata: dict[str, Any] = {}
    api_key: str = ""
    parts: dict[str, list[int]] = {}

    def shares(self, channel: str) -> dict[int, int]:
        """Return the partitions with jobs of this blast on a channel, in its order, and how many each has."""
        parts = self.parts.get(channel)
        if not parts:
            return {0: self.totals[channel]}
        turns = (partition_of_turn(self.blast_id, turn, len(parts)) for turn in range(len(parts)))
        return {index: parts[index] for index in turns if parts[index]}

    def count_shares(self) -> int:
        """Return how many partitions of all its channels have jobs of this blast."""
        return sum(len(self.shares(channel)) for channel in self.totals)

    def partition_of(self, channel: str, index: int) -> int:
        """Return the partition of the job to the recipient with this index."""
        return partition_of(self.blast_id, index, len(self.parts.get(channel, ())) or 1)


def partition_of_turn(blast_id: str, turn: int, partitions: int) -> int:
    """Return the partition of a blast's `turn`th span of recipient indexes, from 0."""
    return (crc32(blast_id.encode()) + turn) % partitions


def partition_of(blast_id: str, index: int, partitions: int) -> int:
    """Return the partition of a job by its blast and the index of its recipient."""
    return partition_of_turn(blast_id, index // SPAN, partitions)


def parts_of(blast_id: str, by_turn: Sequence[int]) -> list[int]:
    """Return how many jobs each partition has, from those whose spans have their turn first, second, … (modulo)."""
    parts = [0] * len(by_turn)
    for turn, jobs in enumerate(by_turn):
        parts[partition_of_turn(blast_id, turn, len(by_turn))] = jobs
    return parts


_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(Blast)


def pack_blast(blast: Blast) -> bytes:
    """Pack a snapshot (msgpack)."""
    return _encoder.encode(blast)


def unpack_blast(raw: bytes) -> Blast:
    """Unpack a snapshot; raises DecodeError."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DecodeError("blast", raw) from error


_DIGITS = {digit: value for value, digit in enumerate("0123456789abcdefghjkmnpqrstvwxyz")}
_EPOCH_MS = 1_577_836_800_000
_ID_LENGTH, _TIME_DIGITS = 16, 8


def time_of_blast_id(blast_id: str) -> int | None:
    """Return when a blast got its id, in ms since the epoch; None for an id that has no time."""
    if len(blast_id) != _ID_LENGTH or not _DIGITS.keys() >= set(blast_id):
        return None
    since_ms = 0
    for digit in blast_id[:_TIME_DIGITS]:
        since_ms = since_ms << 5 | _DIGITS[digit]
    return _EPOCH_MS + since_ms


def lowest_blast_id(at_ms: int) -> str:
    """Return the text at which the ids of blasts from this time on begin, and so do their jobs' ids, by their bytes."""
    since_ms = max(0, at_ms - _EPOCH_MS)
    digits = "".join(_DIGITS)
    return "".join(digits[(since_ms >> (5 * place)) & 31] for place in reversed(range(_TIME_DIGITS)))
