"""Events: what happened to a job, a blast, an API request or a service, and how batches of them are packed.

The queue's scripts assemble a batch from events that Python packed one by one (msgpack values are self-delimiting), so
a batch has only the moves that really took place. The logger turns events into rows. All times are milliseconds since
the epoch on the producer's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Literal

import msgspec

from shared.errors import DecodeError
from shared.jobs import Job, Status
from shared.numbers import packed_number
from shared.receipts import Receipt

MOST_RECEIPTS = 500


class QueuedRecipient(msgspec.Struct, frozen=True, array_like=True):
    """One job of a `Queued` event, with the fields for its row; `index` is the recipient's index in the blast."""

    index: int
    address: str
    name: str
    reference: str = ""


class Queued(msgspec.Struct, frozen=True, array_like=True, tag="queued"):
    """A chunk of jobs was enqueued; `status` is `queued` or `scheduled`."""

    at_ms: int
    blast_id: str
    channel: str
    template_id: str
    template_name: str
    recipients: list[QueuedRecipient]
    status: Status = "queued"
    run: int = 1


class Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    """`sender` began the same attempt, counted from 1, of jobs: their ids, joined by spaces, which no id contains."""

    at_ms: int
    run: int
    attempt: int
    sender: str
    jobs: str

    def __len__(self) -> int:
        """Return the number of jobs."""
        return self.jobs.count(" ") + 1


class Processing(msgspec.Struct, frozen=True, array_like=True, tag="processing"):
    """`sender` began an attempt of one job, as an earlier version reports it; the same as a `Begun` with this job."""

    at_ms: int
    job_id: str
    run: int
    attempt: int
    sender: str


class Returned(msgspec.Struct, frozen=True, array_like=True, tag="returned"):
    """A begun job was given back untried, without using an attempt; it is `queued` or, after attempts, `retrying`."""

    at_ms: int
    job_id: str
    run: int
    attempt: int
    status: Status
    error_class: str = ""
    message: str = ""


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent"):
    """The provider accepted the message; `late` if the lease had been lost, so another sender may have sent it too."""

    at_ms: int
    job_id: str
    run: int
    attempt: int
    message_id: str
    response: str
    duration_ms: int
    subject: str = ""
    late: bool = False
    address: str = ""
    name: str = ""
    template_id: str = ""


class Retrying(msgspec.Struct, frozen=True, array_like=True, tag="retrying"):
    """An attempt failed; the next follows at `next_at_ms`."""

    at_ms: int
    job_id: str
    run: int
    attempt: int
    error_class: str
    code: str
    message: str
    duration_ms: int
    next_at_ms: int
    subject: str = ""


class Deferred(msgspec.Struct, frozen=True, array_like=True, tag="deferred"):
    """The provider asked to wait until `next_at_ms`; `deferral` counts deferrals from 1; no attempt was used."""

    at_ms: int
    job_id: str
    run: int
    attempt: int
    deferral: int
    error_class: str
    code: str
    message: str
    duration_ms: int
    next_at_ms: int
    subject: str = ""


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """A job ended without being sent; `job` is the whole packed job if it `failed` (a dead letter), else empty.

    `attempt` is 0 if none was made. `duration_ms` is that of the last attempt, or 0.
    """

    at_ms: int
    job_id: str
    run: int
    attempt: int
    status: Status
    error_class: str
    code: str
    message: str
    duration_ms: int = 0
    job: bytes = b""
    address: str = ""
    name: str = ""
    template_id: str = ""
    subject: str = ""


class Swept(msgspec.Struct, frozen=True, array_like=True, tag="swept"):
    """Waiting, untried jobs ended together, as an earlier version reports it; the same as an `Ended` for each."""

    at_ms: int
    status: Status
    error_class: str
    message: str
    jobs: list[Job]


class SweptRanges(msgspec.Struct, frozen=True, array_like=True, tag="swept_ranges"):
    """Waiting, untried jobs of a blast ended together: those of each range of recipient indexes, `(first, last)`.

    Every index of a range is one of a job. This is the same as an `Ended` without an attempt and an address for each.
    """

    at_ms: int
    status: Status
    error_class: str
    message: str
    blast_id: str
    channel: str
    run: int
    ranges: list[tuple[int, int]]

    def __len__(self) -> int:
        """Return the number of jobs."""
        return sum(last - first + 1 for first, last in self.ranges)

    def indexes(self) -> Iterator[int]:
        """Yield the recipient index of each job."""
        return chain.from_iterable(range(first, last + 1) for first, last in self.ranges)


