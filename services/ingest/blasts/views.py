"""A blast as the API shows it, live from Redis: counts, progress, rate, and what it waits for."""

from __future__ import annotations

from services.ingest.http.gateway import Gateway
from services.ingest.http.responses import BlastChannel, BlastView
from shared.blasts import Blast
from shared.clock import rfc3339
from shared.jobs import TERMINAL
from shared.queue.blasts import BlastProgress, ChannelProgress

_PRIORITY_OF_LANE = {"high": 0, "normal": 1, "bulk": 2}


async def view_of(gateway: Gateway, blast: Blast, progress: BlastProgress) -> BlastView:
    """Return a blast as it stands now."""
    waiting_for = await gateway.queue.control.waiting_for(progress)
    counts = _summed([one.counts for one in progress.channels.values()])
    total = sum(one.total for one in progress.channels.values())
    ended = sum(counts[status] for status in TERMINAL)
    over = progress.state in {"completed", "completed_with_failures", "incomplete"} or ended >= total
    rate = None if over else gateway.rates.note(blast.blast_id, ended) or _average(blast, progress, ended)
    return BlastView(
        blast_id=blast.blast_id,
        state=progress.state,
        template_id=blast.template.id,
        template_name=blast.template.name,
        channels={name: _channel(one, waiting_for[name]) for name, one in progress.channels.items()},
        total_messages=total,
        total_recipients=blast.total_recipients,
        counts=counts,
        progress=round(ended / total, 4) if total else 1.0,
        rate=None if rate is None else round(rate, 2),
        eta_seconds=None if not rate else int((total - ended) / rate) + 1,
        waiting_for=next((reason for reason in waiting_for.values() if reason), None),
        priority=_PRIORITY_OF_LANE[blast.lane],
        scheduled_at=rfc3339(blast.scheduled_at_ms) if blast.scheduled_at_ms else None,
        expires_at=rfc3339(blast.expires_at_ms) if blast.expires_at_ms else None,
        created_at=rfc3339(blast.created_at_ms),
        last_progress_at=rfc3339(progress.last_progress_at_ms) if progress.last_progress_at_ms else None,
        ended_at=_ended_at(progress),
        reference=blast.reference,
        metadata=blast.metadata,
    )


def _average(blast: Blast, progress: BlastProgress, ended: int) -> float | None:
    """Return the rate since the blast's start, for the first time that it is shown."""
    began_ms = max(blast.created_at_ms, blast.scheduled_at_ms)
    spent_s = (progress.last_progress_at_ms - began_ms) / 1000
    return ended / spent_s if ended and spent_s > 0.5 else None


def _ended_at(progress: BlastProgress) -> str | None:
    ends = [one.ended_at_ms for one in progress.channels.values()]
    return rfc3339(max(ends)) if ends and all(ends) else None


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
        ended_at=rfc3339(one.ended_at_ms) if one.ended_at_ms else None,
    )
