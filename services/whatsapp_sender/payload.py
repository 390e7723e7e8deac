"""Turns a job and its blast into the body of a request: an approved template, its parameters, and the job's id."""

from __future__ import annotations

from typing import Any

import orjson

from services.whatsapp_sender.driver import Driver
from shared.blasts import Blast
from shared.errors import PermanentError
from shared.jobs import Job
from shared.rendering import RenderError, job_values, whatsapp_components
from shared.sending.provider import RenderedMessage


class WhatsAppMessage(RenderedMessage, frozen=True):
    """A message ready to be posted: the digits of the recipient's number and the JSON body."""

    to: str
    body: bytes


def render_message(job: Job, blast: Blast, driver: Driver) -> WhatsAppMessage:
    """Render a job; raises PermanentError, which names the missing or unsuitable variable.

    `biz_opaque_callback_data` has the job's id: WhatsApp repeats it in every status of the message.
    """
    content = blast.template.whatsapp
    try:
        components = whatsapp_components(blast.template, job_values(blast, job))
    except RenderError as error:
        raise PermanentError(f"cannot be rendered: {error}", code="render") from error
    if content is None:  # whatsapp_components has refused it already
        raise PermanentError("the template has no WhatsApp content", code="render")
    template: dict[str, Any] = {
        "name": content.template_name,
        "language": {"policy": "deterministic", "code": content.language},
    }
    if content.namespace and driver.takes_namespace:
        template["namespace"] = content.namespace
    if components:
        template["components"] = components
    to = job.recipient.address.removeprefix("+")
    message = {"to": to, "type": "template", "template": template, "biz_opaque_callback_data": job.job_id}
    return WhatsAppMessage(job.job_id, "", to, orjson.dumps({**driver.fields, **message}))
