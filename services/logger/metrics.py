"""The logger's metrics: the state of the whole pipeline, from the latest sample of `watch`.

Only the logger sees the whole pipeline. Message counters come from the database, so a restart does not reset them.
Labels come from closed sets: channels, lanes and statuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from services.logger.filters import COUNTED
from services.logger.receipts import OTHER_SOURCE, SOURCES, Delays
from services.logger.recorder import RecorderState
from services.logger.watch import Sample
from services.logger.webhooks.counting import WebhookSample
from shared.channels import CHANNELS
from shared.queue.control import ChannelStats
from shared.tallies import TimeTally

LANES = ("high", "normal", "bulk")
# from a second to a week: mail may bounce days later
_DELAYS = (1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400, 259_200, 604_800)
_KINDS_OF_EMAIL = ("delivered", "bounced", "complained", "opted_out", "opted_in")
_KINDS_OF_WHATSAPP = ("delivered", "read", "undelivered", "opted_out", "opted_in")
_SOURCES_OF_WHATSAPP = ("meta", "qiscus")
# the receipts that have a series from the start, by channel: their sources and kinds
EXPECTED: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "email": ((*sorted(SOURCES - {*_SOURCES_OF_WHATSAPP}), OTHER_SOURCE), _KINDS_OF_EMAIL),
    "whatsapp": ((*_SOURCES_OF_WHATSAPP, OTHER_SOURCE), _KINDS_OF_WHATSAPP),
}


class LoggerMetrics:
    """The logger's registry; `sample` returns the latest sample, `recorder` counts what the recorder did."""

    def __init__(
        self, sample: Callable[[], Sample], recorder: RecorderState, leads: Callable[[], bool] = lambda: True
    ) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        build = Gauge("kurir_build_info", "The running version.", ("version", "service"), registry=self.registry)
        build.labels(version("kurir"), "logger").set(1)
        self.registry.register(_Pipeline(sample, recorder, leads))
        self._delays = TimeTally(
            "kurir_receipt_delay_seconds", "Time from a provider's acceptance of a message to what a receipt reports.",
            ("channel", "kind"), _DELAYS,
        )  # fmt: skip
        self.registry.register(self._delays)
        for channel, (_, kinds) in EXPECTED.items():
            for kind in kinds:
                self._delays.start((channel, kind))

    def receipts(self, delays: Delays) -> None:
        """Observe the delays of new receipts."""
        for labels, every in delays.items():
            self._delays.observe_all(labels, every)

    def exposition(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Pipeline(Collector):
    """Turns the latest sample into metrics."""

    def __init__(self, sample: Callable[[], Sample], recorder: RecorderState, leads: Callable[[], bool]) -> None:
        self._leads = leads
        self._sample = sample
        self._recorder = recorder

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise call `collect` at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what this process did and, if it leads, the metrics of the pipeline, which other loggers have too."""
        if self._leads():
            yield from self._of_pipeline(self._sample())
        yield _counter(
            "kurir_db_write_failures", "Transactions that failed; they are tried again.",
            self._recorder.write_failures,
        )  # fmt: skip
        yield _counter("kurir_events_written", "Events written to the database.", self._recorder.events)
        yield _counter(
            "kurir_events_set_aside", "Event entries that could not be read or applied, kept in the database.",
            self._recorder.set_aside,
        )  # fmt: skip

    def _of_pipeline(self, sample: Sample) -> Iterator[Metric]:
        """Yield the metrics of the latest sample; those of the queues only while Redis answers."""
        yield _messages(sample)
        yield from _receipts(sample)
        yield from _webhooks(sample.webhooks)
        yield from _queues(sample.queues)
        yield _gauge("kurir_redis_up", "Whether Redis answered the latest check.", float(sample.redis_up))
        if sample.redis_up:
            yield _gauge("kurir_redis_memory_used_bytes", "Memory that Redis uses.", sample.memory.used)
            yield _gauge(
                "kurir_events_lag", "Event entries in Redis that are not in the database yet.", sample.events_lag
            )
        yield _gauge("kurir_db_size_bytes", "Size of the database with its write-ahead log.", sample.database_bytes)
        yield _gauge("kurir_log_size_bytes", "Size of the log files of all services.", sample.log_bytes)


def _messages(sample: Sample) -> Metric:
    """Return a counter for every channel and status from the start, so that `increase()` sees the first event too."""
    family = CounterMetricFamily(
        "kurir_messages", "Messages that reached a status; retrying and deferred count each time.",
        labels=("channel", "status"),
    )  # fmt: skip
    for channel in CHANNELS:
        for status in COUNTED:
            family.add_metric((channel, status), sample.totals.get((channel, status), 0))
    return family


def _receipts(sample: Sample) -> Iterator[Metric]:
    """Yield the counters of receipts, the usual ones from the start, and those that belong to no message (yet)."""
    family = CounterMetricFamily(
        "kurir_receipts", "Receipts that were applied to a message, each once.", labels=("channel", "provider", "kind")
    )
    expected = {
        (channel, source, kind): 0
        for channel, (sources, kinds) in EXPECTED.items()
        for source in sources
        for kind in kinds
    }
    for labels, n in {**expected, **sample.receipts}.items():
        family.add_metric(labels, n)
    yield family
    waiting = GaugeMetricFamily(
        "kurir_receipts_early", "Receipts whose message is not in the log yet.", labels=("channel",)
    )
    unmatched = CounterMetricFamily(
        "kurir_receipts_unmatched", "Receipts that were dropped because their message never came.", labels=("channel",)
    )
    for channel in CHANNELS:
        waiting.add_metric((channel,), sample.early.get((channel, "waiting"), 0))
        unmatched.add_metric((channel,), sample.early.get((channel, "unmatched"), 0))
    yield from (waiting, unmatched)


def _webhooks(sample: WebhookSample) -> Iterator[Metric]:
    states = GaugeMetricFamily("kurir_webhooks", "Webhooks by state.", labels=("state",))
    for state, n in sample.states.items():
        states.add_metric((state,), n)
    deliveries = CounterMetricFamily("kurir_webhook_deliveries", "Deliveries that ended.", labels=("status",))
    for status in ("delivered", "failed"):
        deliveries.add_metric((status,), sample.totals.get(f"deliveries {status}", 0))
    yield from (states, deliveries)
    yield _gauge(
        "kurir_webhook_failing_seconds", "For how long the webhook that fails longest has done nothing but fail.",
        sample.failing_s,
    )  # fmt: skip
    yield _gauge(
        "kurir_webhook_events_waiting", "Events that enabled webhooks have not got yet, an estimate if many.",
        sample.waiting,
    )  # fmt: skip
    yield _counter("kurir_webhook_events", "Events journaled for webhooks.", sample.totals.get("events", 0))
    yield _counter(
        "kurir_webhook_events_expired", "Events that retention deleted before a webhook had got them.",
        sample.totals.get("events expired", 0),
    )  # fmt: skip


def _queues(queues: dict[str, ChannelStats]) -> Iterator[Metric]:
    by_lane = ("channel", "lane")
    waiting = GaugeMetricFamily("kurir_queue_waiting", "Messages in the queue that have not begun.", labels=by_lane)
    oldest = GaugeMetricFamily(
        "kurir_queue_oldest_age_seconds", "Age of the oldest waiting message, 0 if no message waits.", labels=by_lane
    )
    for channel, stats in queues.items():
        for lane in LANES:
            waiting.add_metric((channel, lane), stats.waiting_by_lane.get(lane, 0))
            oldest.add_metric((channel, lane), stats.oldest_age_s.get(lane, 0.0))
    yield from (waiting, oldest)
    simple: tuple[tuple[str, str, Callable[[ChannelStats], float]], ...] = (
        ("kurir_queue_active", "Messages being sent.", lambda stats: stats.active),
        ("kurir_queue_delayed", "Messages waiting for another attempt.", lambda stats: stats.delayed),
        ("kurir_queue_scheduled", "Messages of blasts that are scheduled for later.", lambda stats: stats.scheduled),
        ("kurir_queue_paused", "Waiting or delayed messages that a pause holds.", lambda stats: stats.paused),
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
    """Return whether providers are available; only a live sender knows, so channels without one have no sample."""
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
