"""Requests: the bodies that the API accepts, as typed structs that msgspec decodes straight from the bytes.

JSON names are camelCase. Unknown fields are refused: a misspelt `scheduledAt` must not send a blast immediately.
Recipients stay undecoded (`msgspec.Raw`) in a blast, so that each is decoded, checked and reported separately.
`services.ingest.http.decoding` decodes any of these and reports every problem in one answer.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.suppressions import Scope, Source

Name = Annotated[str, Meta(max_length=200, examples=["Siti"])]
Address = Annotated[str, Meta(max_length=320)]
TemplateId = Annotated[str, Meta(min_length=1, max_length=100, examples=["otp"])]
ChannelName = Annotated[str, Meta(examples=["email"])]
Reference = Annotated[str, Meta(max_length=200)]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339 with a time zone, e.g. 2026-01-31T12:00:00Z")]
Variables = Annotated[dict[str, Any], Meta(description="Values for the template's variables, by name.")]
OwnVariables = Annotated[
    dict[str, Any],
    Meta(description="Values for this recipient; they override global variables.", examples=[{"code": "482913"}]),
]
Validation = Literal["strict", "permissive"]
OnDuplicate = Literal["collapse", "error"]
Priority = Annotated[int, Meta(ge=0, le=2, description="0 first, 1 the default, 2 bulk")]


class Request(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Base of every body: camelCase names, no unknown fields."""


class AttachmentRequest(Request, kw_only=True, frozen=True):
    """A file attached to a message; `content` is base64.

    With a `contentId`, the html can show it as `cid:<contentId>`. A `text/calendar` with a `method` is an invitation.
    """

    filename: Annotated[str, Meta(min_length=1, max_length=255)]
    content_type: Annotated[str, Meta(max_length=500, examples=["application/pdf", "text/calendar; method=REQUEST"])]
    content: Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})]
    content_id: Annotated[str, Meta(max_length=200, examples=["logo"])] = ""


class RecipientRequest(Request, kw_only=True, frozen=True):
    """A recipient: a name, an address for each channel of the blast, and values for the template's variables."""

    name: Name = ""
    email: Annotated[str, Meta(max_length=320, examples=["siti@example.com"])] | None = None
    phone: Annotated[str, Meta(max_length=64)] | None = None
    variables: OwnVariables = {}
    attachments: list[AttachmentRequest] = []
    reference: Reference = ""


class Content(Request, kw_only=True, frozen=True):
    """What is sent: a template and the variables that all recipients share."""

    template_id: TemplateId
    global_variables: Variables = {}


class SendingTerms(Content, kw_only=True, frozen=True):
    """How it is sent, to one recipient or to many: sender, priority, times, attachments, and the client's own data."""

    from_: Annotated[str, Meta(max_length=500, description="An RFC 5322 mailbox")] | None = msgspec.field(
        name="from", default=None
    )
    reply_to: Address | None = None
    priority: Priority | None = None
    scheduled_at: Instant | None = None
    expires_at: Instant | None = None
    attachments: list[AttachmentRequest] = []
    reference: Reference = ""
    metadata: Annotated[
        dict[str, Any], Meta(description="Kept with the blast as it came: at most 16 KB, nested in at most 32 levels")
    ] = {}
    dry_run: bool = False


class BlastHead(SendingTerms, kw_only=True, frozen=True):
    """Everything about a blast except its recipients: the first line of NDJSON, the part `blast` of multipart."""

    channels: Annotated[list[ChannelName], Meta(min_length=1, max_length=16, examples=[["email"]])]
    validation: Validation = "strict"
    on_duplicate: OnDuplicate = "collapse"


class BlastRequest(BlastHead, kw_only=True, frozen=True):
    """A blast with its recipients, as one JSON body."""

    recipients: list[msgspec.Raw]


class MessageRequest(SendingTerms, kw_only=True, frozen=True):
    """One message to one recipient."""

    recipient: msgspec.Raw
    channel: ChannelName


class ChannelPatch(Request, kw_only=True, frozen=True):
    """The settings of a channel that can be changed at run time.

    `rate` is "10/1s" or "off"; null restores the senders' own setting.
    """

    rate: Annotated[str, Meta(max_length=32, examples=["10/1s"])] | None


class PauseRequest(Request, kw_only=True, frozen=True):
    """Why a channel or a blast is paused; shown wherever its state is shown."""

    reason: Annotated[str, Meta(max_length=200)] = "paused through the API"


class SignInRequest(Request, kw_only=True, frozen=True):
    """The API key with which to sign in to the console."""

    api_key: Annotated[str, Meta(min_length=1, max_length=500)]


class RetryFailedRequest(Request, kw_only=True, frozen=True):
    """Which failed messages of a blast to send again; `includeUncertain` adds those that may have been delivered.

    With a `channel`, an `errorClass` or an `errorCode`, only those that failed there and so; an empty `errorCode` means
    those without a code. `GET /blasts/{id}/failures` lists them.
    """

    include_uncertain: bool = False
    channel: ChannelName | None = None
    error_class: Annotated[str, Meta(max_length=100, examples=["permanent"])] | None = None
    error_code: Annotated[str, Meta(max_length=200, examples=["5.1.1"])] | None = None


class RetryMatchingRequest(Request, kw_only=True, frozen=True):
    """Whether to send all failed messages that match the query's filter again.

    Without `confirm` they are only counted; with it they are sent again if at most that many match.
    `includeUncertain` adds those that may have been delivered.
    """

    confirm: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    include_uncertain: bool = False


class RetryRequest(Request, kw_only=True, frozen=True):
    """Which dead letters to send again; `includeUncertain` adds those that may have been delivered."""

    include_uncertain: bool = False


class EvidenceRequest(Request, kw_only=True, frozen=True):
    """The evidence for a suppression: the message that led to it, and what the recipient or provider said."""

    job_id: Annotated[str, Meta(max_length=200)] = ""
    words: Annotated[str, Meta(max_length=1000)] = ""


class SuppressionRequest(Request, kw_only=True, frozen=True):
    """An address that gets no more messages through a channel, or no more marketing.

    Without a `scope`, all messages are stopped, unless the `source` is an unsubscription, an opt-out or a complaint:
    these stop marketing only. It lasts until `expiresAt`, or until it is lifted.
    """

    channel: ChannelName
    address: Annotated[str, Meta(min_length=1, max_length=320, examples=["siti@example.com"])]
    scope: Scope | None = None
    source: Source = "api"
    reason: Annotated[str, Meta(max_length=200)] = "manual"
    expires_at: Instant | None = None
    evidence: EvidenceRequest = EvidenceRequest()


class LiftRequest(Request, kw_only=True, frozen=True):
    """Which suppressions to lift; at least one field besides `confirm` is needed.

    Without `confirm` they are only counted; with it they are lifted if `confirm` is their number.
    """

    channel: ChannelName | None = None
    address: Annotated[str, Meta(max_length=320, description="A part of the address")] | None = None
    scope: Scope | None = None
    source: Source | None = None
    reason: Annotated[str, Meta(max_length=200, description="A part of the reason")] | None = None
    confirm: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
