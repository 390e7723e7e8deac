"""The metrics of senders and ingest have the contract's names and labels; the logger's have their own test."""

from __future__ import annotations

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from services.ingest.metrics import IngestMetrics
from services.receipts.metrics import ReceiptsMetrics
from services.receipts.providers import READERS
from services.receipts.reading import Reading
from services.receipts.state import ReceiptsState
from shared import errors
from shared.errors import SendError
from shared.queue.receipts import ReceiptCounts
from shared.receipts import Receipt
from shared.sender_metrics import SenderMetrics
from shared.sending.provider import ServerState

BUILD = {"kurir_build_info": {"version", "service"}}
SENDER = BUILD | {
    "kurir_attempts_total": {"channel", "outcome", "error_class"},
    "kurir_send_duration_seconds_count": {"channel"},
    "kurir_queue_latency_seconds_count": {"channel", "lane"},
    "kurir_server_available": {"channel", "server"},
    "kurir_server_refuses_us": {"channel", "server"},
}
INGEST = BUILD | {
    "kurir_http_requests_total": {"method", "route", "status"},
    "kurir_http_request_duration_seconds_count": {"route"},
    "kurir_hook_requests_total": {"provider", "outcome"},
}
RECEIPTS = BUILD | {
    "kurir_receipts_read_total": {"provider", "kind"},
    "kurir_receipts_set_aside_total": {"provider"},
    "kurir_receipts_waiting": set(),
    "kurir_receipts_oldest_age_seconds": set(),
    "kurir_receipts_kept_aside": set(),
}
ERROR_CLASSES = {"transient", "unavailable", "deferred", "permanent", "stop", "stop_blast", "uncertain"}


def of_sender() -> SenderMetrics:
    metrics = SenderMetrics("email_sender")
    metrics.attempt("email", "retrying", "transient", 0.1)
    metrics.queue_latency("email", "high", 0.1)
    metrics.watch("email", lambda: [ServerState("mail.example.com:587", available=False, refuses=True)])
    return metrics


def of_ingest() -> IngestMetrics:
    metrics = IngestMetrics()
    metrics.request("BREW", "/api/messages", 202, 0.1)
    metrics.hook("meta", "taken")
    return metrics


def of_receipts() -> ReceiptsMetrics:
    state = ReceiptsState(counts=ReceiptCounts(3, 1.5, 2, 4))
    state.note("meta", Reading([Receipt("read", "meta", 0.0)] * 2, ignored=5))
    state.set_aside["carrier-pigeon"] += 1
    return ReceiptsMetrics(state, tuple(READERS))


def families(metrics: SenderMetrics | IngestMetrics | ReceiptsMetrics) -> list[Metric]:
    found = text_string_to_metric_families(metrics.exposition()[0].decode())
    return [family for family in found if family.name.startswith("kurir_")]


@pytest.mark.parametrize(
    ("metrics", "contract"), [(of_sender(), SENDER), (of_ingest(), INGEST), (of_receipts(), RECEIPTS)]
)
def test_names_and_labels_match_the_contract(
    metrics: SenderMetrics | IngestMetrics | ReceiptsMetrics, contract: dict[str, set[str]]
) -> None:
    """Dashboards, alerts and operators' own queries depend on them; each is documented in a sentence."""
    samples = {sample.name: set(sample.labels) for family in families(metrics) for sample in family.samples}
    assert {name: samples.get(name) for name in contract} == contract
    assert not [name for name in samples if name.endswith("_created")]
    assert all(family.documentation.endswith(".") for family in families(metrics))


def test_an_unknown_method_is_not_a_label() -> None:
    """A client that invents methods creates no series."""
    (requests,) = [family for family in families(of_ingest()) if family.name == "kurir_http_requests"]
    assert {sample.labels["method"] for sample in requests.samples} == {"OTHER"}


def test_receipts_are_counted_by_provider_and_kind() -> None:
    """Every provider and kind has a series from the start; a source without a reader creates none."""
    samples = {
        (sample.name, sample.labels.get("provider"), sample.labels.get("kind")): sample.value
        for family in families(of_receipts())
        for sample in family.samples
    }
    assert samples["kurir_receipts_read_total", "meta", "read"] == 2
    assert samples["kurir_receipts_read_total", "meta", "ignored"] == 5
    assert samples["kurir_receipts_read_total", "resend", "opted_in"] == 0
    assert samples["kurir_receipts_set_aside_total", "unknown", None] == 1
    assert {provider for _, provider, _ in samples if provider} == {*READERS, "unknown"}


def test_error_classes_are_a_closed_set() -> None:
    """The labels are exactly the contract's outcome classes; a provider's code is never a label."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, SendError)]
    assert {one.error_class for one in kinds} == ERROR_CLASSES
