"""Ingest's metrics: HTTP requests and their durations. The logger exports the metrics of the queues."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from shared.tallies import CountTally, TimeTally

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class IngestMetrics:
    """The registry of one ingest process; labels come from closed sets only."""

    def __init__(self) -> None:
        # a `_created` series for each counter and histogram would double the scraped data
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._requests = CountTally("kurir_http_requests", "HTTP requests answered.", ("method", "route", "status"))
        self._durations = TimeTally(
            "kurir_http_request_duration_seconds", "Time from a request's head to its answer.", ("route",), _BUCKETS
        )
        self._hooks = CountTally(
            "kurir_hook_requests",
            "Requests of providers with the right token, by outcome: taken, repeated, refused or not_taken.",
            ("provider", "outcome"),
        )
        for tally in (self._requests, self._durations, self._hooks):
            self.registry.register(tally)
        self._recipients = Counter(
            "kurir_recipients", "Recipients of the blasts that were read, by outcome.", ("outcome",),
            registry=self.registry,
        )  # fmt: skip
        self._unlogged = Gauge(
            "kurir_api_log_dropped",
            "API log entries dropped because Redis was away for too long.",
            registry=self.registry,
        )
        self._streams = Gauge(
            "kurir_event_streams", "Streams of server-sent events that are open.", registry=self.registry
        )
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), "ingest").set(1)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is a path of the table of operations, or "" for none."""
        known = method if method in _METHODS else "OTHER"
        self._requests.add((known, route, str(status)))
        self._durations.observe((route,), seconds)

    def recipients(self, accepted: int, rejected: int) -> None:
        """Count a blast's recipients."""
        self._recipients.labels("accepted").inc(accepted)
        self._recipients.labels("rejected").inc(rejected)

    def hook(self, provider: str, outcome: str) -> None:
        """Count a request of a provider."""
        self._hooks.add((provider, outcome))

    def streams(self, count: int) -> None:
        """Set the number of open streams of events."""
        self._streams.set(count)

    def dropped(self, count: int) -> None:
        """Set the total number of dropped API log entries."""
        self._unlogged.set(count)

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
