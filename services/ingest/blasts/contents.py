"""The content of a message: rendered again from what the queue or its dead letter still has of it.

Nothing stores rendered messages. A message that waits, is being sent or has failed can be rendered as its sender
renders it, from the blast's snapshot and the job; of all others only the log's row is left. Values of sensitive
variables are stars, and the unsubscribe link is an example: the real one would unsubscribe the recipient.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from services.ingest.http.gateway import Gateway
from shared.blasts import Blast, unpack_blast
from shared.channels import EMAIL
from shared.errors import DecodeError
from shared.jobs import TERMINAL, Job, JobId, unpack_job
from shared.rendering import Rendered, RenderError, compile_template, job_values, whatsapp_components
from shared.sealing import HIDDEN, SEALED, sensitive_names

EXAMPLE_LINK = "https://example.com/u/example"
_SEARCH_S = 2.0


class NotKeptError(Exception):
    """The content cannot be shown; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Content:
    """A rendered message: a mail, or the components of a WhatsApp message; and its job and blast."""

    job: Job
    blast: Blast
    mail: Rendered | None
    components: list[Any]


async def content_of(gateway: Gateway, job: JobId, status: str) -> Content:
    """Return the content of a message with this status; raises NotKeptError."""
    if status in TERMINAL and status != "failed":
        raise NotKeptError(_GONE.get(status, _NEVER_SENT))
    found, blast = await (_letter(gateway, job) if status == "failed" else _waiting(gateway, job))
    blast = blast or await gateway.queue.blasts.load(job.blast_id)
    if blast is None:
        raise NotKeptError("The content of its blast is no longer kept.")
    return _rendered(blast, found)


_GONE = {
    "sent": "The text of a message is not kept once the provider has accepted it. To see what it looked like, preview"
    " its template with this recipient's values.",
}
_NEVER_SENT = "It was never sent, and its content is not kept. To see its text, preview its template."


async def _waiting(gateway: Gateway, job: JobId) -> tuple[Job, Blast | None]:
    try:
        async with asyncio.timeout(_SEARCH_S):
            found = await gateway.queue.control.find_job(job)
    except TimeoutError:
        raise NotKeptError("Too many messages wait before it to find it now. Ask again when fewer wait.") from None
    if found is None:
        raise NotKeptError("It has just left the queue. Ask again in a moment.")
    return found, None


async def _letter(gateway: Gateway, job: JobId) -> tuple[Job, Blast | None]:
    path = f"/internal/messages/{job.blast_id}:{job.index}:{job.channel}/letter"
    status, body = await gateway.logger.call("GET", path)
    if status != 200:
        raise NotKeptError("The log no longer has what is needed to render it.")
    try:
        return unpack_job(base64.b64decode(body["job"])), unpack_blast(base64.b64decode(body["blast"]))
    except DecodeError:
        raise NotKeptError("It was stored by a later version of Kurir, which can show it.") from None


def _rendered(blast: Blast, job: Job) -> Content:
    template, hidden = blast.template, sensitive_names(blast.template)
    shown = msgspec.structs.replace(blast, variables=_without_secrets(blast.variables))
    recipient = msgspec.structs.replace(job.recipient, variables=_without_secrets(job.recipient.variables))
    try:
        values = job_values(shown, msgspec.structs.replace(job, recipient=recipient), EXAMPLE_LINK)
        values |= dict.fromkeys(hidden, HIDDEN)
        if job.channel == EMAIL.name:
            return Content(job, blast, compile_template(template).render(values), [])
        return Content(job, blast, None, whatsapp_components(template, values))
    except RenderError as error:
        if hidden:
            raise NotKeptError("Its text cannot be shown without the values of its sensitive variables.") from error
        raise NotKeptError(f"It cannot be rendered: {error}") from error


def _without_secrets(variables: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name != SEALED}
