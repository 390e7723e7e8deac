"""A blast: one accepted request, as the immutable snapshot that senders render from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.errors import DecodeError
from shared.jobs import Attachment, Lane
from shared.numbers import packed_number
from shared.templates import Template

BlastState = Literal[
    "enqueueing", "scheduled", "running", "paused", "completed", "completed_with_failures", "cancelled", "incomplete"
]


class Blast(msgspec.Struct, frozen=True, omit_defaults=True):
    """The accepted request, complete and immutable: content, global variables, sender, times.

    `totals` is the number of jobs per channel, known before the first is queued. `from_address` is an RFC 5322
    mailbox, empty for the configured one. Times are milliseconds since the epoch, 0 for none.
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
