"""Bodies: an event of the journal as the client gets it, with what the log knows about its message and blast.

A single event is `{"type", "timestamp", "data"}`, with its id in the header `webhook-id`; a batch has several events,
each with its `id`. The id is made from what the event is about, so an event that is replayed, or journaled again after
a restored backup, has the same one. So has a batch of the same events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from services.logger.database import Database
from shared.clock import rfc3339
from shared.jobs import parse_job_id
from shared.masking import mask
from shared.recipient_masks import without_recipient

BATCH = "batch"
_ID_BYTES = 10
_PREFIX = len("message.")
_SENT = "message.sent"

COLUMNS = "id, type, subject, mark, channel, at_ms, kept_at_ms, data"
_MESSAGES = """
SELECT job_id, reference, template_id, coalesce(recipient_email, recipient_phone) FROM message_logs
WHERE job_id IN (SELECT value FROM json_each(?))
"""
_BLASTS = """
SELECT blast_id, reference, metadata FROM blasts
WHERE blast_id IN (SELECT value FROM json_each(?)) AND snapshot IS NOT NULL
"""


class Journaled(NamedTuple):
    """A row of the journal."""

    event: int
    type: str
    subject: str
    mark: str
    channel: str
    at_ms: int
    kept_at_ms: int
    data: str

    @property
    def id(self) -> str:
        """The event's id: the same for the same event, and without a full stop (Standard Webhooks)."""
        return event_id(self.type, self.subject, self.mark)


class _Message(NamedTuple):
    reference: str
    template_id: str
    address: str


class _Blast(NamedTuple):
    reference: str
    metadata: dict[str, Any]


_NO_MESSAGE, _NO_BLAST = _Message("", "", ""), _Blast("", {})


@dataclass(frozen=True, slots=True)
class Facts:
    """What the log knows about the messages and blasts of some events; `recipients`: clients may see addresses.

    `missing` are their blasts that the log does not know, or not yet: they are reported in a stream of their own.
    """

    recipients: bool
    messages: Mapping[str, _Message] = field(default_factory=dict)
    blasts: Mapping[str, _Blast] = field(default_factory=dict)
    missing: Set[str] = frozenset()
    _of_blasts: dict[tuple[str, str], str] = field(default_factory=dict)

    def lacks_blast(self, event: Journaled) -> bool:
        """Return whether the log does not know an event's blast."""
        return bool(self.missing) and _blast_of(event) in self.missing

    def references(self, event: Journaled) -> tuple[str, str]:
        """Return the references of an event's message and blast, "" for none."""
        message = self.messages.get(event.subject, _NO_MESSAGE)
        return message.reference, self.blasts.get(_blast_of(event), _NO_BLAST).reference

    def of_blast(self, blast_id: str, template_id: str) -> str:
        """Return what all sent messages of a blast with one template have, as JSON: the end of an object."""
        text = self._of_blasts.get((blast_id, template_id))
        if text is None:
            blast = self.blasts.get(blast_id, _NO_BLAST)
            named = {"blastId": blast_id, "templateId": template_id, "blastReference": blast.reference}
            fields = {name: value for name, value in named.items() if value}
            try:
                text = orjson.dumps(fields | ({"metadata": blast.metadata} if blast.metadata else {})).decode()
            except TypeError:  # it is nested too deeply
                text = orjson.dumps(fields).decode()
            text = self._of_blasts[blast_id, template_id] = f",{text[1:-1]}"
        return text

    def shown(self, event: Journaled) -> dict[str, Any]:
        """Return an event as the client gets it."""
        kind = event.type.partition(".")[0]
        data = _SHOWN.get(kind, _as_journaled)(self, event, orjson.loads(event.data))
        return {"type": event.type, "timestamp": rfc3339(event.at_ms), "data": data}


def event_id(event_type: str, subject: str, mark: str) -> str:
    """Return the id of an event, from what it is about and what tells it from others about that."""
    about = f"{event_type}\0{subject}\0{mark}"
    return f"evt_{hashlib.blake2b(about.encode(), digest_size=_ID_BYTES).hexdigest()}"


def read_facts(connection: Database, events: Sequence[Journaled], *, recipients: bool) -> Facts:
    """Read what the log knows about events: one query each for their messages and their blasts."""
    jobs = {event.subject for event in events if event.type.startswith(("message.", "suppression.")) and event.subject}
    blasts = {blast for event in events if (blast := _blast_of(event))}
    messages = {
        job_id: _Message(reference or "", template_id, address or "")
        for job_id, reference, template_id, address in _found(connection, _MESSAGES, jobs)
    }
    known = {
        blast_id: _Blast(reference, orjson.loads(metadata))
        for blast_id, reference, metadata in _found(connection, _BLASTS, blasts)
    }
    return Facts(recipients, messages, known, blasts - known.keys())


def batch_id(endpoint_id: str, events: Sequence[str]) -> str:
    """Return the id of an endpoint's batch from the ids of its events: other events never have it."""
    about = "\0".join((endpoint_id, *events))
    return f"bat_{hashlib.blake2b(about.encode(), digest_size=_ID_BYTES).hexdigest()}"


def single_of(event: Journaled, facts: Facts) -> str:
    """Return the body of a delivery of one event."""
    return f"{{{_text_of(event, facts)}"


