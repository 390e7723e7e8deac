"""The recorder: reads events from Redis, writes them, and acknowledges them after the commit.

While Redis is away, the disk is full or the file is locked, it keeps trying with backoff and reports the reason in the
service's health; events wait in Redis until then. Reading is one batch ahead of writing. When there is little to do,
the recorder waits a moment so that batches grow: a message that is queued, begun and sent in that time is written once.
It waits longer while many events arrive, since each transaction costs as much as a hundred of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from services.logger.database import ResultT, Work
from services.logger.letters import LetterFile, failed_jobs, files_of, forget_files, keep_file, touch_file
from services.logger.store import StorageError, Store
from services.logger.writing import Applied, EventWriter, Written
from shared.clock import SystemClock
from shared.errors import DecodeError, QueueUnavailableError
from shared.events import Begun, Event, Queued, Receipts, Swept, SweptRanges
from shared.lifecycle import Stop, TaskGroup
from shared.logs import get_logger
from shared.queue.event_log import Before, EventEntry, EventLog
from shared.web import Health

log = get_logger()

_FEWEST_ENTRIES, _MOST_ENTRIES = 20, 500
_BLOCK_S = 1.0
# for how long batches grow after a read of few events, and of many
_GATHER_S, _GATHER_MANY_S, _MANY = 0.1, 0.25, 100
# job events per transaction, which then holds the writer for about 50 ms; a read takes about two transactions' worth
_WEIGHT = 4000
_READ_WEIGHT = 2 * _WEIGHT
_OF_SEVERAL = frozenset({Queued, Begun, Receipts, Swept, SweptRanges})
_FIRST_PAUSE_S = 0.1
# how long another logger's entry is not acknowledged until it is taken over; a file's only logger looks for what
# loggers of PostgreSQL left behind
_ABANDONED_S = 10.0
_TAKE_OVER_EVERY_S, _TAKE_OVER_ALONE_S = 3.0, 60.0
_LONGEST_PAUSE_S = 5.0


@dataclass(slots=True)
class RecorderState:
    """Counts of the recorder's work since its start, for metrics."""

    events: int = 0
    repeated: int = 0
    write_failures: int = 0
    set_aside: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """For how many seconds a stopped recorder drains, and what multiplies the times of take-overs, for tests."""

    drain_s: float = 4.0
    scale: float = 1.0


