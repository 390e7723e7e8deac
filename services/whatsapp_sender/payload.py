"""Turns a job and its blast into the body of a request: an approved template, its parameters, and the job's id.

Everything that all recipients share is prepared before the first message.
"""

from __future__ import annotations

from typing import Any

import orjson
from cachetools import LRUCache

from services.whatsapp_sender.driver import Driver
from shared.blasts import Blast
from shared.errors import PermanentError
from shared.jobs import Job
from shared.rendering import BlastValues, RenderError, compile_template
from shared.sending.provider import RenderedMessage

MOST_BYTES = 64 * 1024 * 1024


class WhatsAppMessage(RenderedMessage, frozen=True):
    """A message ready to be posted: the digits of the recipient's number and the JSON body."""

    to: str
    body: bytes


class Payload:
    """What the messages of a blast have in common; raises PermanentError if its template cannot be compiled."""

    def __init__(self, blast: Blast, driver: Driver) -> None:
        self.blast_id = blast.blast_id
        content = blast.template.whatsapp
        if content is None:
            raise PermanentError("cannot be rendered: whatsapp: the template has no WhatsApp content", code="render")
        try:
            self._template = compile_template(blast.template)
        except RenderError as error:
            raise _unrenderable(error) from error
        self._values = BlastValues(blast)
        named: dict[str, Any] = {
            "name": content.template_name,
            "language": {"policy": "deterministic", "code": content.language},
        }
        if content.namespace and driver.takes_namespace:
            named["namespace"] = content.namespace
        # the parts of the body in which only the address, the parameters and the job's id are missing
        self._head = _unclosed({**driver.fields, "to": ""})[:-2]
        plain = _unclosed({"type": "template", "template": named})
        self._plain, self._filled = b"," + plain[1:], b"," + plain[1:-1] + b',"components":'

    @property
    def size(self) -> int:
        """The approximate memory that it keeps, in bytes."""
        return self._template.size

    def fill(self, job: Job) -> WhatsAppMessage:
        """Return the message of one job; raises PermanentError, which names the missing or unsuitable variable.

        `biz_opaque_callback_data` has the job's id: WhatsApp repeats it in every status of the message.
        """
        try:
            components = self._template.components(self._values.of(job))
        except RenderError as error:
            raise _unrenderable(error) from error
        job_id, to = job.job_id, job.recipient.address.removeprefix("+")
        template = b"%b%b}" % (self._filled, orjson.dumps(components)) if components else self._plain
        ends = (orjson.dumps(to), template, orjson.dumps(job_id))
        return WhatsAppMessage(job_id, "", to, b'%b%b%b,"biz_opaque_callback_data":%b}' % (self._head, *ends))


class Payloads:
    """A cache of the payloads of recent blasts; evicts the least recently used first."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._kept: LRUCache[str, Payload] = LRUCache(MOST_BYTES, lambda payload: min(payload.size, MOST_BYTES))
        self._latest: Payload | None = None

    def get(self, blast: Blast) -> Payload:
        """Return a blast's payload, prepared at its first message; raises PermanentError."""
        if self._latest is None or self._latest.blast_id != blast.blast_id:
            self._latest = self._kept.get(blast.blast_id) or self._prepared(blast)
        return self._latest

    def _prepared(self, blast: Blast) -> Payload:
        payload = self._kept[blast.blast_id] = Payload(blast, self._driver)
        return payload


def _unclosed(fields: dict[str, Any]) -> bytes:
    """Return an object in JSON without its last brace."""
    return orjson.dumps(fields)[:-1]


def _unrenderable(error: RenderError) -> PermanentError:
    return PermanentError(f"cannot be rendered: {error}", code="render")
