"""A blast as the API shows it, from Redis or from rows: progress, rate and the time that is left."""

from __future__ import annotations

from dataclasses import replace

from shared.blast_view import BlastChannel, BlastFacts, is_over, make_view, with_rate

FACTS = BlastFacts("b", "running", "t", "T", 10, "bulk", 1_000, 0, 0, 0, 0, "", {})


def _channel(total: int, sent: int, waiting_for: str | None = None) -> BlastChannel:
    return BlastChannel(
        total=total, enqueued=total, counts={"sent": sent, "queued": total - sent}, waiting_for=waiting_for
    )


def test_progress_is_the_share_that_has_ended() -> None:
    """Over all channels; the first reason to wait is the blast's; times that are 0 are null."""
    channels = {"email": _channel(8, 2), "whatsapp": _channel(2, 0, "no sender runs")}
    view = make_view(FACTS, channels, {"sent": 2, "queued": 8})
    assert (view.total_messages, view.progress, view.waiting_for) == (10, 0.2, "no sender runs")
    assert (view.priority, view.scheduled_at, view.created_at) == (2, None, "1970-01-01T00:00:01.000Z")
    assert not is_over(view)


def test_the_remaining_time_follows_from_the_rate() -> None:
    """Rounded up: it never says 0 while something is left; without a rate it is unknown."""
    view = make_view(FACTS, {"email": _channel(10, 4)}, {"sent": 4, "queued": 6})
    assert (with_rate(view, 2.0).rate, with_rate(view, 2.0).eta_seconds) == (2.0, 4)
    assert with_rate(view, 100.456).eta_seconds == 1
    assert (with_rate(view, 0.0).rate, with_rate(view, 0.0).eta_seconds) == (0.0, None)
    assert with_rate(view, None) == view


def test_a_blast_is_over_when_nothing_more_can_end() -> None:
    """All its messages have ended, or it was ended as a whole; one without messages is complete."""
    assert is_over(make_view(FACTS, {"email": _channel(3, 3)}, {"sent": 3}))
    assert is_over(make_view(replace(FACTS, ended_at_ms=5), {"email": _channel(3, 1)}, {"sent": 1}))
    assert make_view(FACTS, {}, {}).progress == 1.0