def item_of(event: Journaled, facts: Facts) -> tuple[str, bytes]:
    """Return an event's id, and the event as an item of a batch, as JSON."""
    own = event.id
    return own, f'{{"id":"{own}",{_text_of(event, facts)}'.encode()


def _text_of(event: Journaled, facts: Facts) -> str:
    """Return an event as JSON, from its type on."""
    if event.type == _SENT and (facts.recipients or event.channel == "email"):
        return _sent_text(event, facts)
    shown = facts.shown(event)
    try:
        text = orjson.dumps(shown)
    except TypeError:
        # the client's metadata may be nested as deeply as JSON is written, and here it is nested deeper
        shown["data"].pop("metadata", None)
        text = orjson.dumps(shown)
    return text[1:].decode()


def _sent_text(event: Journaled, facts: Facts) -> str:
    """Return the most frequent event: what `_of_message` shows of it, in a third of the time.

    What was journaled of it is never empty and has no text of a provider.
    """
    message = facts.messages.get(event.subject, _NO_MESSAGE)
    text = (
        f'"type":"{_SENT}","timestamp":"{rfc3339(event.at_ms)}","data":{{"jobId":{_json(event.subject)},'
        f'"channel":"{event.channel}","status":"sent",{event.data[1:-1]}'
        f"{facts.of_blast(event.subject.partition(':')[0], message.template_id)}"
    )
    if message.reference:
        text += f',"reference":{_json(message.reference)}'
    if facts.recipients and message.address:
        text += f',"recipient":{_json(message.address)}'
    return text + "}}"


def _json(value: str) -> str:
    return orjson.dumps(value).decode()


def batch_of(items: Sequence[bytes], kept_at_ms: int) -> str:
    """Return the body of a batch; `kept_at_ms` is when its last event was recorded."""
    frame = f'{{"type":"{BATCH}","timestamp":"{rfc3339(kept_at_ms)}","data":['
    return f"{frame}{b','.join(items).decode()}]}}"


def _found(connection: Database, query: str, keys: Iterable[str]) -> list[tuple[Any, ...]]:
    wanted = list(keys)
    return connection.execute(query, (orjson.dumps(wanted).decode(),)).fetchall() if wanted else []


def _blast_of(event: Journaled) -> str:
    if event.type.startswith("blast."):
        return event.subject
    if not event.type.startswith("message."):
        return ""
    return event.subject.partition(":")[0]


def _of_message(facts: Facts, event: Journaled, data: dict[str, Any]) -> dict[str, Any]:
    message = facts.messages.get(event.subject, _NO_MESSAGE)
    blast_id = event.subject.partition(":")[0]
    shown = {
        "jobId": event.subject, "blastId": blast_id, "channel": event.channel, "status": event.type[_PREFIX:], **data,
    }  # fmt: skip
    if "error" in data:
        shown["error"] = dict(zip(("class", "code", "message"), data["error"], strict=True))
    if message.template_id:
        shown["templateId"] = message.template_id
    if message.reference:
        shown["reference"] = message.reference
    if (blast := facts.blasts.get(blast_id)) is not None:
        if blast.reference:
            shown["blastReference"] = blast.reference
        if blast.metadata:
            shown["metadata"] = blast.metadata
    if not facts.recipients:
        _hide_recipient(shown, message.address)
    elif message.address:
        shown["recipient"] = message.address
    return shown


def _hide_recipient(shown: dict[str, Any], address: str) -> None:
    """Hide the recipient in what the provider wrote: its texts may quote an address, WhatsApp's ids have the number."""
    holder = shown.get("error") or shown
    if holder.get("message"):
        holder["message"] = mask(without_recipient(holder["message"], address))
    if shown["channel"] != "email":
        shown.pop("messageId", None)


def _of_blast(facts: Facts, event: Journaled, data: dict[str, Any]) -> dict[str, Any]:
    blast = facts.blasts.get(event.subject, _NO_BLAST)
    shown = {"blastId": event.subject, **data, "reference": blast.reference, "metadata": blast.metadata}
    if not facts.recipients:
        _mask_reason(shown)
    return {key: value for key, value in shown.items() if value not in ("", None, {})}


def _of_suppression(facts: Facts, event: Journaled, data: dict[str, Any]) -> dict[str, Any]:
    address = data.pop("address")
    shown = {"channel": event.channel, **data}
    if parse_job_id(event.subject):
        shown["jobId"] = event.subject
    if facts.recipients:
        shown["recipient"] = address
    else:
        shown["reason"] = mask(without_recipient(shown["reason"], address))
    return shown


def _of_channel(facts: Facts, event: Journaled, data: dict[str, Any]) -> dict[str, Any]:
    if not facts.recipients:
        _mask_reason(data)
    return {"channel": event.channel, **data}


def _mask_reason(data: dict[str, Any]) -> None:
    """Hide addresses and numbers in the reason of a pause: a provider may have refused one with these words."""
    if data.get("reason"):
        data["reason"] = mask(data["reason"])


def _as_journaled(_facts: Facts, _event: Journaled, data: dict[str, Any]) -> dict[str, Any]:
    return data


_SHOWN = {"message": _of_message, "blast": _of_blast, "suppression": _of_suppression, "channel": _of_channel}
