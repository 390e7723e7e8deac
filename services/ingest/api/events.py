"""Events: a stream of server-sent events that keeps a page up to date without asking."""

from __future__ import annotations

import asyncio
from functools import lru_cache

import orjson
from aiohttp import web

from services.ingest.http.errors import ApiError
from services.ingest.http.event_feed import MOST_STREAMS
from services.ingest.http.operation import Call, Operation, Parameter
from shared.errors import QueueUnavailableError
from shared.recipient_masks import masked

_HEARTBEAT_S = 15.0
# a client that takes nothing for this long is cut off; it comes back and gets a snapshot
_SLOWEST_S = 30.0
_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
_DATA = b"data: "
_RETRY = b"retry: 2000\n\n"
_HEARTBEAT = b": alive\n\n"


async def _events(call: Call) -> web.StreamResponse:
    feed = call.gateway.feed
    if feed.streams >= MOST_STREAMS or feed.closed:
        raise ApiError("TOO_MANY_STREAMS", headers={"Retry-After": "10"})
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(call.request)
    if call.request.method == "HEAD":
        return response
    with feed.reading():
        call.gateway.metrics.streams(feed.streams)
        try:
            await _Stream(call, response).run()
        except (ConnectionError, TimeoutError):
            transport = call.request.transport
            if transport is not None:
                # a client that does not read would not see the end either
                transport.abort()
        finally:
            # this one has ended
            call.gateway.metrics.streams(feed.streams - 1)
    return response


@lru_cache(64)
def masked_events(text: bytes) -> bytes:
    """Return events with recipients masked; all streams of such keys share the work."""
    lines = text.split(b"\n")
    return b"\n".join(
        _DATA + orjson.dumps(masked(orjson.loads(line.removeprefix(_DATA)))) if line.startswith(_DATA) else line
        for line in lines
    )


class _Stream:
    """One client's stream: its place in the feed, and when its session was last checked."""

    def __init__(self, call: Call, response: web.StreamResponse) -> None:
        self._call = call
        self._feed = call.gateway.feed
        self._clock = call.gateway.clock
        self._response = response
        self._place = self._feed.place_of(call.request.headers.get("Last-Event-ID", ""))
        self._checked_at = self._clock.monotonic()

    async def run(self) -> None:
        """Send events until the service stops or the session ends; raises ConnectionError or TimeoutError."""
        await self._write(_RETRY)
        while not self._feed.closed and await self._may_continue():
            text = await self._next()
            await self._write(masked_events(text) if self._call.masked else text)

    async def _next(self) -> bytes:
        """Return what the client lacks: the events since its place, a snapshot, or a sign of life."""
        if self._place is not None:
            await self._feed.wait(self._place, _HEARTBEAT_S)
        events = self._feed.after(self._place) if self._place is not None else None
        if events is None:
            snapshot = await self._feed.snapshot(_HEARTBEAT_S)
            self._place = self._feed.last if snapshot else None
            return snapshot or _HEARTBEAT
        if not events:
            return _HEARTBEAT
        self._place = events[-1].number
        return b"".join(event.text for event in events)

    async def _may_continue(self) -> bool:
        """Return whether the client is still signed in; asks once in a while."""
        now = self._clock.monotonic()
        if not self._call.cookie or self._call.key is None or now - self._checked_at < _HEARTBEAT_S:
            return True
        self._checked_at = now
        try:
            return await self._call.gateway.records.find_session(self._call.cookie) is not None
        except QueueUnavailableError:
            return True

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(_SLOWEST_S):
            await self._response.write(data)


OPERATIONS = [
    Operation("GET", "/events", "streamEvents",
              "Stream the counts of channels and blasts as server-sent events: `state`, then `channels` and `blast`",
              _events, content_types=("text/event-stream",), errors=("TOO_MANY_STREAMS",), queue=False, logged=False,
              parameters=(Parameter("Last-Event-ID", "The id of the last event that arrived: the stream continues"
                                    " there, or begins with a new `state`.", place="header"),)),
]  # fmt: skip
