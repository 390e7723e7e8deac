"""The feed of events: places, what is kept, snapshots, and the end."""

from __future__ import annotations

import asyncio

from services.ingest.http.event_feed import EventFeed
from tests.servers import PATIENCE_S


def test_a_stream_reads_on_from_its_place() -> None:
    """Events after a place are returned once and in order; at the end the list is empty."""
    feed = EventFeed("b00t")
    for number in range(3):
        feed.publish("channels", b"%d" % number)
    events = feed.after(1)
    assert events is not None
    assert [event.number for event in events] == [2, 3]
    assert events[0].text == b"id: b00t-2\nevent: channels\ndata: 1\n\n"
    assert feed.after(3) == []


def test_a_stream_that_fell_behind_needs_a_snapshot() -> None:
    """If an event after the place is no longer kept, the rest would make no sense; nor does a place of the future."""
    feed = EventFeed("b00t")
    for number in range(500):
        feed.publish("blast", b"%d" % number)
    assert feed.after(100) is None
    assert len(feed.after(400) or []) == 100
    assert feed.after(501) is None


def test_only_ids_of_this_process_are_places() -> None:
    """Another process numbers its own events; whatever is no id at all is no place."""
    feed = EventFeed("b00t")
    assert feed.place_of("b00t-17") == 17
    for other in ("", "17", "b11t-17", "b00t-", "b00t-x", "b00t-²", "b00t-" + "9" * 40, "b00t--1"):
        assert feed.place_of(other) is None


async def test_an_event_wakes_every_waiting_stream() -> None:
    """Each sees it once; a stream that waits for a later one keeps waiting."""
    feed = EventFeed("b00t")
    waiting = [asyncio.create_task(feed.wait(0, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    feed.publish("blast", b"{}")
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
    late = asyncio.create_task(feed.wait(1, 60))
    await asyncio.sleep(0)
    assert not late.done()
    feed.close()
    await asyncio.wait_for(late, PATIENCE_S)


async def test_a_snapshot_waits_for_a_reading_after_an_idle_time() -> None:
    """The first stream after a time without any must not get what was true then."""
    feed = EventFeed("b00t")
    with feed.reading():
        feed.refreshed(lambda: b"old")
        assert await feed.snapshot(5) == b"old"
    with feed.reading():
        assert await feed.snapshot(0.01) == b""
        fresh = asyncio.create_task(feed.snapshot(60))
        await asyncio.sleep(0)
        assert not fresh.done()
        feed.refreshed(lambda: b"new")
        assert await asyncio.wait_for(fresh, PATIENCE_S) == b"new"
