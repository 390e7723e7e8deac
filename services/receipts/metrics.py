"""The receipts service's metrics: what it read, what it set aside, and how much waits.

Labels come from closed sets: the sources that have a reader, and the kinds of receipts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from services.receipts.state import IGNORED, ReceiptsState
from shared.receipts import ReceiptKind

KINDS: tuple[str, ...] = (*get_args(ReceiptKind), IGNORED)
UNKNOWN = "unknown"


class ReceiptsMetrics:
    """The service's registry; entries of sources that are not in `sources` are counted as `unknown`."""

    def __init__(self, state: ReceiptsState, sources: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), "receipts").set(1)
        self.registry.register(_Receipts(state, sources))

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Receipts(Collector):
    """Turns the state into metrics; every counter exists from the start, so that `increase()` sees its first event."""

    def __init__(self, state: ReceiptsState, sources: Sequence[str]) -> None:
        self._state = state
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise call `collect` at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; those of the stream only while Redis answers."""
        state = self._state
        read = CounterMetricFamily(
            "kurir_receipts_read", "Receipts that were read, and events that were ignored, by provider and kind.",
            labels=("provider", "kind"),
        )  # fmt: skip
        aside = CounterMetricFamily(
            "kurir_receipts_set_aside", "Entries that could not be read, or only in part; they are kept whole.",
            labels=("provider",),
        )  # fmt: skip
        for source in self._sources:
            for kind in KINDS:
                read.add_metric((source, kind), state.read[source, kind])
            aside.add_metric((source,), state.set_aside[source])
        others = sum(n for source, n in state.set_aside.items() if source not in self._sources)
        aside.add_metric((UNKNOWN,), others)
        mails = CounterMetricFamily(
            "kurir_bounce_mails", "Bounce mails that came in, by SMTP or IMAP, and whether they were taken.",
            labels=("way", "result"),
        )  # fmt: skip
        for way, result in (("smtp", "taken"), ("smtp", "refused"), ("imap", "taken")):
            mails.add_metric((way, result), state.mails[way, result])
        yield from (read, aside, mails)
        yield GaugeMetricFamily(
            "kurir_bounce_mailbox_failing_seconds",
            "How long the mailbox for bounces could not be read, 0 if it can be, or without one.",
            value=state.mailbox_failing_s(),
        )
        if state.counts is not None:
            yield GaugeMetricFamily(
                "kurir_receipts_waiting", "Entries of the stream `receipts`: unread, or being read.",
                value=state.counts.waiting,
            )  # fmt: skip
            yield GaugeMetricFamily(
                "kurir_receipts_oldest_age_seconds", "Age of the oldest entry that waits, 0 if none does.",
                value=state.counts.oldest_age_s,
            )  # fmt: skip
            yield GaugeMetricFamily(
                "kurir_receipts_kept_aside", "Entries in Redis that were set aside.", value=state.counts.set_aside
            )
