"""The feeder: hands events to the endpoints' queues, in turns, a bounded number at a time.

A turn plans what some endpoints get next, writes it in one transaction, enqueues it and remembers what to mark as
enqueued, which the next transaction does. A kill anywhere in between repeats the same chunk: the deliveries and their
numbers are in the database before Redis gets them, and `enqueue` adds nothing twice. An endpoint gets nothing more
while its window in Redis is full, so one that is away costs a bounded part of Redis's memory; the rest waits in the
database.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from services.logger.database import Database, DatabaseError
from services.logger.store import LOOK_AGAIN_S, QueryTooSlowError, StorageError, Store
from services.logger.webhooks.alignment import align, give_up, has_unsent_before, is_off, load_unsent, mark_enqueued
from services.logger.webhooks.endpoints import Row, read_rows
from services.logger.webhooks.planning import Proposal, adopt, propose
from shared.clock import Clock, SystemClock
from shared.errors import QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.producer import MAX_CHUNK, GapError
from shared.queue.webhook_queues import Outgoing, WebhookQueues

log = get_logger()
_RETRY_S = 2.0
# between two turns, so that transactions are few
_APART_S = 0.05
# how often the watermarks are compared with the database
_CHECK_EVERY_S = 5.0
# events of one turn, over all endpoints: planning them takes a few tens of milliseconds
_EVENTS_A_TURN = 2000
_CHUNK_BYTES = 1024 * 1024
_FAULTY_S = 10.0


@dataclass(slots=True)
class _Backlog:
    """What the feeder knows of an endpoint: deliveries to enqueue now, and where it has looked.

    `unread`: the database may have more deliveries that are not enqueued. `aligned`: Redis's watermark was compared.
    `seen`: up to here, the journal has nothing for it. After a fault of its own it is left alone until `faulty_until_s`
    on the monotonic clock.
    """

    outgoing: deque[Outgoing] = field(default_factory=deque)
    unread: bool = True
    aligned: bool = False
    seen: int = 0
    faulty_until_s: float = 0.0


@dataclass(slots=True)
class _Turn:
    """What a turn found for the endpoints; `more` is whether there is more to do at once."""

    rows: dict[int, Row]
    proposals: list[Proposal] = field(default_factory=list)
    outgoing: dict[int, list[Outgoing]] = field(default_factory=dict)
    gone: list[tuple[int, int]] = field(default_factory=list)
    more: bool = False


class Feeder:
    """Feeds all enabled endpoints; `recipients` is whether clients may see addresses."""

    def __init__(
        self, store: Store, queues: WebhookQueues, *, recipients: bool = False, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._queues = queues
        self._recipients = recipients
        self._clock = clock or SystemClock()
        self._backlogs: dict[int, _Backlog] = {}
        self._marks: list[tuple[int, int]] = []
        self._gone: list[tuple[int, int]] = []
        self._wake = asyncio.Event()
        self._last = 0
        self._check_at_s = 0.0

    def wake(self) -> None:
        """Look for work now: events were journaled, a window opened, or an endpoint changed."""
        self._wake.set()

    def reload(self, number: int) -> None:
        """Enqueue a delivery that was added to the database: a test."""
        if number in self._backlogs:
            self._backlogs[number].unread = True
        self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Feed until stopped; failures are logged, and tried again."""
        self._start_over()
        # from an earlier lead: another logger may have given these numbers to others since
        self._marks = []
        while not stop.is_set():
            self._wake.clear()
            try:
                wait_s = await self.turn()
            except (QueueUnavailableError, QueueFullError, StorageError, QueryTooSlowError) as error:
                log.warning("events for webhooks wait to be enqueued", reason=str(error))
                self._start_over()
                await _first_of(stop.wait(), seconds=_RETRY_S)
            except Exception:  # one endpoint's rows must not end the service
                log.exception("feeding webhooks failed; trying again")
                self._start_over()
                await _first_of(stop.wait(), seconds=_RETRY_S)
            else:
                await _first_of(stop.wait(), seconds=_APART_S)
                if wait_s > _APART_S:
                    await _first_of(stop.wait(), self._wake.wait(), seconds=wait_s - _APART_S)

    async def turn(self) -> float:
        """Serve the endpoints once, each with a bounded number of events; return in how many seconds to look again.

        Raises QueueUnavailableError, QueueFullError, StorageError and QueryTooSlowError.
        """
        await self._prepare()
        turn = await self._store.read(self._look)
        self._backlogs = {number: self._backlogs.get(number) or _Backlog() for number in turn.rows}
        for number, outgoing in turn.outgoing.items():
            self._backlogs[number].outgoing.extend(outgoing)
        self._gone += turn.gone
        worth = [proposal for proposal in turn.proposals if proposal.is_worth_writing()]
        if worth or self._gone:
            for number, outgoing in (await self._write(worth)).items():
                self._backlogs[number].outgoing.extend(outgoing)
        unaligned = [row for number, row in turn.rows.items() if not self._backlogs[number].aligned]
        if unaligned:
            await self._align(unaligned)
        for number, row in turn.rows.items():
            await self._enqueue(row, self._backlogs[number])
        if unaligned or turn.more or any(self._has_unread(one) for one in self._backlogs.values()):
            return 0.0
        if self._marks:
            await self._write([])
        due_s = [one.due_in_ms / 1000 for one in turn.proposals if one.due_in_ms is not None]
        # another logger that wrote events cannot wake this one
        return min([LOOK_AGAIN_S if self._store.shared else _CHECK_EVERY_S, *due_s])

    def _has_unread(self, backlog: _Backlog) -> bool:
        return backlog.unread and self._clock.monotonic() >= backlog.faulty_until_s

    async def _prepare(self) -> None:
        """Let all endpoints be aligned that are due for a check."""
        now_s = self._clock.monotonic()
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + _CHECK_EVERY_S
            for backlog in self._backlogs.values():
                backlog.aligned = False
        if self._marks and any(one.unread or not one.aligned for one in self._backlogs.values()):
            await self._write([])  # what is read next must not be what was just enqueued

    async def _align(self, rows: Sequence[Row]) -> bool:
        """Make the database agree with Redis about endpoints; return whether anything was wrong. Nothing is marked."""
        progress = await self._queues.progress([row.endpoint() for row in rows])
        pairs = list(zip(rows, progress, strict=True))
        off = await self._store.read(
            lambda connection: [(row, redis) for row, redis in pairs if is_off(connection, row.number, redis)]
        )
        for row, redis in off:
            log.warning(
                "a webhook's queue differs from the log; open deliveries are enqueued again", webhook=row.number
            )
            await self._store.write(partial(align, number=row.number, redis=redis))
            backlog = self._backlogs[row.number]
            backlog.outgoing.clear()
            backlog.unread = True
        for row in rows:
            self._backlogs[row.number].aligned = True
        return bool(off)

    def _look(self, connection: Database) -> _Turn:
        """Read what aligned endpoints get next, in turns, until the turn has enough events.

        The endpoints are read in the same snapshot as the journal: one that just subscribed to a type misses nothing.
        """
        rows = {row.number: row for row in read_rows(connection) if row.is_fed}
        turn = _Turn(rows)
        events = 0
        for number in _from(sorted(rows), self._last):
            if events >= _EVENTS_A_TURN:
                turn.more = True
                break
            self._last = number
            backlog = self._backlogs.get(number)
            if (
                backlog is None
                or not backlog.aligned
                or backlog.outgoing
                or self._clock.monotonic() < backlog.faulty_until_s
            ):
                continue
            try:
                events += self._serve(connection, turn, rows[number], backlog)
            except (sqlite3.Error, DatabaseError):
                raise
            except Exception:  # one endpoint's rows must not hold up the others
                log.exception("events of a webhook cannot be made ready; trying again later", webhook=number)
                backlog.faulty_until_s = self._clock.monotonic() + _FAULTY_S
        return turn

    def _serve(self, connection: Database, turn: _Turn, row: Row, backlog: _Backlog) -> int:
        """Read what one endpoint gets next; return the number of events."""
        if backlog.unread or self._has_unsent(connection, row):
            return self._load(connection, turn, row)
        proposal = propose(connection, row, self._clock.now_ms(), recipients=self._recipients, seen=backlog.seen)
        backlog.seen = 0 if proposal.cuts else proposal.cursor
        turn.proposals.append(proposal)
        turn.more |= proposal.more
        return sum(len(cut.events) for cut in proposal.cuts)

    def _has_unsent(self, connection: Database, row: Row) -> bool:
        """Return whether another logger added a delivery: it answered the call for a test."""
        # those with marks were enqueued; the next event shows a test before it, by a gap
        return self._store.shared and not self._marks and has_unsent_before(connection, row.number, row.next_n)

    def _load(self, connection: Database, turn: _Turn, row: Row) -> int:
        """Read deliveries that an earlier turn or process left; return how many."""
        found = load_unsent(connection, row, recipients=self._recipients)
        turn.outgoing[row.number] = found.outgoing
        turn.gone += [(row.number, n) for n in found.gone]
        turn.more = True
        self._backlogs[row.number].unread = found.more
        return len(found.outgoing)

    async def _write(self, proposals: Sequence[Proposal]) -> dict[int, list[Outgoing]]:
        """Write proposals and marks in one transaction; return the deliveries of each endpoint."""
        marks, gone, now_ms = self._marks, self._gone, self._clock.now_ms()

        def work(connection: Database) -> dict[int, list[Outgoing]]:
            mark_enqueued(connection, marks)
            give_up(connection, gone)
            return {one.row.number: adopt(connection, one, now_ms) for one in proposals}

        written = await self._store.write(work)
        self._marks, self._gone = [], []
        return written

    async def _enqueue(self, row: Row, backlog: _Backlog) -> None:
        """Enqueue an endpoint's deliveries in order."""
        endpoint = row.endpoint()
        while backlog.outgoing:
            chunk = _chunk(backlog.outgoing)
            try:
                await self._queues.enqueue(endpoint, chunk)
            except GapError:
                if await self._comes_too_early(row, chunk[0].n):
                    backlog.outgoing.clear()
                    backlog.unread = True
                    return
                # none of those before it is open, so Redis need not have them
                await self._queues.skip_to(endpoint, chunk[0].n)
                continue
            self._marks += [(row.number, one.n) for one in chunk]
            for _ in chunk:
                backlog.outgoing.popleft()

    async def _comes_too_early(self, row: Row, n: int) -> bool:
        """Return whether deliveries before `n` have to be enqueued first: Redis lost some, or a test was added."""
        await self._write([])
        if await self._align([row]):
            return True
        return await self._store.read(partial(has_unsent_before, number=row.number, n=n))

    def _start_over(self) -> None:
        """After a failure: read again from the database what is not enqueued."""
        self._backlogs.clear()
        self._gone = []


def _chunk(outgoing: Iterable[Outgoing]) -> list[Outgoing]:
    """Return the first deliveries that fit one call: with numbers that follow one another, and about a megabyte."""
    chunk: list[Outgoing] = []
    size = 0
    for one in outgoing:
        size += len(one.body)
        if chunk and (len(chunk) == MAX_CHUNK or size > _CHUNK_BYTES or one.n != chunk[-1].n + 1):
            break
        chunk.append(one)
    return chunk


def _from(numbers: Sequence[int], last: int) -> list[int]:
    """Return the numbers in turns: those after the last one that was served, then the others."""
    return [one for one in numbers if one > last] + [one for one in numbers if one <= last]


async def _first_of(*waits: object, seconds: float) -> None:
    """Wait until one of several coroutines ends, at most `seconds`."""
    tasks = [asyncio.ensure_future(one) for one in waits]  # type: ignore[call-overload]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
