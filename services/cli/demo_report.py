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

# errors that Meta reports later, by webhook; a message to such a number is accepted first
_LATE = "130472|131026|131047|131049|131050"
# addresses that the sandbox refuses permanently; greylist@ and flaky@ are refused at first and sent in the end
_REFUSED = {"email": re.compile(r"(bounce|drop)(\+[^@]*)?@"), "whatsapp": re.compile(rf".*(?!{_LATE})13\d{{4}}$")}
# what the sandbox reports in the end about messages that it accepted; the first match counts
_REPORTED = {
    "email": (
        (re.compile(r"late-bounce(\+[^@]*)?@"), "bounced"),
        (re.compile(r"complaint(\+[^@]*)?@"), "complained"),
    ),
    "whatsapp": (
        (re.compile(rf".*({_LATE})$"), "undelivered"),
        (re.compile(r".*0$"), "delivered"),  # read receipts are off
        (re.compile(r""), "read"),
    ),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected messages of one channel: all, and those that the sandbox refuses permanently."""

    total: int
    refused: int


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """What `GET /api/blasts/{id}` says about one channel: its messages by status, and by what receipts report."""

    statuses: Mapping[str, int]
    delivery: Mapping[str, int]

    @property
    def delivered(self) -> Counter[str]:
        """What receipts report, without zeros."""
        return Counter({kind: count for kind, count in self.delivery.items() if count})


@dataclass(slots=True)
class ChannelReport:
    """The outcome of a channel's messages, counted from the rows of the log.

    `delivery` is what receipts say about messages that were sent, `due` what they should say in the end.
    `suppressed_bounces` are addresses that bounced later in an earlier run, so that this one sends nothing to them.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    delivery: Counter[str] = field(default_factory=Counter)
    due: Counter[str] = field(default_factory=Counter)
    suppressed_bounces: int = 0
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


def reported_of(channel: str, address: str) -> str:
    """Return what the sandbox reports in the end about a message that it accepted, "" for nothing."""
    return next((kind for pattern, kind in _REPORTED[channel] if pattern.match(address)), "")


def count_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, ChannelReport]:
    """Count the rows of `GET /api/logs/messages` by channel."""
    reports = {name: ChannelReport() for name in CHANNELS}
    for row in rows:
        channel = row["channel"]
        reports[channel].statuses[row["status"]] += 1
        _count_row(reports[channel], row, reported_of(channel, row[f"recipient_{CHANNELS[channel].address_field}"]))
    return reports


def _count_row(report: ChannelReport, row: Mapping[str, Any], due: str) -> None:
    if row["attempts"] > 1:
        report.retried += 1
    if row["status"] != "sent":
        report.reasons[reason_of(row)] += 1
        report.suppressed_bounces += row["status"] == "suppressed" and due == "bounced"
        return
    if due:
        report.due[due] += 1
    if row["delivery"]:
        report.delivery[row["delivery"]] += 1


def find_mistakes(
    expected: Mapping[str, Expected], live: Mapping[str, LiveCounts], logged: Mapping[str, ChannelReport]
) -> list[str]:
    """Return every way in which the numbers do not add up; `live` is what the API says about each channel."""
    mistakes = []
    for channel, wanted in expected.items():
        report, said = logged[channel], live.get(channel, LiveCounts({}, {}))
        counts = Counter({status: count for status, count in said.statuses.items() if count})
        ended = sum(counts[status] for status in TERMINAL)
        sent = wanted.total - wanted.refused - report.suppressed_bounces
        if ended != wanted.total:
            mistakes.append(f"{channel}: {ended} of {wanted.total} messages ended")
        if counts["sent"] != sent:
            mistakes.append(f"{channel}: {counts['sent']} sent instead of {sent}")
        if report.statuses != counts:
            mistakes.append(f"{channel}: the queue says {dict(counts)}, the log says {dict(report.statuses)}")
        for who, delivery in (("the log", report.delivery), ("the blast", said.delivered)):
            if delivery != report.due:
                mistakes.append(f"{channel}: {who} says {dict(delivery)} instead of {dict(report.due)}")
    return mistakes
