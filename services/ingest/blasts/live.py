"""The live state: what the streams of `GET /api/events` report, read once a second for all of them together.

Counts and the progress of unfinished blasts are read from Redis, which blasts there are from the log. Nothing is read
while no stream is open.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from services.ingest.blasts.views import view_of
from services.ingest.http.channel_views import ChannelView, channel_view
from services.ingest.http.errors import ApiError
from services.ingest.http.gateway import Gateway
from shared.blast_view import BlastView, deliveries_of, with_deliveries
from shared.channels import CHANNELS
from shared.clock import rfc3339
from shared.errors import KurirError
from shared.jobs import TERMINAL
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.control import ChannelStats

_EVERY_S = 1.0
_LIST_EVERY = 2
_SEARCH_EVERY = 10
_LATEST, _OF_EACH_STATE, _MOST_BLASTS = 10, 20, 50
_UNFINISHED = ("running", "paused", "enqueueing", "scheduled")
_HISTORY_S = 300
_COUNTED = ("enqueued", "sent", "failed", "retried")
_LOG_TIME_S = 2.0

log = get_logger()
_encoder = msgspec.json.Encoder()


class LiveChannel(ChannelView, kw_only=True, frozen=True, rename="camel"):
    """A channel with its messages per second, over about the last second, and by lane how many wait."""

    per_second: dict[str, float]
    waiting_by_lane: dict[str, int]


class LiveChannels(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The event `channels`; `redis` and `log` are false while they do not answer, and the rest is then old."""

    at: str
    redis: bool
    log: bool
    channels: list[LiveChannel]


class LiveState(LiveChannels, kw_only=True, frozen=True):
    """The event `state`: everything, with the messages per second of the last minutes by channel.

    A row of `history` is a time in seconds since the epoch, then enqueued, sent, failed and retried messages.
    """

    blasts: list[BlastView]
    history: dict[str, list[list[float]]]


