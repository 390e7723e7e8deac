"""Takes entries of the stream `receipts`, reads them, and emits what they say as events.

An entry is deleted only after its events are in the channel's stream, so it is read at least once; its batch of events
is named by it, so a second one has no effect. Entries of a consumer that died are taken by another one. An entry that
cannot be read is set aside, whole, and delays no other. While the logger is behind, nothing is emitted and nothing
more is taken: receipts wait in their own stream, whose limit ingest answers with 429.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from services.receipts.reading import Reader, Reading
from services.receipts.state import ReceiptsState
from shared.errors import QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.receipts import ReceiptEntry, ReceiptInbox
from shared.web import Health

log = get_logger()

_MOST_ENTRIES = 200
# entries that are read without a pause, emitted in one call of Redis for each channel, and deleted in one
_AT_ONCE = 50
_BLOCK_S = 1.0
# when there is little to do, entries gather: a call of Redis costs as much as reading an entry of ten receipts
_GATHER_S = 0.1
# larger bodies are read in a thread: one of 3 MB takes about 100 ms
_LARGE_BYTES = 64 * 1024
# an entry is with a live consumer for milliseconds, or as long as the logger is behind; taking it twice does no harm
CLAIM_IDLE_S = 30.0
_CLAIM_EVERY_S = 5.0
# an entry that was taken this often ended its consumers, or waited through as many restarts
_MOST_DELIVERIES = 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Source:
    """What writes entries under one name: how its bodies are read, and the channel whose messages they are about."""

    read: Reader
    channel: str


_Read = tuple[ReceiptEntry, Reading]


class _StoppedError(Exception):
    """The service was stopped while Redis or the logger could not take a call."""


class ReceiptConsumer:
    """Moves entries from `inbox` into the channels' events; `time_scale` multiplies the time constants."""

    def __init__(
        self,
        inbox: ReceiptInbox,
        sources: Mapping[str, Source],
        health: Health,
        state: ReceiptsState,
        time_scale: float = 1.0,
    ) -> None:
        self._inbox = inbox
        self._sources = sources
        self._health = health
        self._state = state
        self._time_scale = time_scale
        self._stop = Stop()
        self._claim_at = 0.0

    async def run(self, stop: Stop) -> None:
        """Read until stopped; entries that were taken by then are finished if Redis and the logger take them."""
        self._stop = stop
        pause_s = _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                entries = await self._take()
            except QueueUnavailableError as error:
                self._health.report("redis", str(error))
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            self._health.report("redis", None)
            pause_s = _FIRST_PAUSE_S
            await self.handle(entries)
            # the entries of a dead consumer come one by one
            if 0 < len(entries) < _MOST_ENTRIES and entries[0].deliveries == 1:
                await self._pause(_GATHER_S)

    async def _take(self) -> list[ReceiptEntry]:
        """Return an entry whose consumer is gone, if there is one, else new entries; raises QueueUnavailableError.

        Abandoned entries are taken one by one: if one of them ends its consumer, the count of the others stays low.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._claim_at:
            abandoned = await self._inbox.claim(1, CLAIM_IDLE_S * self._time_scale)
            if abandoned:
                log.info("receipt of a dead consumer taken over", deliveries=abandoned[0].deliveries)
                return abandoned
            self._claim_at = now + _CLAIM_EVERY_S * self._time_scale
        return await self._inbox.read(_MOST_ENTRIES, _BLOCK_S)

    async def handle(self, entries: Sequence[ReceiptEntry]) -> None:
        """Read entries, emit what they say, and delete them."""
        for start in range(0, len(entries), _AT_ONCE):
            read = [(entry, await self._read(entry)) for entry in entries[start : start + _AT_ONCE]]
            emitted = await self._emit(read)
            try:
                await self._insist(partial(self._inbox.done, [entry for entry, said in emitted if not said.problem]))
                for entry, said in emitted:
                    if said.problem:
                        await self._set_aside(entry, said.problem)
            except _StoppedError:
                return

    async def _emit(self, read: Sequence[_Read]) -> Sequence[_Read]:
        """Emit what entries say; return those whose events are in the streams, and those that say nothing."""
        silent = [one for one in read if not one[1].receipts]
        by_channel: dict[str, list[_Read]] = {}
        for one in read:
            if one[1].receipts:
                by_channel.setdefault(self._sources[one[0].source].channel, []).append(one)
        emitted = await asyncio.gather(*(self._emit_on(channel, some) for channel, some in by_channel.items()))
        done = [*silent, *chain.from_iterable(emitted)]
        for entry, said in done:
            self._state.note(entry.source, said)
        return done

    async def _emit_on(self, channel: str, read: Sequence[_Read]) -> Sequence[_Read]:
        """Emit the receipts of entries on one channel; return all of them, or none."""
        try:
            await self._insist(partial(self._inbox.emit, channel, [(entry, said.receipts) for entry, said in read]))
        except _StoppedError:
            log.warning("stopped with unread receipts; they wait in Redis", channel=channel, entries=len(read))
        except Exception:  # they are taken again one by one, so a bad one blocks no others
            log.exception("emitting receipts failed; trying again", channel=channel, entries=len(read))
        else:
            return read
        return ()

    async def _read(self, entry: ReceiptEntry) -> Reading:
        source = self._sources.get(entry.source)
        if source is None:
            return Reading(problem="its source has no reader")
        if entry.deliveries > _MOST_DELIVERIES:
            return Reading(problem=f"it was taken {entry.deliveries} times and never finished")
        taken_at = entry.taken_at_ms / 1000
        try:
            if len(entry.body) > _LARGE_BYTES:
                return await asyncio.to_thread(source.read, entry.body, taken_at)
            return source.read(entry.body, taken_at)
        except Exception as error:  # readers do not raise; a mistake in one must not block all others
            log.exception("reading a receipt failed", source=entry.source, entry=entry.entry_id)
            return Reading(problem=f"its reader failed: {type(error).__name__}")

    async def _set_aside(self, entry: ReceiptEntry, why: str) -> None:
        log.warning("unreadable receipt set aside", source=entry.source, entry=entry.entry_id, reason=why)
        try:
            await self._insist(partial(self._inbox.set_aside, entry, why))
        except _StoppedError:
            raise
        except Exception:  # one bad entry must not block all others
            log.exception("setting a receipt aside failed; trying again", source=entry.source, entry=entry.entry_id)
        else:
            self._state.set_aside[entry.source] += 1

    async def _insist(self, call: Callable[[], Awaitable[None]]) -> None:
        """Repeat a call until Redis takes it; raises _StoppedError if the service is stopped before that.

        All calls are safe to repeat: after a lost answer, the first one may have had its effect.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await call()
            except QueueFullError as error:
                self._health.report("events", str(error))
            except QueueUnavailableError as error:
                self._health.report("redis", str(error))
            else:
                self._health.report("events", None)
                self._health.report("redis", None)
                return
            if self._stop.is_set():
                raise _StoppedError
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until the service is stopped."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
