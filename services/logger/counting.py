"""Counting: the number of messages by status and by delivery, from counts kept with the rows wherever those suffice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from services.logger.blast_rows import counts_of
from services.logger.database import Database
from services.logger.filters import DELIVERIES, STATUSES, MessageFilter, Span
from services.logger.queries import count_rows

COUNTED_ROWS = 3_000
Counts = Counter[tuple[str, str]]
_DELIVERIES = "SELECT channel, delivery, n FROM delivery_counts"
_DELIVERIES_OF_BLAST = "SELECT channel, delivery, n FROM blast_deliveries WHERE blast_id = ?"


def count_messages(connection: Database, wanted: MessageFilter) -> dict[str, Any]:
    """Return counts by status and by delivery, in total and by channel.

    Kept counts answer queries without filters or by blast, channel and status. Any other filter counts rows, at most
    the latest 3,000 that the index finds; `complete` is false if there are more. Deliveries of single statuses are not
    kept: with a status and no other filter than blast and channel, `delivery` is None.
    """
    deliveries: Counts | None
    others = (wanted.recipient, wanted.template, wanted.reference, wanted.error_class, wanted.deliveries)
    if any(others) or wanted.span != Span():
        rows, complete = count_rows(connection, wanted, COUNTED_ROWS)
        counts, deliveries = _split(rows)
    else:
        counts, complete = _kept(connection, wanted.blast), True
        deliveries = None if wanted.statuses else kept_deliveries(connection, wanted.blast)
    chosen = Counter({key: n for key, n in _of_channels(counts, wanted).items() if key[1] in (wanted.statuses or key)})
    reported = None if deliveries is None else _of_channels(deliveries, wanted)
    return _shape(chosen, reported) | {"complete": complete}


def _of_channels(counts: Counts, wanted: MessageFilter) -> Counts:
    return Counter({key: n for key, n in counts.items() if key[0] in (wanted.channels or key)})


def _split(rows: Counter[tuple[str, str, str]]) -> tuple[Counts, Counts]:
    """Return counts by channel and status, and by channel and delivery."""
    counts: Counts = Counter()
    deliveries: Counts = Counter()
    for (channel, status, delivery), n in rows.items():
        counts[channel, status] += n
        deliveries[channel, delivery] += n
    return counts, deliveries


def _kept(connection: Database, blast_id: str) -> Counts:
    if blast_id:
        by_channel = counts_of(connection, blast_id)
        return Counter({(channel, status): n for channel, one in by_channel.items() for status, n in one.items()})
    rows = connection.execute("SELECT channel, status, n FROM message_counts")
    return Counter({(channel, status): n for channel, status, n in rows})


def kept_deliveries(connection: Database, blast_id: str = "") -> Counts:
    """Return how many messages of a blast, or of all, have each delivery, by channel."""
    rows = connection.execute(_DELIVERIES_OF_BLAST, (blast_id,)) if blast_id else connection.execute(_DELIVERIES)
    return Counter({(channel, delivery): n for channel, delivery, n in rows})


def every_delivery(counts: Mapping[tuple[str, str], int], channel: str = "") -> dict[str, int]:
    """Return a count for every delivery, zeros included, of a channel or of all."""
    found = Counter(dict.fromkeys(DELIVERIES, 0))
    for (name, delivery), n in counts.items():
        if delivery in found and name == (channel or name):
            found[delivery] += n
    return dict(found)


def _shape(counts: Counts, deliveries: Counts | None) -> dict[str, Any]:
    channels: dict[str, Counter[str]] = {}
    every: Counter[str] = Counter()
    for (channel, status), n in counts.items():
        for counter in (channels.setdefault(channel, Counter()), every):
            counter[status] += n
            counter["total"] += n
    names = ("total", *STATUSES)
    return {
        **{name: every[name] for name in names},
        "delivery": None if deliveries is None else every_delivery(deliveries),
        "channels": {
            channel: {name: one[name] for name in names}
            | {"delivery": None if deliveries is None else every_delivery(deliveries, channel)}
            for channel, one in channels.items()
        },
    }
