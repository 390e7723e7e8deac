"""The demo's arithmetic (pure functions): the expected numbers, those of the API, and whether they add up."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.cli.progress import reason_of
from shared.channels import CHANNELS
from shared.jobs import TERMINAL

# addresses that the sandbox refuses permanently; greylist@ and flaky@ are refused at first and sent in the end
_REFUSED = {"email": re.compile(r"(bounce|drop)(\+[^@]*)?@"), "whatsapp": re.compile(r".*13\d{4}$")}


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected messages of one channel: all, and those that the sandbox refuses permanently."""

    total: int
    refused: int


@dataclass(slots=True)
class ChannelReport:
    """The outcome of a channel's messages, counted from the rows of the log."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    retried: int = 0

    @property
    def total(self) -> int:
        """The number of messages in the log."""
        return self.statuses.total()


def read_expected(path: Path) -> dict[str, Expected]:
    """Count, from a file of recipients, the messages of each channel and those that the sandbox refuses."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: Expected(
            total=sum(1 for row in rows if row[channel.address_field]),
            refused=sum(1 for row in rows if _REFUSED[name].match(row[channel.address_field])),
        )
        for name, channel in CHANNELS.items()
    }


def count_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, ChannelReport]:
    """Count the rows of `GET /api/logs/messages` by channel."""
    reports = {name: ChannelReport() for name in CHANNELS}
    for row in rows:
        report = reports[row["channel"]]
        report.statuses[row["status"]] += 1
        if row["status"] != "sent":
            report.reasons[reason_of(row)] += 1
        if row["attempts"] > 1:
            report.retried += 1
    return reports


def find_mistakes(
    expected: Mapping[str, Expected], live: Mapping[str, Mapping[str, int]], logged: Mapping[str, ChannelReport]
) -> list[str]:
    """Return every way in which the numbers do not add up; `live` are the queue's counts by channel and status."""
    mistakes = []
    for channel, wanted in expected.items():
        counts = Counter({status: count for status, count in live.get(channel, {}).items() if count})
        ended = sum(counts[status] for status in TERMINAL)
        if ended != wanted.total:
            mistakes.append(f"{channel}: {ended} of {wanted.total} messages ended")
        if counts["sent"] != wanted.total - wanted.refused:
            mistakes.append(f"{channel}: {counts['sent']} sent instead of {wanted.total - wanted.refused}")
        if logged[channel].statuses != counts:
            mistakes.append(f"{channel}: the queue says {dict(counts)}, the log says {dict(logged[channel].statuses)}")
    return mistakes
