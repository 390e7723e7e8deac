"""Previews: one recipient's message, rendered and shown, not sent."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from services.ingest.blasts.contents import EXAMPLE_LINK
from services.ingest.blasts.recipient_checker import RecipientChecker
from services.ingest.blasts.recipients import Accepted, Rules
from services.ingest.blasts.variables import check_global_variables, unknown_globals
from services.ingest.http.bodies import BODY_ERRORS, read_struct
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation
from services.ingest.http.responses import Answer, json_response
from services.ingest.templates.checking import check_template
from services.ingest.templates.requests import PreviewRequest, template_of
from shared.channels import CHANNELS, EMAIL
from shared.rendering import RenderError, compile_template, merge_variables, whatsapp_components
from shared.templates import Template

_DRAFT = "draft"


class Preview(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The rendered message: subject, html and text of a mail, or the components of a WhatsApp message."""

    channel: str
    subject: str | UnsetType = UNSET
    html: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    components: list[dict[str, Any]] | UnsetType = UNSET


class PreviewAnswer(Answer, kw_only=True, frozen=True):
    """A rendered message."""

    preview: Preview
    warnings: list[Problem] | UnsetType = UNSET


class _Contact:
    """The recipient in the form that rendering needs."""

    def __init__(self, accepted: Accepted, field: str) -> None:
        self.name = accepted.name
        self.email = accepted.addresses[0] if field == "email" else ""
        self.phone = accepted.addresses[0] if field == "phone" else ""
        self.variables = accepted.variables


async def _preview(call: Call) -> web.Response:
    request = await read_struct(call, PreviewRequest)
    template = await _template(call, request)
    region = call.gateway.settings.default_region
    variables, problems = check_global_variables(template, request.global_variables, region)
    rules = Rules(template, (request.channel,), variables, region)
    checker = RecipientChecker(rules)
    checked = checker.check_json(request.recipient, 0, "recipient")
    problems += checked.problems
    if problems or checked.accepted is None:
        raise invalid(problems)
    contact = _Contact(checked.accepted, CHANNELS[request.channel].address_field)
    values = {"unsubscribe_url": EXAMPLE_LINK} | merge_variables(template, variables, contact)
    values["unsubscribe_url"] = values["unsubscribe_url"] or EXAMPLE_LINK
    warnings = [*unknown_globals(template, request.global_variables), *checker.unknown.warnings]
    preview = _rendered(template, request.channel, values)
    return json_response(PreviewAnswer(preview=preview, warnings=warnings or UNSET))


async def _template(call: Call, request: PreviewRequest) -> Template:
    template, problems = await _given(call, request)
    if request.channel not in CHANNELS:
        what = f"there is no channel {request.channel[:60]!r}: use {' or '.join(CHANNELS)}"
        problems.append(Problem("channel", "UNKNOWN_CHANNEL", what))
    elif template is not None and request.channel not in template.channels:
        what = f"template {template.id} supports {', '.join(template.channels)}, not {request.channel}"
        problems.append(Problem("channel", "CHANNEL_NOT_SUPPORTED", what))
    if problems or template is None:
        raise invalid(problems)
    call.vouch_for(template)
    return template


async def _given(call: Call, request: PreviewRequest) -> tuple[Template | None, list[Problem]]:
    """Return the template that the request names or brings, and what is wrong with it."""
    if request.template is not None:
        if request.template_id:
            return None, [Problem("templateId", "INVALID_VALUE", "give either templateId or template")]
        draft = template_of(_DRAFT, request.template)
        found = check_template(draft, call.gateway.settings.default_region)
        problems = [
            Problem(f"template.{one.field}" if one.field else "template", one.code, one.message) for one in found
        ]
        return None if problems else draft, problems
    if not request.template_id:
        return None, [Problem("templateId", "REQUIRED", "templateId is required, or a whole template")]
    template = await call.gateway.templates.find(request.template_id)
    if template is None:
        what = f"there is no template {request.template_id[:60]!r}"
        return None, [Problem("templateId", "UNKNOWN_TEMPLATE", what)]
    return template, []


def _rendered(template: Template, channel: str, values: dict[str, Any]) -> Preview:
    try:
        if channel == EMAIL.name:
            rendered = compile_template(template).render(values)
            return Preview(channel=channel, subject=rendered.subject, html=rendered.html, text=rendered.text)
        return Preview(channel=channel, components=whatsapp_components(template, values))
    except RenderError as error:
        raise ApiError("RENDER_FAILED", str(error), [Problem(error.part, "RENDER_FAILED", str(error))]) from error


OPERATIONS = [
    Operation("POST", "/messages/preview", "previewMessage", "Render one recipient's message without sending it",
              _preview, "read", PreviewAnswer, body=Body({JSON: PreviewRequest}),
              errors=(*BODY_ERRORS, "VALIDATION_FAILED"), guarded=True),
]  # fmt: skip
