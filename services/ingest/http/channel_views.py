"""A channel as the API shows it: its limits, senders and counts, and why its messages wait."""

from __future__ import annotations

import msgspec

from services.ingest.http.gateway import Gateway
from services.ingest.http.responses import Stats
from shared.queue.control import ChannelStats, RateSource, channel_waits_for


class SenderView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A live sender: `reason` is why it is unavailable, `rate` its own setting."""

    id: str
    host: str
    concurrency: int
    rate: str | None
    available: bool
    reason: str = ""


class ChannelView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A channel: `paused` is the reason, null if it is not paused.

    `rate` is the limit in force ("off" for none), `rateSource` its origin: `api` for one set at run time, `setting` for
    the senders' own. Both are null while no sender runs that could report it. `waitingFor` says why messages wait, in
    the words of a blast's; null if nothing holds them.
    """

    name: str
    configured: bool
    paused: str | None
    rate: str | None
    rate_source: RateSource | None
    senders: list[SenderView]
    stats: Stats
    oldest_age_seconds: dict[str, float]
    waiting_for: str | None = None


def stats_of(counted: ChannelStats) -> Stats:
    """Return a channel's counts as the API shows them."""
    return Stats(
        waiting=counted.waiting,
        active=counted.active,
        delayed=counted.delayed,
        scheduled=counted.scheduled,
        completed=counted.completed,
        failed=counted.failed,
        paused=counted.paused,
    )


def channel_view(gateway: Gateway, name: str, counted: ChannelStats) -> ChannelView:
    """Return a channel with these counts."""
    rate, source = counted.rate or (None, None)
    return ChannelView(
        name=name,
        configured=name in gateway.settings.configured_channels,
        paused=counted.pause_reason or None,
        rate=rate,
        rate_source=source,
        senders=[
            SenderView(
                id=one.sender_id,
                host=one.host,
                concurrency=one.concurrency,
                rate=one.rate or None,
                available=one.available,
                reason=one.reason,
            )
            for one in counted.senders
        ],
        stats=stats_of(counted),
        oldest_age_seconds=counted.oldest_age_s,
        waiting_for=channel_waits_for(counted) or None,
    )
