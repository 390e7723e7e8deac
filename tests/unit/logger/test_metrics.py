"""The logger's metrics: the contract's names, a help sentence each, labels from closed sets."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from services.logger.filters import COUNTED
from services.logger.metrics import EXPECTED, LANES, LoggerMetrics
from services.logger.receipts import OTHER_SOURCE, SOURCES
from services.logger.recorder import RecorderState
from services.logger.watch import Sample
from shared.channels import CHANNELS
from shared.queue.control import COUNTERS, ChannelStats, SenderState, ServerMemory
from shared.receipts import ReceiptKind, delivery_rank

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
SENDER = SenderState("s1", "h", 5, available=True, reason="", rate="off")
STATS = ChannelStats(
    waiting=7, waiting_by_lane={"high": 1, "normal": 2, "bulk": 4}, active=3, delayed=5, scheduled=6, completed=9,
    failed=1, paused=2, pause_reason="by hand", oldest_age_s={"high": 1.5}, counters=dict.fromkeys(COUNTERS, 0),
    events_lag=0, rate_gap_us=None, senders=[SENDER],
)  # fmt: skip
SAMPLE = Sample(
    redis_up=True, queues=dict.fromkeys(CHANNELS, STATS), memory=ServerMemory(1234, 0), events_lag=8,
    totals={("email", "sent"): 42}, database_bytes=100, log_bytes=200,
)  # fmt: skip


def exposed(sample: Sample, state: RecorderState | None = None) -> tuple[Samples, dict[str, str]]:
    """Return the samples of an exposition and the help text of each metric."""
    text = LoggerMetrics(lambda: sample, state or RecorderState()).exposition()[0].decode()
    families = list(text_string_to_metric_families(text))
    samples = {
        (one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples
    }
    return samples, {family.name: family.documentation for family in families}


def test_a_sample_becomes_the_metrics_of_the_contract() -> None:
    """Each sample has the right name, labels and value."""
    samples, _ = exposed(SAMPLE, RecorderState(write_failures=3))
    email = ("channel", "email")
    expected = {
        ("kurir_messages_total", (email, ("status", "sent"))): 42,
        ("kurir_queue_waiting", (email, ("lane", "bulk"))): 4,
        ("kurir_queue_oldest_age_seconds", (email, ("lane", "high"))): 1.5,
        ("kurir_queue_active", (email,)): 3,
        ("kurir_queue_delayed", (email,)): 5,
        ("kurir_queue_scheduled", (email,)): 6,
        ("kurir_queue_paused", (email,)): 2,
        ("kurir_channel_paused", (email,)): 1,
        ("kurir_senders", (email,)): 1,
        ("kurir_provider_available", (email,)): 1,
        ("kurir_redis_up", ()): 1,
        ("kurir_redis_memory_used_bytes", ()): 1234,
        ("kurir_events_lag", ()): 8,
        ("kurir_db_size_bytes", ()): 100,
        ("kurir_log_size_bytes", ()): 200,
        ("kurir_db_write_failures_total", ()): 3,
    }
    assert {name: samples.get(name) for name in expected} == expected
    assert any(name == "kurir_build_info" for name, _ in samples)


def test_every_channel_lane_and_status_exists_from_the_start() -> None:
    """`increase()` misses the first event of a counter that appears with it; a missing gauge looks like 0."""
    samples, _ = exposed(SAMPLE)
    for channel in CHANNELS:
        for lane in LANES:
            assert ("kurir_queue_waiting", (("channel", channel), ("lane", lane))) in samples
        for status in COUNTED:
            assert ("kurir_messages_total", (("channel", channel), ("status", status))) in samples


def test_receipts_have_the_series_of_the_contract() -> None:
    """Each usual receipt is there from the start; those that wait or never matched are counted by channel."""
    receipts = {("email", "ses", "bounced"): 3, ("whatsapp", "meta", "read"): 7, ("email", "other", "read"): 1}
    early = {("email", "waiting"): 2, ("email", "unmatched"): 5}
    samples, _ = exposed(replace(SAMPLE, receipts=receipts, early=early))

    def counted(channel: str, provider: str, kind: str) -> float | None:
        labels = (("channel", channel), ("kind", kind), ("provider", provider))
        return samples.get(("kurir_receipts_total", labels))

    assert (counted("email", "ses", "bounced"), counted("whatsapp", "meta", "read")) == (3, 7)
    assert (counted("email", "mail", "complained"), counted("whatsapp", "qiscus", "undelivered")) == (0, 0)
    assert counted("email", "other", "read") == 1
    assert counted("email", "meta", "bounced") is None
    assert samples["kurir_receipts_early", (("channel", "email"),)] == 2
    assert samples["kurir_receipts_unmatched_total", (("channel", "email"),)] == 5
    assert samples["kurir_receipts_unmatched_total", (("channel", "whatsapp"),)] == 0


def test_every_source_of_receipts_has_a_channel() -> None:
    """A provider that is added without a channel would have no series until its first receipt."""
    assert {source for sources, _ in EXPECTED.values() for source in sources} == {*SOURCES, OTHER_SOURCE}
    for channel, (_, kinds) in EXPECTED.items():
        assert {kind for kind in get_args(ReceiptKind) if delivery_rank(channel, kind)} <= set(kinds)


def test_delays_of_receipts_are_a_histogram() -> None:
    """A bounce after a day is within the buckets."""
    metrics = LoggerMetrics(lambda: SAMPLE, RecorderState())
    metrics.receipts({("email", "bounced"): [86_000.0], ("email", "delivered"): [2.0]})
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    (family,) = [one for one in families if one.name == "kurir_receipt_delay_seconds"]
    found = {(one.name, *one.labels.values()): one.value for one in family.samples}
    assert found["kurir_receipt_delay_seconds_sum", "email", "bounced"] == 86_000.0
    assert found["kurir_receipt_delay_seconds_bucket", "email", "bounced", "86400.0"] == 1
    assert found["kurir_receipt_delay_seconds_bucket", "email", "bounced", "14400.0"] == 0
    assert found["kurir_receipt_delay_seconds_bucket", "email", "delivered", "5.0"] == 1


def test_while_redis_is_away_queue_metrics_are_absent() -> None:
    """`kurir_redis_up` is 0 and the queue metrics are absent; the counts from the database are still exported."""
    samples, _ = exposed(Sample(totals={("email", "failed"): 5}))
    names = {name for name, _ in samples}
    assert samples["kurir_redis_up", ()] == 0
    assert {name for name in names if name.startswith("kurir_queue")} == set()
    assert samples["kurir_messages_total", (("channel", "email"), ("status", "failed"))] == 5


def test_a_provider_is_available_while_any_live_sender_reaches_it_and_unknown_without_one() -> None:
    """Without a sender there is no sample: a 0 would blame the provider for senders that are down."""
    away = replace(SENDER, sender_id="s2", available=False, reason="provider unavailable")
    for senders, said in (([away], 0), ([away, SENDER], 1), ([], None)):
        samples, _ = exposed(replace(SAMPLE, queues={"email": replace(STATS, senders=senders)}))
        assert samples.get(("kurir_provider_available", (("channel", "email"),))) == said


def test_every_metric_has_a_description() -> None:
    """A reader of `/metrics` does not need the source code."""
    _, sentences = exposed(SAMPLE)
    own = {name: text for name, text in sentences.items() if name.startswith("kurir_")}
    assert len(own) >= 16
    assert [name for name, text in own.items() if not text.endswith(".")] == []