class Recorder:
    """Moves events from `events` into `store`; calls `on_written` with what each batch ended.

    After a stop it continues for a while with the events left in Redis; the rest is safe there.
    """

    def __init__(
        self,
        events: EventLog,
        store: Store,
        health: Health,
        on_written: Callable[[Written], None],
        pace: Pace = Pace(),
    ) -> None:
        self._pace = pace
        self._clock = SystemClock()
        self.state = RecorderState()
        self._events = events
        self._store = store
        self._health = health
        self._on_written = on_written
        self.writer = EventWriter()
        self._stop = Stop()
        self._unacknowledged = False
        self._take_over_at_s = 0.0

    async def run(self, stop: Stop) -> None:
        """Record until stopped, then drain the events left in Redis as long as they can be read and written."""
        self._stop = stop
        await self._build_indexes()
        batches: asyncio.Queue[list[EventEntry] | None] = asyncio.Queue(1)
        async with TaskGroup() as tasks:
            tasks.create_task(self._read(batches))
            tasks.create_task(self._write(batches))

    async def _build_indexes(self) -> None:
        """Build the indexes that a large file of an earlier version lacks; queries are answered meanwhile."""
        stopped = self._stop.is_set
        while self._store.unindexed and not self._stop.is_set():
            name = self._store.unindexed[0]
            log.info("an index is being built; events wait in Redis until it is complete", index=name)
            if await self._insist(lambda: self._store.build_index(name, stopped)):  # noqa: B023
                self._store.unindexed.remove(name)

    async def _read(self, batches: asyncio.Queue[list[EventEntry] | None]) -> None:
        pause_s, ends_at, limit = _FIRST_PAUSE_S, float("inf"), _FEWEST_ENTRIES
        clock = asyncio.get_running_loop().time
        while clock() < ends_at:
            stopping = self._stop.is_set()
            if stopping:
                ends_at = min(ends_at, clock() + self._pace.drain_s)
            entries = await self._read_once(limit, 0.0 if stopping else _BLOCK_S)
            if entries:
                await batches.put(entries)
            elif stopping:
                break
            if entries is None:
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            if entries and len(entries) < limit:
                await self._pause(gather_s(entries))
            limit = next_limit(entries)
        await batches.put(None)

    async def _read_once(self, limit: int, block_s: float) -> list[EventEntry] | None:
        """Read the next entries; return None while Redis is away."""
        if self._unacknowledged:
            # here and not where the failure was noticed: a read in progress there would undo it
            self._unacknowledged = False
            self._events.start_over()
        try:
            await self._take_over()
            entries = await self._events.read(limit, block_s)
        except QueueUnavailableError as error:
            self._health.report("redis", str(error))
            self._unacknowledged = True
            return None
        self._health.report("redis", self._events.away or None)
        return entries

    async def _take_over(self) -> None:
        """Take over what another logger has not acknowledged for a while, if that is due."""
        now_s = self._clock.monotonic()
        if now_s < self._take_over_at_s:
            return
        every_s = _TAKE_OVER_EVERY_S if self._store.shared else _TAKE_OVER_ALONE_S
        self._take_over_at_s = now_s + every_s * self._pace.scale
        if taken := await self._events.take_over(_ABANDONED_S * self._pace.scale):
            log.info("events of another logger taken over", entries=taken)

    async def _write(self, batches: asyncio.Queue[list[EventEntry] | None]) -> None:
        groups = Groups(batches)
        while (group := await groups.next()) is not None:
            if not await self._record(group, groups.following()):
                log.warning("stopped with unwritten events; they wait in Redis", entries=len(group))
                return await groups.drain()
        return None

    async def _record(self, entries: Sequence[EventEntry], following: Sequence[EventEntry] = ()) -> bool:
        """Write and acknowledge entries; return False if the service was stopped before it succeeded.

        `following` are those of the next transaction, as far as they are known.
        """
        failed = failed_jobs(entries)
        try:
            if failed and not await self._keep_files(files_of(failed)):
                return False
        except QueueUnavailableError:
            return await self._record_apart(entries)
        try:
            applied = await self._persist(lambda connection: self.writer.apply(connection, entries, following))
        except Exception as error:  # one bad event must not block all others
            if len(entries) == 1:
                return await self._set_aside(entries[0], error)
            middle = len(entries) // 2
            return await self._record(entries[:middle]) and await self._record(entries[middle:])
        if applied is None:
            return False
        await self._settle(entries, applied, self._forget_files if failed else None)
        return True

    async def _record_apart(self, entries: Sequence[EventEntry]) -> bool:
        """Record entries whose files are in part on a node that is away: those of its stream are read again."""
        by_stream: dict[str, list[EventEntry]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry)
        if len(by_stream) == 1:
            self._events.start_over(list(by_stream))
            await self._pause(_FIRST_PAUSE_S)
            return True
        return all([await self._record(some) for some in by_stream.values()])

    async def _keep_files(self, files: Sequence[LetterFile]) -> bool:
        """Store the files of dead letters, one at a time; return False if the service was stopped before all were.

        Raises QueueUnavailableError on a cluster, where other streams can be written meanwhile.
        """
        for file in files:
            now_ms = self._clock.now_ms()
            stored = await self._persist(partial(touch_file, file=file, now_ms=now_ms))
            if stored is None:
                return False
            if stored:
                continue
            try:
                content = await self._load(file)
            except QueueUnavailableError:
                if self._events.apart and not self._stop.is_set():
                    raise
                return False
            if content is None:  # stored and released before, or lost: without its file a letter fails when sent again
                log.info("attachment of a dead letter missing in Redis", blast=file.blast_id, file=file.digest)
            elif await self._persist(partial(keep_file, file=file, content=content, now_ms=now_ms)) is None:
                return False
        return True

    async def _load(self, file: LetterFile) -> bytes | None:
        """Read a file, trying until Redis answers; raises QueueUnavailableError if the service is stopped first."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._events.files.get(file.channel, file.blast_id, file.digest, file.index)
            except QueueUnavailableError as error:
                self._health.report("redis", str(error))
                if self._stop.is_set() or self._events.apart:
                    raise
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _set_aside(self, entry: EventEntry, error: Exception) -> bool:
        log.error("event not applied; kept in undecodable_events", stream=entry.stream, exc_info=error)
        kept = await self._persist(lambda connection: self.writer.set_aside(connection, entry, repr(error)))
        if kept is None:
            return False
        self.state.set_aside += 1
        await self._settle([entry], kept, self._forget_files)
        return True

    async def _persist(self, work: Work[ResultT]) -> ResultT | None:
        """Try a transaction until it succeeds; return None if the service was stopped before that.

        Raises StorageError if the values to write are at fault.
        """
        return await self._insist(lambda: self._store.write(work))

    async def _insist(self, action: Callable[[], Awaitable[ResultT]]) -> ResultT | None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                applied = await action()
            except StorageError as error:
                self.writer.forget()
                if error.of_data:
                    raise
                self._note_failure(error)
                if self._stop.is_set():
                    return None
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            except BaseException:
                self.writer.forget()
                raise
            else:
                self._health.report("database", None)
                return applied

    def _note_failure(self, error: StorageError) -> None:
        self.state.write_failures += 1
        self._health.report("database", f"events cannot be written and wait in Redis: {error.reason}")
        log.warning("writing events failed; trying again", reason=error.reason)

    async def _settle(self, entries: Sequence[EventEntry], applied: Applied, before: Before | None) -> None:
        """Acknowledge written entries; if Redis is away they are read again later and found to be applied.

        `before` is called first with the entries of each stream.
        """
        self.state.events += applied.events
        self.state.repeated += applied.repeated
        self.state.set_aside += sum(isinstance(entry.unread or entry.batch, DecodeError) for entry in entries)
        self._on_written(applied.written)
        try:
            await self._events.ack(entries, before)
        except QueueUnavailableError as error:
            self._health.report("redis", str(error))
            self._unacknowledged = True

    async def _forget_files(self, entries: Sequence[EventEntry]) -> None:
        await forget_files(self._events.files, failed_jobs(entries))

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until the service is stopped."""
        if self._stop.is_set():
            return
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return


