"""Which statuses a message gets, when, in which order, and in which shapes of webhooks."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from services.sandbox.hook_bodies import QiscusBodies, Sender, meta_body
from services.sandbox.statuses import LATE_ERRORS, Accepted, Event, OptOut, Status, StatusPlan

SENDER = Sender("1", "sandbox", "7")
MESSAGE = Accepted("wamid.1", "b:0:whatsapp", "6281234567891")
NOW_S = 1_767_225_600.0


def planned(to: str, plan: StatusPlan | None = None) -> list[tuple[float, Event]]:
    message = Accepted("wamid.1", "b:0:whatsapp", to)
    return sorted((plan or StatusPlan(1.0)).plan(message, NOW_S), key=lambda item: item[0])


def names(events: list[tuple[float, Event]]) -> list[str]:
    return [event.status if isinstance(event, Status) else "opt-out" for _, event in events]


def test_a_message_is_sent_delivered_and_read() -> None:
    """One after another, each with its own time."""
    events = planned("6281234567891")
    assert names(events) == ["sent", "delivered", "read"]
    assert all(earlier < later for (earlier, _), (later, _) in pairwise(events))
    assert [event.at_s - NOW_S for _, event in events] == [0, 1, 2]


def test_a_number_that_ends_in_zero_has_read_receipts_off() -> None:
    """Its message ends as delivered."""
    assert names(planned("6281234567890")) == ["sent", "delivered"]


@pytest.mark.parametrize("code", sorted(LATE_ERRORS))
def test_a_code_that_meta_reports_later_fails_the_message(code: int) -> None:
    """It is neither delivered nor read; an opt-out is reported beside the failure."""
    events = planned(f"62812{code}")
    assert names(events) == (["opt-out", "failed"] if code == 131050 else ["failed"])
    assert isinstance(events[-1][1], Status)
    assert events[-1][1].code == code


def test_now_and_then_statuses_are_out_of_order_or_repeated() -> None:
    """Every 5th message is read before it is delivered, every 7th is delivered twice; the times stay true."""
    plan = StatusPlan(1.0)
    said = [names(planned("6281234567891", plan)) for _ in range(35)]
    assert [number for number, one in enumerate(said, 1) if one.index("read") < one.index("delivered")] == [
        5, 10, 15, 20, 25, 30, 35,
    ]  # fmt: skip
    assert [number for number, one in enumerate(said, 1) if one.count("delivered") == 2] == [7, 14, 21, 28, 35]


def test_metas_envelope() -> None:
    """Statuses and preferences are changes of different fields; the job is named, and a failure explained."""
    failed = Status(MESSAGE, "failed", 1_767_225_601, 131026)
    body = json.loads(meta_body([failed, OptOut("62812", 1_767_225_602)], SENDER))
    assert body["object"] == "whatsapp_business_account"
    first, second = body["entry"][0]["changes"]
    assert (first["field"], second["field"]) == ("messages", "user_preferences")
    (status,) = first["value"]["statuses"]
    assert status["errors"][0]["code"] == 131026
    assert (status["id"], status["status"], status["timestamp"]) == ("wamid.1", "failed", "1767225601")
    assert (status["recipient_id"], status["biz_opaque_callback_data"]) == ("6281234567891", "b:0:whatsapp")
    assert first["value"]["metadata"]["phone_number_id"] == "1"
    (preference,) = second["value"]["user_preferences"]
    assert (preference["wa_id"], preference["value"], preference["category"]) == ("62812", "stop", "marketing_messages")


def test_qiscus_reports_in_three_shapes() -> None:
    """Each batch begins with the old shape; the rest is Meta's envelope and the bare statuses in turn."""
    bodies = QiscusBodies(SENDER)
    events = [Status(MESSAGE, status, 1_767_225_601) for status in ("sent", "delivered", "read")]
    shapes = [[sorted(json.loads(body)) for body in bodies.of(events)] for _ in range(2)]
    assert shapes == [
        [["payload", "type"], ["entry", "object"]],
        [["payload", "type"], ["app_code", "channel_id", "contacts", "statuses"]],
    ]


@pytest.mark.parametrize("events", [[OptOut("62812", 1)], [Status(MESSAGE, "failed", 1, 131049)]])
def test_no_event_of_a_batch_is_left_out(events: list[Event]) -> None:
    """A batch of one, of either kind, is reported in every turn."""
    bodies = QiscusBodies(SENDER)
    for _ in range(3):
        (body,) = bodies.of(events)
        assert b"62812" in body