class Receipts(msgspec.Struct, frozen=True, array_like=True, tag="receipts"):
    """Receipts of one request or mail, at most MOST_RECEIPTS; `taken_at_ms` is when Kurir took that, 0 if unknown.

    All receipts of a request or mail are one batch, which is named by its entry in the stream `receipts`.
    """

    items: list[Receipt]
    taken_at_ms: int = 0


class BlastAccepted(msgspec.Struct, frozen=True, array_like=True, tag="blast_accepted"):
    """A blast was accepted; `snapshot` is the packed `Blast`."""

    at_ms: int
    blast_id: str
    snapshot: bytes


class BlastChanged(msgspec.Struct, frozen=True, array_like=True, tag="blast_changed"):
    """A blast was paused, resumed, cancelled or found incomplete; `change` says which.

    Each of the blast's channels emits the event, so a change of a blast on two channels appears twice.
    """

    at_ms: int
    blast_id: str
    change: Literal["paused", "resumed", "cancelled", "incomplete", "reopened"]
    reason: str = ""


class BlastChannelEnded(msgspec.Struct, frozen=True, array_like=True, tag="blast_channel_ended"):
    """The last job of a blast in a partition of a channel reached a terminal status.

    `counts` has terminal statuses and `total`, of this partition. The blast has jobs in that many `partitions`.
    """

    at_ms: int
    blast_id: str
    channel: str
    counts: dict[str, int]
    partition: int = 0
    partitions: int = 1


class ChannelChanged(msgspec.Struct, frozen=True, array_like=True, tag="channel_changed"):
    """A channel was paused or resumed; another reason for a pause that holds is no change.

    Each partition of the channel emits the event. `at_ms` is on the clock of its server.
    """

    at_ms: int
    channel: str
    change: Literal["paused", "resumed"]
    reason: str = ""


class SuppressedAddress(msgspec.Struct, frozen=True, array_like=True):
    """One address of a `SuppressionsAdded` event, as the identity under which it is suppressed (`shared.addresses`)."""

    address: str
    scope: str
    source: str
    reason: str
    job_id: str = ""


class SuppressionsAdded(msgspec.Struct, frozen=True, array_like=True, tag="suppressions_added"):
    """Addresses were suppressed, or longer than before; of one call, so a few hundred at most.

    Suppressions that changed nothing are not among them. `at_ms` is on the server's clock.
    """

    at_ms: int
    channel: str
    items: list[SuppressedAddress]


class ApiRequest(msgspec.Struct, frozen=True, array_like=True, tag="api_request"):
    """An HTTP request was answered; `endpoint` is the path, `body` is masked and cut to 4 KB."""

    at_ms: int
    endpoint: str
    method: str
    ip_address: str
    body: str
    status: int
    duration_ms: int
    error: str = ""
    request_id: str = ""
    api_key: str = ""


class SystemEvent(msgspec.Struct, frozen=True, array_like=True, tag="system"):
    """A warning, error or notable step of a service; `metadata` has plain values and no personal data."""

    at_ms: int
    level: str
    message: str
    service: str
    metadata: dict[str, Any] = {}


Event = (
    Queued
    | Begun
    | Processing
    | Returned
    | Sent
    | Retrying
    | Deferred
    | Ended
    | Swept
    | SweptRanges
    | Receipts
    | BlastAccepted
    | BlastChanged
    | BlastChannelEnded
    | ChannelChanged
    | SuppressionsAdded
    | ApiRequest
    | SystemEvent
)


class EventBatch(msgspec.Struct, frozen=True, array_like=True):
    """Events that took place together; (`producer`, `sequence`) is unique."""

    producer: str
    sequence: int
    events: list[Event]


class _LooseBatch(msgspec.Struct, frozen=True, array_like=True):
    producer: str
    sequence: int
    events: list[msgspec.Raw]


_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(EventBatch)
_loose_decoder = msgspec.msgpack.Decoder(_LooseBatch)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def pack_event(event: Event) -> bytes:
    """Pack one event (msgpack array, tag first)."""
    return _encoder.encode(event)


def pack_batch(batch: EventBatch) -> bytes:
    """Pack a batch as the queue's scripts frame it: [producer, sequence, [event …]]."""
    return _encoder.encode(batch)


def unpack_batch(raw: bytes) -> EventBatch:
    """Unpack a batch; raises DecodeError."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DecodeError("event batch", raw) from error


def unpack_known(raw: bytes) -> EventBatch | None:
    """Unpack the readable events of a batch from a later version; return None if it is not a batch."""
    try:
        loose = _loose_decoder.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    known: list[Event] = []
    for one in loose.events:
        with suppress(msgspec.DecodeError, msgspec.ValidationError):
            known.append(_event_decoder.decode(one))
    return EventBatch(loose.producer, loose.sequence, known)