class Groups:
    """The entries that were read, in groups for transactions."""

    def __init__(self, batches: asyncio.Queue[list[EventEntry] | None]) -> None:
        self._batches = batches
        self._waiting: deque[list[EventEntry]] = deque()
        self._ended = False

    async def next(self) -> list[EventEntry] | None:
        """Return the next group as soon as there is one; None after the last."""
        while not self._waiting and not self._ended:
            self._take(await self._batches.get())
        return self._waiting.popleft() if self._waiting else None

    def following(self) -> list[EventEntry]:
        """Return the group after the last one that `next` returned, nothing if it has not been read yet."""
        if not self._waiting and not self._ended and not self._batches.empty():
            self._take(self._batches.get_nowait())
        return self._waiting[0] if self._waiting else []

    async def drain(self) -> None:
        """Discard groups until the reader ends; their entries stay pending in Redis."""
        while await self.next() is not None:
            continue

    def _take(self, entries: list[EventEntry] | None) -> None:
        self._ended = entries is None
        self._waiting.extend(in_transactions(entries or ()))


def in_transactions(entries: Sequence[EventEntry]) -> Iterator[list[EventEntry]]:
    """Split entries into groups with a bounded number of job events; an entry is never split."""
    group: list[EventEntry] = []
    weight = 0
    for entry in entries:
        own = _weight_of(entry)
        if group and weight + own > _WEIGHT:
            yield group
            group, weight = [], 0
        group.append(entry)
        weight += own
    if group:
        yield group


def next_limit(entries: Sequence[EventEntry]) -> int:
    """Return how many entries to read per stream next, from the average weight of those just read.

    An entry may be one client request or a chunk of 500 recipients, so any fixed number would be too low or too high.
    """
    if not entries:
        return _FEWEST_ENTRIES
    average = max(1, sum(map(_weight_of, entries)) // len(entries))
    return min(max(_READ_WEIGHT // average, _FEWEST_ENTRIES), _MOST_ENTRIES)


def gather_s(entries: Sequence[EventEntry]) -> float:
    """Return for how many seconds batches may grow before the next read, from how much was just read."""
    return _GATHER_MANY_S if sum(map(_weight_of, entries)) >= _MANY else _GATHER_S


def _weight_of(entry: EventEntry) -> int:
    if isinstance(entry.batch, DecodeError):
        return 1
    events = entry.batch.events
    return len(events) + sum([_weight(event) - 1 for event in events if type(event) in _OF_SEVERAL])


def _weight(event: Event) -> int:
    if isinstance(event, Queued):
        return len(event.recipients)
    if isinstance(event, Receipts):
        return len(event.items)
    if isinstance(event, Begun | SweptRanges):
        return len(event)
    return len(event.jobs) if isinstance(event, Swept) else 1
