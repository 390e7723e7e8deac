"""A sender's metrics, the same for every channel: its attempts and their durations.

The logger exports the metrics of waiting messages and of outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from shared.sending.provider import ServerState
from shared.tallies import CountTally, TimeTally

_SERVER = ("channel", "server")
_SEND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WAIT_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


class SenderMetrics:
    """The registry of one sender process; it receives what the sending loop observes (`SendObserver`)."""

    def __init__(self, service: str) -> None:
        # a `_created` series for each counter and histogram would double the number of series
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._attempts = CountTally(
            "kurir_attempts",
            "Attempts to hand a message to its provider, by outcome.",
            ("channel", "outcome", "error_class"),
        )
        self._durations = TimeTally(
            "kurir_send_duration_seconds",
            "Time from the start of an attempt to the provider's answer.",
            ("channel",),
            _SEND_BUCKETS,
        )
        self._latencies = TimeTally(
            "kurir_queue_latency_seconds",
            "Time from enqueueing to the first attempt.",
            ("channel", "lane"),
            _WAIT_BUCKETS,
        )
        for tally in (self._attempts, self._durations, self._latencies):
            self.registry.register(tally)
        self._housekeeping_errors = Counter(
            "kurir_housekeeping_errors",
            "Unexpected errors in a sender's background tasks; the sender continues.",
            ("channel", "task"),
            registry=self.registry,
        )
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), service).set(1)

    def attempt(self, channel: str, outcome: str, error_class: str, duration_s: float) -> None:
        """Count one attempt with its outcome and its duration in seconds."""
        self._attempts.add((channel, outcome, error_class))
        self._durations.observe((channel,), duration_s)

    def queue_latency(self, channel: str, lane: str, seconds: float) -> None:
        """Observe the time from enqueueing to the first attempt."""
        self._latencies.observe((channel, lane), seconds)

    def housekeeping_failed(self, channel: str, task: str) -> None:
        """Count an unexpected error in one of the sender's background tasks."""
        self._housekeeping_errors.labels(channel, task).inc()

    def watch(self, channel: str, servers: Callable[[], Sequence[ServerState]]) -> None:
        """Export the state of each server of the channel's provider, read at each scrape."""
        self.registry.register(_ServerStates(channel, servers))

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _ServerStates(Collector):
    def __init__(self, channel: str, servers: Callable[[], Sequence[ServerState]]) -> None:
        self._channel = channel
        self._servers = servers

    def collect(self) -> Iterable[Metric]:
        available = GaugeMetricFamily(
            "kurir_server_available", "Whether this server may be tried; 0 while it is set aside.", labels=_SERVER
        )
        refuses = GaugeMetricFamily(
            "kurir_server_refuses_us",
            "Whether this server refused our credentials or all recipients, and has accepted no message since.",
            labels=_SERVER,
        )
        for state in self._servers():
            available.add_metric((self._channel, state.server), float(state.available))
            refuses.add_metric((self._channel, state.server), float(state.refuses))
        return [available, refuses]
