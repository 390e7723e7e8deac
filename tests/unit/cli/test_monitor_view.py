"""The monitor's view: reasons and rates, from handmade snapshots."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from services.cli.monitor_view import Rates, Sample, reasons, view

ALIVE = {"available": True, "reason": ""}


def channel(name: str = "email", *, paused: str | None = None, waiting: int = 0, senders: Any = (ALIVE,)) -> Any:
    stats = dict.fromkeys(("waiting", "active", "delayed", "scheduled", "paused", "completed", "failed"), 0)
    return {
        "name": name,
        "configured": True,
        "paused": paused,
        "rate": None,
        "senders": list(senders),
        "stats": stats | {"waiting": waiting},
        "oldestAgeSeconds": {},
    }


def sample(*channels: Any, at: float = 0.0, completed: int = 0, **parts: Any) -> Sample:
    counts = {one["name"]: one["stats"] | {"completed": completed} for one in channels}
    given = {"blasts": [], "failures": [], **parts}
    return Sample(at=at, stats={"channels": counts}, channels=channels, **given)


def shown(what: Sample, rates: Rates | None = None) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(view(what, rates or Rates(), "http://localhost:3000"))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_nothing_is_held_up_while_senders_work() -> None:
    """Work that only waits for its turn is not listed."""
    assert reasons(sample(channel(waiting=5))) == []
    assert "nothing is held up" in shown(sample(channel(waiting=5)))


def test_a_pause_is_shown_with_its_reason() -> None:
    """The reason is what the operator needs."""
    assert reasons(sample(channel(paused="535 authentication failed", waiting=5))) == [
        "email is paused: 535 authentication failed"
    ]


def test_missing_and_unavailable_senders_have_different_reasons() -> None:
    """A missing process differs from one that cannot reach its provider."""
    away = {"available": False, "reason": "provider unavailable"}
    assert reasons(sample(channel(waiting=5, senders=()))) == ["email: 5 messages wait, but no sender is running"]
    assert reasons(sample(channel(waiting=5, senders=(away,)))) == ["email: 5 messages wait: provider unavailable"]


def test_a_blast_says_what_it_waits_for() -> None:
    """The reason is the API's, for each channel."""
    blast = {
        "blastId": "b1",
        "templateId": "t",
        "state": "running",
        "counts": {"sent": 1},
        "totalMessages": 4,
        "progress": 0.25,
        "channels": {"email": {"waitingFor": "rate_limited"}, "whatsapp": {"waitingFor": None}},
    }
    found = sample(channel(), blasts=[blast])
    assert reasons(found) == ["blast b1 waits: email rate_limited"]
    assert "1 of 4 (25%)" in shown(found)


def test_a_webhook_says_why_its_events_wait() -> None:
    """It fails, or it is disabled; one that gets its events is not listed."""
    well = {"id": "wh_1", "enabled": True, "disabledReason": None, "failingSince": None, "waiting": 3}
    failing = {**well, "id": "wh_2", "failingSince": "2026-11-29T04:00:00.000Z"}
    gone = {**well, "id": "wh_3", "enabled": False, "disabledReason": "410 Gone"}
    idle = {**gone, "id": "wh_4", "waiting": 0}
    assert reasons(sample(channel(), webhooks=[well, failing, gone, idle])) == [
        "webhook wh_2: 3 events wait: it has failed since 2026-11-29T04:00:00.000Z; see kurir webhooks deliveries wh_2",
        "webhook wh_3: 3 events wait: 410 Gone",
    ]


def test_rates_come_from_two_samples() -> None:
    """A hundred messages in two seconds are fifty a second; before the second snapshot there is a dash."""
    rates = Rates()
    rates.observe(sample(channel(), at=10.0, completed=100))
    assert rates.shown("email", "completed") == "–"
    rates.observe(sample(channel(), at=12.0, completed=200))
    assert rates.shown("email", "completed") == "50"


def test_markup_in_a_providers_words_is_shown_verbatim() -> None:
    """Square brackets are not read as the terminal's markup."""
    row = {"updated_at": "now", "job_id": "b:0:email", "error_class": "permanent", "error_message": "[bold]550[/nope]"}
    assert "[bold]550[/nope]" in shown(sample(channel(), failures=[row]))
    assert "[red]x[/]" in shown(sample(channel(paused="[red]x[/]")))
