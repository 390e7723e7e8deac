"""The client of the benchmark of webhooks: it counts what Kurir signed, and nothing else."""

from __future__ import annotations

import orjson

from benchmarks.webhook_receiver import SECRET, Received
from shared.webhooks import check_secret, sign


def _headers(webhook_id: str, body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": "1790000000",
        "webhook-signature": sign([secret], webhook_id, 1790000000, body),
    }


def _event(job_id: str, kind: str = "message.sent") -> dict[str, object]:
    return {"type": kind, "timestamp": "2026-09-21T13:33:20Z", "data": {"jobId": job_id}}


def test_each_message_counts_once() -> None:
    """Single events and those of batches count; a delivery or an event that comes again does not."""
    received = Received()
    batch = orjson.dumps({"type": "batch", "data": [_event("a:0:email"), _event("a:1:email"), _event("a", "other")]})
    single = orjson.dumps(_event("a:1:email"))
    for webhook_id, body in (("bat_1_0", batch), ("bat_1_0", batch), ("evt_1", single)):
        assert received.take(_headers(webhook_id, body), body).startswith(b"HTTP/1.1 200 ")
    assert received.counts() == {"requests": 3, "events": 4, "sent": 2}


def test_what_another_secret_signed_is_refused() -> None:
    """It answers 401, and counts no event."""
    received, body = Received(), orjson.dumps(_event("a:0:email"))
    other = "whsec_" + "A" * 32
    assert check_secret(SECRET) is None
    assert received.take(_headers("evt_1", body, other), body).startswith(b"HTTP/1.1 401 ")
    assert received.counts() == {"requests": 1, "events": 0, "sent": 0}
