"""Terms: everything about a blast except its recipients, checked against the templates, the settings and the caller.

A request that is repeated after a crash continues an existing blast: then the terms come from its snapshot, whatever
has changed since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from services.ingest.api_keys import ApiKey
from services.ingest.blasts.addresses import read_mailbox
from services.ingest.blasts.attachments import attachments_of
from services.ingest.blasts.recipients import Rules
from services.ingest.blasts.variables import check_global_variables, unknown_globals
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.requests import BlastHead
from services.ingest.settings import IngestSettings
from services.ingest.storage.templates import TemplateLibrary
from shared.addresses import AddressError, ascii_domain
from shared.blasts import Blast
from shared.channels import CHANNELS, EMAIL
from shared.jobs import LANE_OF_PRIORITY, Attachment, Lane
from shared.mailboxes import normal_email
from shared.numbers import plain_json
from shared.templates import Template

MAX_METADATA_BYTES = 16 * 1024
# writers of JSON give up at some 250, and metadata is written within other objects
MAX_METADATA_LEVELS = 32
# clocks differ, so a time that has just passed means now
_PAST_TOLERANCE_MS = 60_000
_FURTHEST_MS = 366 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, with its time, and the templates and settings that apply."""

    settings: IngestSettings
    templates: TemplateLibrary
    key: ApiKey | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class Terms:
    """A checked head; `priority` None lets the size decide. Times are in ms since the epoch, 0 for none."""

    template: Template
    channels: tuple[str, ...]
    variables: dict[str, Any]
    from_address: str
    reply_to: str
    priority: int | None
    scheduled_at_ms: int
    expires_at_ms: int
    attachments: list[Attachment]
    head: BlastHead
    warnings: list[Problem]

    def rules(self, region: str) -> Rules:
        """Return the rules for each recipient."""
        return Rules(
            template=self.template,
            channels=self.channels,
            global_variables=self.variables,
            region=region,
            permissive=self.head.validation == "permissive",
            attachments=self.attachments,
        )

    def lane(self, recipients: int, bulk_from: int) -> Lane | Problem:
        """Return the lane for a blast of this size, or the problem with its priority."""
        many = recipients > bulk_from
        if many and self.priority == 0:
            what = f"a blast of more than {bulk_from} recipients cannot have priority 0: use 1 or 2, or leave it out"
            return Problem("priority", "PRIORITY_NOT_ALLOWED", what)
        if self.priority is None:
            return "bulk" if many else "normal"
        return LANE_OF_PRIORITY[self.priority]


@dataclass(slots=True)
class _Draft:
    head: BlastHead
    caller: Caller
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: str, code: str, message: str) -> None:
        self.problems.append(Problem(path, code, message))


async def check_terms(head: BlastHead, caller: Caller) -> Terms | list[Problem]:
    """Check a head; raises ApiError SENDER_NOT_ALLOWED."""
    draft = _Draft(head, caller)
    template = await caller.templates.find(head.template_id) if _fit_id(head.template_id) else None
    if template is None:
        draft.problem("templateId", "UNKNOWN_TEMPLATE", f"there is no template {head.template_id[:60]!r}")
    channels = _channels(draft, template)
    _check_link(draft, template, channels)
    variables = _variables(draft, template)
    sender, reply_to = _mailboxes(draft, channels)
    scheduled_at_ms, expires_at_ms = _times(draft)
    attachments, problems = attachments_of(head.attachments, "")
    draft.problems += problems
    _check_labels(draft)
    if draft.problems or template is None:
        return draft.problems
    return Terms(
        template=template,
        channels=channels,
        variables=variables,
        from_address=sender,
        reply_to=reply_to,
        priority=head.priority,
        scheduled_at_ms=scheduled_at_ms,
        expires_at_ms=expires_at_ms,
        attachments=attachments,
        head=head,
        warnings=unknown_globals(template, head.global_variables),
    )


def terms_of(blast: Blast, head: BlastHead) -> Terms:
    """Return the terms of an existing blast that was requested with this head."""
    return Terms(
        template=blast.template,
        channels=tuple(blast.channels),
        variables=blast.variables,
        from_address=blast.from_address,
        reply_to=blast.reply_to,
        priority=None,
        scheduled_at_ms=blast.scheduled_at_ms,
        expires_at_ms=blast.expires_at_ms,
        attachments=blast.attachments,
        head=head,
        warnings=unknown_globals(blast.template, head.global_variables),
    )


def _fit_id(template_id: str) -> bool:
    return template_id.isascii() and template_id.isprintable()


