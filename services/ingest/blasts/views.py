"""A blast as the API shows it, live from Redis: counts, progress, rate, and why it waits."""

from __future__ import annotations

from collections.abc import Mapping

from services.ingest.http.gateway import Gateway
from shared.blast_view import BlastChannel, BlastFacts, BlastView, make_view, time_of, with_rate
from shared.blasts import Blast
from shared.jobs import TERMINAL
from shared.queue.blasts import BlastProgress, ChannelProgress
from shared.queue.control import ChannelStats


async def view_of(
    gateway: Gateway, blast: Blast, progress: BlastProgress, counted: Mapping[str, ChannelStats] | None = None
) -> BlastView:
    """Return the current state of a blast; `counted` are the channels' counts, if the caller has just read them."""
    waiting_for = await gateway.queue.control.waiting_for(progress, counted)
    channels = {name: _channel(one, waiting_for[name]) for name, one in progress.channels.items()}
    counts = _summed([one.counts for one in progress.channels.values()])
    view = make_view(_facts(blast, progress), channels, counts)
    ended = sum(counts[status] for status in TERMINAL)
    if progress.state in {"completed", "completed_with_failures", "incomplete"} or ended >= view.total_messages:
        return view
    return with_rate(view, gateway.rates.note(blast.blast_id, ended) or _average(blast, progress, ended))


def _facts(blast: Blast, progress: BlastProgress) -> BlastFacts:
    ends = [one.ended_at_ms for one in progress.channels.values()]
    return BlastFacts(
        blast_id=blast.blast_id,
        state=progress.state,
        template_id=blast.template.id,
        template_name=blast.template.name,
        total_recipients=blast.total_recipients,
        lane=blast.lane,
        created_at_ms=blast.created_at_ms,
        scheduled_at_ms=blast.scheduled_at_ms,
        expires_at_ms=blast.expires_at_ms,
        ended_at_ms=max(ends) if ends and all(ends) else 0,
        last_progress_at_ms=progress.last_progress_at_ms,
        reference=blast.reference,
        metadata=blast.metadata,
    )


def _average(blast: Blast, progress: BlastProgress, ended: int) -> float | None:
    """Return the average rate since the blast's start, which serves the first time a blast is shown."""
    began_ms = max(blast.created_at_ms, blast.scheduled_at_ms)
    spent_s = (progress.last_progress_at_ms - began_ms) / 1000
    return ended / spent_s if ended and spent_s > 0.5 else None


def _summed(counts: list[dict[str, int]]) -> dict[str, int]:
    names = {name: None for one in counts for name in one}
    return {name: sum(one.get(name, 0) for one in counts) for name in names}


def _channel(one: ChannelProgress, waiting_for: str) -> BlastChannel:
    return BlastChannel(
        total=one.total,
        enqueued=one.enqueued,
        counts=one.counts,
        paused=one.paused or None,
        cancelled=one.cancelled,
        waiting_for=waiting_for or None,
        ended_at=time_of(one.ended_at_ms),
    )