class LiveWatch:
    """Reads the state and publishes what changed."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._feed = gateway.feed
        self._clock = gateway.clock
        self._turn = 0
        self._channels = LiveChannels(at="", redis=False, log=False, channels=[])
        self._before: dict[str, tuple[float, dict[str, int]]] = {}
        self._blasts: dict[str, BlastView] = {}
        self._begun_again: set[str] = set()
        self._log = True
        self._history: dict[str, deque[list[float]]] = {name: deque(maxlen=_HISTORY_S) for name in CHANNELS}

    async def run(self, stop: Stop) -> None:
        """Read and publish until stopped, while there are streams; then end all streams."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                wanted = asyncio.create_task(self._feed.wait_until_wanted())
                await asyncio.wait({stopping, wanted}, return_when=asyncio.FIRST_COMPLETED)
                wanted.cancel()
                if not stop.is_set():
                    await self._try_read()
                    await asyncio.wait({stopping}, timeout=_EVERY_S)
        finally:
            stopping.cancel()
            self._feed.close()

    def snapshot(self) -> bytes:
        """Return the event `state` with everything that is known, numbered as the latest event."""
        now = self._channels
        state = LiveState(
            at=now.at,
            redis=now.redis,
            log=now.log,
            channels=now.channels,
            blasts=list(self._blasts.values()),
            history={name: list(rows) for name, rows in self._history.items()},
        )
        return self._feed.event_text("state", _encoder.encode(state), self._feed.last)

    async def _try_read(self) -> None:
        try:
            await self.read()
        except Exception:
            log.exception("reading the live state failed")
        self._feed.refreshed(self.snapshot)

    async def read(self) -> None:
        """Read everything once and publish what changed; after a time without streams nothing old is believed."""
        if not self._feed.fresh:
            self._turn = 0
            self._blasts.clear()
        counted = await self._counted()
        if self._turn % _LIST_EVERY == 0:
            await self._list_blasts(search=self._turn % _SEARCH_EVERY == 0)
        self._turn += 1
        if counted is not None:
            await self._refresh_blasts(counted)
        self._publish_channels(counted)

    async def _counted(self) -> dict[str, ChannelStats] | None:
        try:
            return await self._gateway.queue.control.stats() if self._gateway.records.watch.available else None
        except KurirError as error:
            log.debug("live counts not read", reason=str(error))
            return None

    def _publish_channels(self, counted: Mapping[str, ChannelStats] | None) -> None:
        at = rfc3339(self._clock.now_ms())
        if counted is None:
            now = msgspec.structs.replace(self._channels, at=at, redis=False, log=self._log)
        else:
            channels = [self._channel(name, stats) for name, stats in counted.items()]
            now = LiveChannels(at=at, redis=True, log=self._log, channels=channels)
        self._channels = now
        # every second, also without a change: the page shows that it is alive, and its charts go on
        self._feed.publish("channels", _encoder.encode(now))

    def _channel(self, name: str, stats: ChannelStats) -> LiveChannel:
        per_second = self._rates(name, stats.counters)
        view = channel_view(self._gateway, name, stats)
        fields = {field: getattr(view, field) for field in ChannelView.__struct_fields__}
        return LiveChannel(**fields, per_second=per_second, waiting_by_lane=stats.waiting_by_lane)

    def _rates(self, name: str, counters: Mapping[str, int]) -> dict[str, float]:
        """Return how many messages per second each counter has gained since the last time, and note it."""
        now = self._clock.monotonic()
        at, before = self._before.get(name, (now, dict(counters)))
        self._before[name] = (now, dict(counters))
        span_s = max(now - at, _EVERY_S / 2)
        # after a pause of all streams the mean of that time says nothing about this second
        fresh = span_s < 3 * _EVERY_S
        found = {one: round(max(0, counters[one] - before[one]) / span_s, 1) if fresh else 0.0 for one in _COUNTED}
        self._history[name].append([self._clock.now_ms() // 1000, *found.values()])
        return found

    async def _list_blasts(self, *, search: bool) -> None:
        """Ask the log for the latest blasts and, less often, for all unfinished ones."""
        queries = [f"limit={_LATEST}"]
        if search:
            queries += [f"limit={_OF_EACH_STATE}&state={state}" for state in _UNFINISHED]
        rows: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(_LOG_TIME_S):
                for query in queries:
                    status, body = await self._gateway.logger.call("GET", f"/api/blasts?{query}")
                    rows += body["blasts"] if status == 200 else []
        except (ApiError, TimeoutError):
            self._log = False
            return
        self._log = True
        for row in rows:
            self._take_row(row)
        self._forget()

    def _take_row(self, row: dict[str, Any]) -> None:
        view = msgspec.convert(row, BlastView)
        known = self._blasts.get(view.blast_id)
        if known is not None and known.ended_at and not view.ended_at:
            # its failed messages are sent again, or the log is behind: Redis knows
            self._begun_again.add(view.blast_id)
        if known is not None and _ended(known) >= _ended(view):
            # Redis is ahead of the log; only the log knows the receipts
            view = with_deliveries(known, deliveries_of(row))
        self._put(view)

    def _forget(self) -> None:
        """Keep the unfinished blasts and the latest others, the latest first."""
        every = sorted(self._blasts.values(), key=lambda one: one.created_at or "", reverse=True)
        finished = [one.blast_id for one in every if one.ended_at]
        dropped = set(finished[_LATEST:])
        self._blasts = {one.blast_id: one for one in every if one.blast_id not in dropped}
        self._blasts = dict(list(self._blasts.items())[:_MOST_BLASTS])

    async def _refresh_blasts(self, counted: Mapping[str, ChannelStats]) -> None:
        """Read the progress of the unfinished blasts from Redis."""
        blasts = self._gateway.queue.blasts
        try:
            again, self._begun_again = self._begun_again, set()
            for view in [one for one in self._blasts.values() if not one.ended_at or one.blast_id in again]:
                blast = await blasts.load(view.blast_id)
                progress = await blasts.progress(view.blast_id, blast) if blast is not None else None
                if blast is not None and progress is not None:
                    live = await view_of(self._gateway, blast, progress, counted)
                    self._put(with_deliveries(live, _deliveries(view)))
        except KurirError as error:
            log.debug("live blasts not read", reason=str(error))

    def _put(self, view: BlastView) -> None:
        if self._blasts.get(view.blast_id) != view:
            self._blasts[view.blast_id] = view
            self._feed.publish("blast", _encoder.encode(view))


def _ended(view: BlastView) -> int:
    return sum(view.counts.get(status, 0) for status in TERMINAL) + bool(view.ended_at)


def _deliveries(view: BlastView) -> dict[str, Mapping[str, int]]:
    return {name: one.delivery for name, one in view.channels.items() if one.delivery}
