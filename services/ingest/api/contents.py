"""The content of one message: what it says, where anything of it is still kept."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from services.ingest.api.known_messages import find_message, job_of
from services.ingest.api.previews import Preview
from services.ingest.blasts.contents import Content, NotKeptError, content_of
from services.ingest.http.operation import Call, Operation
from services.ingest.http.responses import Answer, json_response

_NOT_FOR_YOU = "The text may name the recipient, whom this API key may not see."


class AttachedView(Struct, kw_only=True, frozen=True, rename="camel"):
    """A file of a message; `size` is in bytes."""

    filename: str
    content_type: str
    size: int


class ContentAnswer(Answer, kw_only=True, frozen=True):
    """The rendered message while what it is made from is kept; else `reason` says why not, and what to do.

    Values of sensitive variables are stars, and the unsubscribe link is an example.
    """

    kept: bool
    content: Preview | UnsetType = UNSET
    attachments: list[AttachedView] | UnsetType = UNSET
    reason: str | UnsetType = UNSET


async def _show_content(call: Call) -> web.Response:
    job = job_of(call)
    message = await find_message(call, job)
    if call.masked:
        return json_response(ContentAnswer(kept=False, reason=_NOT_FOR_YOU))
    try:
        found = await content_of(call.gateway, job, message["status"])
    except NotKeptError as error:
        return json_response(ContentAnswer(kept=False, reason=str(error)))
    return json_response(ContentAnswer(kept=True, content=_preview(found), attachments=_attached(found)))


def _preview(found: Content) -> Preview:
    channel, mail = found.job.channel, found.mail
    if mail is None:
        return Preview(channel=channel, components=found.components)
    return Preview(channel=channel, subject=mail.subject, html=mail.html, text=mail.text)


def _attached(found: Content) -> list[AttachedView]:
    recipient = found.job.recipient
    within = [
        AttachedView(filename=one.filename, content_type=one.content_type, size=len(one.content))
        for one in (*found.blast.attachments, *(recipient.attachments or ()))
    ]
    apart = [
        AttachedView(filename=one.filename, content_type=one.content_type, size=one.size) for one in recipient.files
    ]
    return within + apart


OPERATIONS = [
    Operation("GET", "/messages/{jobId}/content", "showContent",
              "Show what a message says, while it waits or can be sent again", _show_content, answer=ContentAnswer,
              errors=("JOB_NOT_FOUND", "LOGGER_UNAVAILABLE")),
]  # fmt: skip
