"""The logger's metrics: the pipeline as a whole, since it alone sees all of it, from the watch's last look.

Counters of messages come from the database, so they go on where they were after a restart. Labels come from
closed sets: channels, lanes and statuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from services.logger.filters import COUNTED
from services.logger.recorder import RecorderState
from services.logger.watch import Look
from shared.channels import CHANNELS
from shared.queue.control import ChannelStats

LANES = ("high", "normal", "bulk")


class LoggerMetrics:
    """The registry of the logger; `look` and `recorder` say what was seen last and what was done."""

    def __init__(self, look: Callable[[], Look], recorder: RecorderState) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), "logger").set(1)
        self.registry.register(_Pipeline(look, recorder))

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Pipeline(Collector):
    """Makes the metrics of a look."""

    def __init__(self, look: Callable[[], Look], recorder: RecorderState) -> None:
        self._look = look
        self._recorder = recorder

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead: the registry then asks for no look at its construction."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the last look; those of the queues only while Redis answers."""
        look = self._look()
        yield _messages(look)
        yield from _queues(look.queues)
        yield _gauge("kurir_redis_up", "Whether Redis answered at the last look.", float(look.redis_up))
        if look.redis_up:
            yield _gauge("kurir_redis_memory_used_bytes", "Memory that Redis uses.", look.memory.used)
            yield _gauge(
                "kurir_events_lag", "Event entries in Redis that are not in the database yet.", look.events_lag
            )
        yield _gauge("kurir_db_size_bytes", "Size of the database with its write-ahead log.", look.database_bytes)
        yield _gauge("kurir_log_size_bytes", "Size of the log files of all services.", look.log_bytes)
        yield _counter(
            "kurir_db_write_failures", "Transactions that the database did not take; they are tried again.",
            self._recorder.write_failures,
        )  # fmt: skip
        yield _counter("kurir_events_written", "Events whose effect was written.", self._recorder.events)
        yield _counter(
            "kurir_events_set_aside", "Event entries that could not be read or applied, kept in the database.",
            self._recorder.set_aside,
        )  # fmt: skip


def _messages(look: Look) -> Metric:
    """Every channel and status from the start, so that `increase()` sees the first one too."""
    family = CounterMetricFamily(
        "kurir_messages", "Messages that reached a status; retrying and deferred count each time.",
        labels=("channel", "status"),
    )  # fmt: skip
    for channel in CHANNELS:
        for status in COUNTED:
            family.add_metric((channel, status), look.totals.get((channel, status), 0))
    return family


def _queues(queues: dict[str, ChannelStats]) -> Iterator[Metric]:
    by_lane = ("channel", "lane")
    waiting = GaugeMetricFamily("kurir_queue_waiting", "Messages not begun yet.", labels=by_lane)
    oldest = GaugeMetricFamily(
        "kurir_queue_oldest_age_seconds", "Age of the oldest message not begun, 0 without one.", labels=by_lane
    )
    for channel, stats in queues.items():
        for lane in LANES:
            waiting.add_metric((channel, lane), stats.waiting_by_lane.get(lane, 0))
            oldest.add_metric((channel, lane), stats.oldest_age_s.get(lane, 0.0))
    yield from (waiting, oldest)
    simple: tuple[tuple[str, str, Callable[[ChannelStats], float]], ...] = (
        ("kurir_queue_active", "Messages being sent.", lambda stats: stats.active),
        ("kurir_queue_delayed", "Messages waiting for another attempt.", lambda stats: stats.delayed),
        ("kurir_queue_scheduled", "Messages of blasts whose time has not come.", lambda stats: stats.scheduled),
        ("kurir_queue_paused", "Messages that a pause holds, waiting or delayed.", lambda stats: stats.paused),
        ("kurir_channel_paused", "Whether the channel is paused.", lambda stats: float(bool(stats.pause_reason))),
        ("kurir_senders", "Senders that are alive.", lambda stats: len(stats.senders)),
    )
    for name, text, value in simple:
        family = GaugeMetricFamily(name, text, labels=("channel",))
        for channel, stats in queues.items():
            family.add_metric((channel,), value(stats))
        yield family
    yield _providers(queues)


def _providers(queues: dict[str, ChannelStats]) -> Metric:
    """Only senders try their provider: without a live one there is neither a yes nor a no to tell."""
    family = GaugeMetricFamily(
        "kurir_provider_available", "Whether a live sender reached its provider at its last try; absent without one.",
        labels=("channel",),
    )  # fmt: skip
    for channel, stats in queues.items():
        if stats.senders:
            family.add_metric((channel,), float(stats.provider_available))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
