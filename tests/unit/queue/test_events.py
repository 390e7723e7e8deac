"""Event batches: what an earlier logger does with events that it does not know."""

from __future__ import annotations

import msgspec

from shared.events import (
    ChannelChanged,
    Event,
    EventBatch,
    Processing,
    SuppressedAddress,
    SuppressionsAdded,
    SystemEvent,
    pack_batch,
    unpack_batch,
    unpack_known,
)

EVENTS: list[Event] = [
    ChannelChanged(1, "email", "paused", "535"),
    SuppressionsAdded(2, "email", [SuppressedAddress("a@example.com", "all", "bounce", "550", "b:0:email")]),
]


def test_events_of_a_channel_survive_packing() -> None:
    """They are read as they were packed."""
    assert unpack_batch(pack_batch(EventBatch("p", 1, EVENTS))).events == EVENTS


def test_an_item_of_an_earlier_and_of_a_later_version_is_read() -> None:
    """Fields are added at the end: a missing one has its default, an unknown one is skipped."""
    for item in (["a@example.com", "all", "api", "manual"], ["a@example.com", "all", "api", "manual", "", "later"]):
        raw = msgspec.msgpack.encode(["p", 1, [["suppressions_added", 2, "email", [item]]]])
        (event,) = unpack_batch(raw).events
        assert event == SuppressionsAdded(2, "email", [SuppressedAddress("a@example.com", "all", "api", "manual")])


def test_the_begin_of_a_job_of_an_earlier_sender_is_read() -> None:
    """It reports each job by itself."""
    raw = msgspec.msgpack.encode(["s", 1, [["processing", 1, "b:0:email", 2, 3, "s"]]])
    assert unpack_batch(raw).events == [Processing(1, "b:0:email", 2, 3, "s")]


def test_an_unknown_event_hides_no_other_of_its_batch() -> None:
    """A logger of an earlier version applies what it knows."""
    known = SystemEvent(3, "info", "hello", "ingest")
    raw = msgspec.msgpack.encode(["p", 1, [["of_a_later_version", 1], msgspec.Raw(_packed(known))]])
    batch = unpack_known(raw)
    assert batch is not None
    assert batch.events == [known]


def _packed(event: Event) -> bytes:
    return msgspec.msgpack.encode(event)
