"""The sandbox's metrics: the messages that it accepted and refused, and its reports about them."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector


class SandboxMetrics:
    """The registry of one sandbox process; labels come from closed sets only."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        messages = Counter(
            "kurir_sandbox_messages",
            "Messages offered to the sandbox, by outcome.",
            ("channel", "outcome"),
            registry=self.registry,
        )
        self._messages = {
            (channel, outcome): messages.labels(channel, outcome)
            for channel in ("email", "whatsapp")
            for outcome in ("accepted", "refused")
        }
        self._reports = Counter(
            "kurir_sandbox_reports",
            "Webhooks posted and mails returned, each time, by whether they were taken.",
            ("way", "outcome"),
            registry=self.registry,
        )
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), "sandbox").set(1)

    def message(self, channel: str, outcome: str) -> None:
        """Count a message that was `accepted` or `refused`."""
        self._messages[channel, outcome].inc()

    def report(self, way: str, outcome: str) -> None:
        """Count a webhook (`hook`) or a returned `mail` that was `taken` or `refused`."""
        self._reports.labels(way, outcome).inc()

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
