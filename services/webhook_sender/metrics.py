"""The webhook sender's own metric: how many endpoints it serves, and how many of them it cannot reach.

The ids of endpoints are no labels: their set is not closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STATES = ("served", "unreachable", "disabled")


class EndpointMetrics(Collector):
    """Exports the counts by state, read at each scrape."""

    def __init__(self, states: Callable[[], Mapping[str, int]]) -> None:
        self._states = states

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise call `collect` at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield the gauge with every state."""
        found = self._states()
        gauge = GaugeMetricFamily(
            "kurir_webhook_sender_endpoints",
            "Webhook endpoints by this sender's view: served, unreachable (some of those served), disabled.",
            labels=("state",),
        )
        for state in STATES:
            gauge.add_metric((state,), found.get(state, 0))
        return [gauge]
