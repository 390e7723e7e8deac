"""Views: a suppression as the API shows it, its id, and its row in an export."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Any

import msgspec

from shared.channels import CHANNELS
from shared.clock import rfc3339
from shared.queue.suppressions import Listed
from shared.recipient_masks import masked_address, masked_text
from shared.suppressions import SCOPES, Scope, Source

# an id contains the address: a masked one cannot be turned back, nor guessed
_NO_IDS = secrets.token_bytes(32)
COLUMNS = ("channel", "address", "scope", "source", "reason", "createdAt", "expiresAt", "jobId", "words", "by")


class EvidenceView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The evidence of a suppression: the message that led to it, the provider's words, the API key that set it."""

    job_id: str | None
    words: str | None
    by: str | None


class SuppressionView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A suppressed address; `id` identifies it for GET and DELETE.

    `scope` is what it stops: `all` messages, or only `marketing`. `createdAt` is null where an earlier version stored
    it, `expiresAt` where it lasts until it is lifted.
    """

    id: str
    channel: str
    address: str
    scope: Scope
    source: Source
    reason: str
    created_at: str | None
    expires_at: str | None
    evidence: EvidenceView


def view_of(channel: str, one: Listed) -> SuppressionView:
    """Return a suppression as the API shows it."""
    kept = one.suppression
    return SuppressionView(
        id=suppression_id(channel, kept.scope, one.address),
        channel=channel,
        address=one.address,
        scope=kept.scope,
        source=kept.source,
        reason=kept.reason,
        created_at=_time(kept.created_at_ms),
        expires_at=_time(kept.expires_at_ms),
        evidence=EvidenceView(job_id=kept.job_id or None, words=kept.words or None, by=kept.by or None),
    )


def masked_view(view: SuppressionView) -> SuppressionView:
    """Return a suppression for a caller that may not see recipients; its id names it in lists and nowhere else."""
    evidence = msgspec.structs.replace(view.evidence, words=view.evidence.words and masked_text(view.evidence.words))
    return msgspec.structs.replace(
        view,
        id=hashlib.blake2b(view.id.encode(), key=_NO_IDS, digest_size=12).hexdigest(),
        address=masked_address(view.address),
        reason=masked_text(view.reason),
        evidence=evidence,
    )


def row_of(view: SuppressionView) -> tuple[Any, ...]:
    """Return a suppression as a row of an export, in the order of COLUMNS; an import can read it back."""
    evidence = view.evidence
    times = (view.created_at or "", view.expires_at or "")
    seen = (evidence.job_id or "", evidence.words or "", evidence.by or "")
    return (view.channel, view.address, view.scope, view.source, view.reason, *times, *seen)


def suppression_id(channel: str, scope: str, address: str) -> str:
    """Return the id of a suppression, safe for use in a path."""
    return base64.urlsafe_b64encode(f"{channel}:{scope}:{address}".encode()).decode().rstrip("=")


def parse_suppression_id(text: str) -> tuple[str, Scope | None, str] | None:
    """Return the channel, scope and address of an id, None if it is not one.

    Ids of earlier versions have no scope: they refer to every suppression of the address.
    """
    try:
        decoded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return None
    channel, _, rest = decoded.partition(":")
    named, found, address = rest.partition(":")
    scope = next((one for one in SCOPES if found and one == named), None)
    address = address if scope is not None else rest
    return (channel, scope, address) if channel in CHANNELS and address else None


def _time(at_ms: int) -> str | None:
    return rfc3339(at_ms) if at_ms else None
