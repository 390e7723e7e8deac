"""What a fetch returns: the leases of jobs, the entries that are not jobs, and why there are no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.errors import DecodeError
from shared.jobs import legible_job_id, unpack_job
from shared.queue.leases import Grant, Lease, parse_grant


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An entry that is not a job: its bytes are kept whole, and its sender ends it; `job_id` is "" if unreadable."""

    stream: str
    entry_id: str
    error: DecodeError
    job_id: str
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a fetch: leases, the reason of the channel's pause, and the time until something is due, if any.

    `log_behind`: nothing was taken, because the events that wait for the logger have reached their limit. `grants` are
    the answers for each lease, where they were begun in the same step; `snapshots` are those of blasts of one message,
    packed, by blast, as far as the answer has them.
    """

    leases: list[Lease]
    undecodable: list[Undecodable]
    paused: str
    due_in_s: float | None
    log_behind: bool = False
    grants: Sequence[Grant] = ()
    snapshots: Mapping[str, bytes] = field(default_factory=dict)


def text_of(value: object) -> str:
    """Return a text of an answer."""
    return value.decode() if isinstance(value, bytes) else str(value)


def read_fetched(reply: object) -> Fetched:
    """Read the answer of `fetch`."""
    assert isinstance(reply, list)  # noqa: S101 -- narrows the script's answer for the type checker
    words = [word for word in text_of(reply[3]).split(",") if word]
    leases, undecodable = read_leases(reply[5:])
    grants: list[Grant] = []
    if words:
        places = zip(reply[5::4], reply[6::4], strict=True)
        keys = [f"{text_of(stream)} {text_of(entry_id)}" for stream, entry_id in places]
        answers = dict(zip(keys, map(parse_grant, words), strict=True))
        grants = [answers[lease.key] for lease in leases]
        undecodable = [replace(one, begun=answers[f"{one.stream} {one.entry_id}"].starts) for one in undecodable]
    return Fetched(
        leases,
        undecodable,
        text_of(reply[0]),
        reply[1] / 1000 if reply[1] >= 0 else None,
        log_behind=reply[2] == b"1",
        grants=grants,
        snapshots=dict(zip(map(text_of, reply[4][::2]), reply[4][1::2], strict=True)),
    )


def read_leases(flat: list[object]) -> tuple[list[Lease], list[Undecodable]]:
    """Read the jobs of entries: stream, id, delivery count and packed job of each, as Redis returns them."""
    leases: list[Lease] = []
    undecodable: list[Undecodable] = []
    fields = iter(flat)
    latest, name = object(), ""
    for stream, entry_id, deliveries, raw in zip(fields, fields, fields, fields, strict=True):
        if stream != latest:  # most entries are of the stream of the one before
            latest, name = stream, text_of(stream)
        assert isinstance(raw, bytes)  # noqa: S101 -- narrows the script's answer for the type checker
        try:
            job = unpack_job(raw)
        except DecodeError as error:
            undecodable.append(Undecodable(name, text_of(entry_id), error, legible_job_id(raw)))
            continue
        count = deliveries if isinstance(deliveries, int) else int(text_of(deliveries))
        leases.append(Lease(name, text_of(entry_id), count, job))
    return leases, undecodable
