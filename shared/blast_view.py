"""A blast as the API shows it: ingest makes it from what Redis has, the logger from its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.blasts import BlastState
from shared.clock import rfc3339
from shared.jobs import LANE_OF_PRIORITY, TERMINAL

_PRIORITY_OF_LANE: Mapping[str, int] = {lane: priority for priority, lane in LANE_OF_PRIORITY.items()}


class BlastChannel(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A blast's progress on one channel; the `counts` by status add up to `enqueued`.

    `delivery` counts what receipts made of its messages, each message once; None while the log cannot be read.
    """

    total: int
    enqueued: int
    counts: dict[str, int]
    delivery: dict[str, int] | None = None
    paused: str | None = None
    cancelled: bool = False
    waiting_for: str | None = None
    ended_at: str | None = None


class BlastView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The current state of a blast.

    `progress` is the share of its messages that have ended; `rate` the number that recently ended per second;
    `etaSeconds` how long the rest takes at that rate.
    """

    blast_id: str
    state: str
    template_id: str
    template_name: str = ""
    channels: dict[str, BlastChannel]
    total_messages: int
    total_recipients: int
    counts: dict[str, int]
    delivery: dict[str, int] | None = None
    progress: float
    rate: float | None = None
    eta_seconds: int | None = None
    waiting_for: str | None = None
    priority: int | None = None
    scheduled_at: str | None = None
    expires_at: str | None = None
    created_at: str | None = None
    last_progress_at: str | None = None
    ended_at: str | None = None
    reference: str = ""
    metadata: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class BlastFacts:
    """What is known of a blast apart from its progress; times in ms since the epoch, 0 for none."""

    blast_id: str
    state: BlastState
    template_id: str
    template_name: str
    total_recipients: int
    lane: str
    created_at_ms: int
    scheduled_at_ms: int
    expires_at_ms: int
    ended_at_ms: int
    last_progress_at_ms: int
    reference: str
    metadata: dict[str, Any]


def make_view(facts: BlastFacts, channels: dict[str, BlastChannel], counts: dict[str, int]) -> BlastView:
    """Return a blast with its progress, without a rate; `counts` are those of all channels together."""
    total = sum(one.total for one in channels.values())
    return BlastView(
        blast_id=facts.blast_id,
        state=facts.state,
        template_id=facts.template_id,
        template_name=facts.template_name,
        channels=channels,
        total_messages=total,
        total_recipients=facts.total_recipients,
        counts=counts,
        progress=round(_ended(counts) / total, 4) if total else 1.0,
        waiting_for=next((one.waiting_for for one in channels.values() if one.waiting_for), None),
        priority=_PRIORITY_OF_LANE.get(facts.lane),
        scheduled_at=time_of(facts.scheduled_at_ms),
        expires_at=time_of(facts.expires_at_ms),
        created_at=time_of(facts.created_at_ms),
        last_progress_at=time_of(facts.last_progress_at_ms),
        ended_at=time_of(facts.ended_at_ms),
        reference=facts.reference,
        metadata=facts.metadata,
    )


def with_rate(view: BlastView, rate: float | None) -> BlastView:
    """Add how many messages end a second, and how long the rest takes at that rate."""
    left = view.total_messages - _ended(view.counts)
    eta_s = int(left / rate) + 1 if rate else None
    return msgspec.structs.replace(view, rate=None if rate is None else round(rate, 2), eta_seconds=eta_s)


def with_deliveries(view: BlastView, deliveries: Mapping[str, Mapping[str, int]]) -> BlastView:
    """Add the counts of deliveries by channel, and their sums; without any the view stays as it is."""
    if not deliveries:
        return view
    channels = {
        name: msgspec.structs.replace(one, delivery=dict(deliveries[name])) if name in deliveries else one
        for name, one in view.channels.items()
    }
    every: Counter[str] = Counter()
    for counts in deliveries.values():
        every.update(counts)
    return msgspec.structs.replace(view, channels=channels, delivery=dict(every))


def deliveries_of(shown: Mapping[str, Any]) -> dict[str, Mapping[str, int]]:
    """Return the counts of deliveries by channel of a blast as the logger shows it."""
    return {name: one["delivery"] for name, one in shown.get("channels", {}).items() if one.get("delivery")}


def is_over(view: BlastView) -> bool:
    """Return whether no more of its messages can end."""
    return bool(view.ended_at) or _ended(view.counts) >= view.total_messages


def time_of(at_ms: int) -> str | None:
    """Return a time as the API writes it, None for none."""
    return rfc3339(at_ms) if at_ms else None


def _ended(counts: Mapping[str, int]) -> int:
    return sum(counts.get(status, 0) for status in TERMINAL)
