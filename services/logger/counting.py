"""Counting: the number of messages by status, from counts kept with the rows wherever those suffice."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

from services.logger.blast_rows import counts_of
from services.logger.filters import STATUSES, MessageFilter, Span
from services.logger.queries import count_by_status

COUNTED_ROWS = 3_000
Counts = Counter[tuple[str, str]]


def count_messages(connection: sqlite3.Connection, wanted: MessageFilter) -> dict[str, Any]:
    """Return counts by status, in total and by channel.

    Kept counts answer queries without filters or by blast, channel and status. Any other filter counts rows, at most
    the latest 3,000 that the index finds; `complete` is false if there are more.
    """
    counts, complete = _count(connection, wanted)
    chosen: Counts = Counter()
    for (channel, status), n in counts.items():
        if channel in (wanted.channels or (channel,)) and status in (wanted.statuses or (status,)):
            chosen[channel, status] += n
    return _shape(chosen) | {"complete": complete}


def _count(connection: sqlite3.Connection, wanted: MessageFilter) -> tuple[Counts, bool]:
    others = (wanted.recipient, wanted.template, wanted.reference, wanted.error_class)
    if any(others) or wanted.span != Span():
        return count_by_status(connection, wanted, COUNTED_ROWS)
    if wanted.blast:
        by_channel = counts_of(connection, wanted.blast)
        kept = {(channel, status): n for channel, one in by_channel.items() for status, n in one.items()}
        return Counter(kept), True
    rows = connection.execute("SELECT channel, status, n FROM message_counts")
    return Counter({(channel, status): n for channel, status, n in rows}), True


def _shape(counts: Counts) -> dict[str, Any]:
    channels: dict[str, Counter[str]] = {}
    every: Counter[str] = Counter()
    for (channel, status), n in counts.items():
        for counter in (channels.setdefault(channel, Counter()), every):
            counter[status] += n
            counter["total"] += n
    names = ("total", *STATUSES)
    return {
        **{name: every[name] for name in names},
        "channels": {channel: {name: one[name] for name in names} for channel, one in channels.items()},
    }
