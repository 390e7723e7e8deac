"""The sandbox's metrics: the number of messages it accepted and refused."""

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
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), "sandbox").set(1)

    def message(self, channel: str, outcome: str) -> None:
        """Count a message that was `accepted` or `refused`."""
        self._messages[channel, outcome].inc()

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