def _channels(draft: _Draft, template: Template | None) -> tuple[str, ...]:
    for position, name in enumerate(draft.head.channels):
        path = f"channels[{position}]"
        if name not in CHANNELS:
            what = f"there is no channel {name[:60]!r}: use {' or '.join(CHANNELS)}"
            draft.problem(path, "UNKNOWN_CHANNEL", what)
        elif name in draft.head.channels[:position]:
            draft.problem(path, "INVALID_VALUE", f"{name} is listed twice")
        elif name not in draft.caller.settings.configured_channels:
            draft.problem(path, "CHANNEL_NOT_CONFIGURED", f"no provider is configured for the channel {name}")
        elif template is not None and name not in template.channels:
            what = f"template {template.id} supports {', '.join(template.channels)}, not {name}"
            draft.problem(path, "CHANNEL_NOT_SUPPORTED", what)
    return tuple(draft.head.channels)


def _check_link(draft: _Draft, template: Template | None, channels: tuple[str, ...]) -> None:
    """Check that recipients of marketing mail can unsubscribe with one click (RFC 8058)."""
    if template is None or template.category != "marketing" or EMAIL.name not in channels:
        return
    if problem := draft.caller.settings.mail.marketing_problem:
        what = f"template {template.id} is marketing, and marketing mail needs an unsubscribe link: {problem}"
        draft.problem("templateId", "PUBLIC_URL_REQUIRED", what)


def _variables(draft: _Draft, template: Template | None) -> dict[str, Any]:
    if template is None:
        return {}
    region = draft.caller.settings.default_region
    values, problems = check_global_variables(template, draft.head.global_variables, region)
    draft.problems += problems
    return values


def _mailboxes(draft: _Draft, channels: tuple[str, ...]) -> tuple[str, str]:
    """Return the sender's mailbox ("" for the configured one) and the address for replies."""
    head, mail = draft.head, draft.caller.settings.mail
    if EMAIL.name not in channels:
        return "", ""
    mailbox = read_mailbox(head.from_ or mail.from_address, "from")
    if isinstance(mailbox, Problem):
        draft.problems.append(mailbox)
    else:
        domain = mailbox.address.rpartition("@")[2]
        if head.from_ and ascii_domain(domain) not in mail.domains:
            draft.problem(
                "from", "INVALID_VALUE", f"mail cannot be sent from {domain}: KURIR_EMAIL_DOMAINS does not list it"
            )
        elif draft.caller.key is not None and not draft.caller.key.may_send_from(mailbox.address):
            what = f"this API key is not allowed to send from {mailbox.address}"
            raise ApiError("SENDER_NOT_ALLOWED", what, [Problem("from", "SENDER_NOT_ALLOWED", what)])
    reply_to = ""
    if head.reply_to:
        try:
            reply_to = normal_email(head.reply_to)
        except AddressError as error:
            draft.problem("replyTo", "INVALID_EMAIL", str(error))
    return ("" if isinstance(mailbox, Problem) or not head.from_ else str(mailbox)), reply_to


def _times(draft: _Draft) -> tuple[int, int]:
    head, now_ms = draft.head, draft.caller.now_ms
    scheduled, expires = _ms(head.scheduled_at), _ms(head.expires_at)
    for name, at_ms in (("scheduledAt", scheduled), ("expiresAt", expires)):
        if at_ms is not None and at_ms < now_ms - _PAST_TOLERANCE_MS:
            draft.problem(name, "TIME_IN_PAST", f"{name} is in the past")
        elif at_ms is not None and at_ms > now_ms + _FURTHEST_MS:
            draft.problem(name, "TIME_TOO_FAR", f"{name} is more than a year away")
    if expires is not None and expires <= max(scheduled or 0, now_ms) and expires >= now_ms - _PAST_TOLERANCE_MS:
        draft.problem("expiresAt", "EXPIRES_BEFORE_START", "the messages would expire before they are sent")
    later = scheduled is not None and scheduled > now_ms
    return (scheduled or 0) if later else 0, expires or 0


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


def _check_labels(draft: _Draft) -> None:
    """Check the reference and the metadata, which are stored unchanged."""
    if not draft.head.reference.isprintable():
        draft.problem("reference", "INVALID_CHARACTERS", "reference contains line breaks or control characters")
    if _is_deeper(draft.head.metadata, MAX_METADATA_LEVELS):
        draft.problem("metadata", "INVALID_VALUE", f"metadata is nested in more than {MAX_METADATA_LEVELS} levels")
        return
    try:
        size = len(msgspec.msgpack.encode(plain_json(draft.head.metadata)))
    except (OverflowError, ValueError):
        draft.problem("metadata", "INVALID_VALUE", "metadata contains a number of more than 64 bits")
        return
    if size > MAX_METADATA_BYTES:
        draft.problem("metadata", "TOO_LONG", f"metadata is larger than {MAX_METADATA_BYTES} bytes")


def _is_deeper(value: Any, most: int) -> bool:
    """Return whether objects and lists are nested in more than `most` levels."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True
