"""The monitor's screen, built from one snapshot of the API's answers. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.cli.progress import ended_of, reason_of

_SMOOTHING = 0.4


@dataclass(frozen=True, slots=True)
class Sample:
    """The API's answers at one moment; `at` in seconds since the epoch."""

    at: float
    stats: Mapping[str, Any]
    channels: Sequence[Mapping[str, Any]]
    blasts: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]
    webhooks: Sequence[Mapping[str, Any]] = ()
    logger_away: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object, with the reasons why messages wait."""
        return {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at)),
            "stats": self.stats,
            "channels": self.channels,
            "blasts": self.blasts,
            "recentFailures": self.failures,
            "webhooks": self.webhooks,
            "reasons": reasons(self),
            "loggerAway": self.logger_away,
        }


@dataclass(slots=True)
class Rates:
    """Messages sent and failed per second by channel, smoothed over snapshots."""

    per_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _before: Sample | None = None

    def observe(self, sample: Sample) -> None:
        """Update the rates from a snapshot."""
        before, self._before = self._before, sample
        if before is None or sample.at <= before.at:
            return
        for name, counts in sample.stats["channels"].items():
            for what in ("completed", "failed"):
                earlier = before.stats["channels"].get(name, counts)[what]
                pace = max(0.0, (counts[what] - earlier) / (sample.at - before.at))
                smooth = self.per_s.get((name, what), pace)
                self.per_s[name, what] = smooth + _SMOOTHING * (pace - smooth)

    def shown(self, channel: str, what: str) -> str:
        """Return a rate for a table cell, a dash before the second snapshot."""
        pace = self.per_s.get((channel, what))
        return "–" if pace is None else f"{pace:.0f}" if pace >= 10 or not pace else f"{pace:.1f}"


def reasons(sample: Sample) -> list[str]:
    """Return why messages wait, one line for each cause."""
    found = []
    for channel in sample.channels:
        name, stats = channel["name"], channel["stats"]
        if channel["paused"]:
            found.append(f"{name} is paused: {channel['paused']}")
        elif stats["waiting"] and not channel["senders"]:
            found.append(f"{name}: {stats['waiting']} messages wait, but no sender is running")
        elif stats["waiting"] and not any(sender["available"] for sender in channel["senders"]):
            why = "; ".join(sorted({sender["reason"] for sender in channel["senders"]}))
            found.append(f"{name}: {stats['waiting']} messages wait: {why}")
    for blast in sample.blasts:
        waits = sorted(
            {f"{name} {one['waitingFor']}" for name, one in blast["channels"].items() if one.get("waitingFor")}
        )
        if waits:
            found.append(f"blast {blast['blastId']} waits: {', '.join(waits)}")
    found += [reason for one in sample.webhooks if (reason := _reason_of_webhook(one))]
    if sample.logger_away:
        found.append("the logger does not answer: logs are not shown, and are written once it is back")
    return found


def _reason_of_webhook(webhook: Mapping[str, Any]) -> str:
    """Return why a webhook's events wait, "" if nothing is wrong with it."""
    waiting = f"webhook {webhook['id']}: {webhook['waiting']} events wait"
    if webhook["enabled"] and webhook["failingSince"]:
        return (
            f"{waiting}: it has failed since {webhook['failingSince']}; see kurir webhooks deliveries {webhook['id']}"
        )
    if webhook["waiting"] and not webhook["enabled"]:
        return f"{waiting}: {webhook['disabledReason'] or 'disabled'}"
    return ""


def view(sample: Sample, rates: Rates, url: str) -> RenderableType:
    """Return the whole screen."""
    title = Text.assemble(("Kurir", "bold"), f"  {url}  {time.strftime('%H:%M:%S', time.localtime(sample.at))}")
    parts: list[RenderableType] = [title, _queues(sample, rates)]
    why = reasons(sample)
    parts.append(Panel(Text("\n".join(why) or "nothing is held up"), title="Why it waits", title_align="left"))
    if sample.blasts:
        parts.append(_blasts(sample))
    if sample.failures:
        parts.append(_failures(sample))
    return Group(*parts)


def _queues(sample: Sample, rates: Rates) -> Table:
    columns = ("waiting", "active", "delayed", "later", "paused", "sent", "/s", "failed", "/s", "oldest")
    table = Table("channel", expand=True)
    for name in columns:
        table.add_column(name, justify="right")
    for channel in sample.channels:
        name = channel["name"]
        counts = sample.stats["channels"][name]
        numbers = [str(counts[one]) for one in ("waiting", "active", "delayed", "scheduled", "paused")]
        ages = channel["oldestAgeSeconds"].values()
        table.add_row(
            name,
            *numbers,
            str(counts["completed"]),
            rates.shown(name, "completed"),
            str(counts["failed"]),
            rates.shown(name, "failed"),
            f"{max(ages):.0f} s" if ages else "–",
            style="yellow" if channel["paused"] else "",
        )
    return table


def _blasts(sample: Sample) -> Table:
    table = Table("blast", "template", "state", "done", "rate", "to go", title="Running blasts", expand=True)
    table.columns[0].no_wrap = True
    for blast in sample.blasts:
        done, total = ended_of(blast["counts"]), blast["totalMessages"]
        rate, eta = blast.get("rate"), blast.get("etaSeconds")
        table.add_row(
            blast["blastId"],
            blast["templateId"],
            blast["state"],
            f"{done} of {total} ({blast['progress']:.0%})",
            "–" if rate is None else f"{rate:.0f}/s",
            "–" if eta is None else f"{eta} s",
        )
    return table


def _failures(sample: Sample) -> Table:
    table = Table("when", "message", "class", "the provider's answer", title="Latest failures", expand=True)
    table.columns[1].no_wrap = True
    for row in sample.failures:
        words = Text(reason_of(row), overflow="ellipsis", no_wrap=True)
        table.add_row(str(row["updated_at"]), row["job_id"], str(row.get("error_class") or ""), words)
    return table
