"""The jobs that one sender holds now: in its buffer, begun, or in flight."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from shared.queue.leases import HeldEntry, Lease
from shared.sending.journal import Journal
from shared.sending.pace import Pace

SLOW_SEND_S = 0.5
_RANK = {"high": 0, "normal": 1, "bulk": 2}


class BegunJob(msgspec.Struct, eq=False):
    """A job begun and not settled; times are on the monotonic clock, in seconds.

    A start after `latest_start` could come too close to starts that were granted later; `granted_for` is the earliest
    moment that the grant can mean. `asked_at` is when `begin` was called: the grant is void if the lease has lapsed
    since. `taken_at` is when the channel was asked to send, infinity before that and after its answer. `sending` is
    True from the start of the hand-over: before that nothing was handed over. `undecided` is True while a refusal is
    held. `slot` is its place in the journal, -1 for none.
    """

    lease: Lease
    starts_at: float
    latest_start: float = math.inf
    granted_for: float = math.inf
    asked_at: float = math.inf
    alone: bool = False
    taken_at: float = math.inf
    sending: bool = False
    undecided: bool = False
    slot: int = -1


class ReadyQueue:
    """The begun jobs waiting for a worker: those of lane `high` first, unless a limit spaces their starts."""

    def __init__(self) -> None:
        self._high: deque[BegunJob] = deque()
        self._others: deque[BegunJob] = deque()
        # the workers that wait for a job
        self._waiting: deque[asyncio.Future[None]] = deque()

    def put(self, begun: BegunJob) -> None:
        """Add a job."""
        # starts that a limit spaces must keep their order, or the earlier one comes too late
        first = begun.lease.job.lane == "high" and begun.latest_start == math.inf
        (self._high if first else self._others).append(begun)
        if self._waiting:
            self._wake_worker()

    def _wake_worker(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    async def get(self) -> BegunJob:
        """Wait for a job and take it."""
        while self.empty():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                if not waiting.cancelled() and not self.empty():
                    self._wake_worker()  # the job that this worker was woken for is another's
                raise
        return self.get_nowait()

    def get_nowait(self) -> BegunJob:
        """Take the next job; raises IndexError if none waits."""
        return (self._high or self._others).popleft()

    def get_one_that_may_wait(self) -> BegunJob | None:
        """Take the next job if it may wait behind another; None otherwise."""
        if self._high or not self._others:
            return None
        begun = self._others[0]
        return None if begun.alone or begun.latest_start < math.inf else self._others.popleft()

    def qsize(self) -> int:
        """Return how many jobs wait."""
        return len(self._high) + len(self._others)

    def empty(self) -> bool:
        """Return whether none waits."""
        return not self._high and not self._others


@dataclass(slots=True)
class Holdings:
    """The sender's record of the jobs it holds; the keeper compares it with the queue's.

    `buffered` is sorted: by lane, then in order of arrival. `suspects` were abandoned in mid-send before: each is begun
    alone, once nothing is in flight. A job in flight may be fetched once more, from another entry, if a failover of
    Redis lost the first entry: it is not begun until the first has been settled. Jobs of a partition that is away are
    set aside. `on_remove` is called with each job that is removed. `journal` has the jobs that workers took.
    """

    buffered: list[tuple[int, int, Lease]] = field(default_factory=list)
    suspects: list[tuple[int, Lease]] = field(default_factory=list)
    in_flight: dict[str, BegunJob] = field(default_factory=dict)
    ready: ReadyQueue = field(default_factory=ReadyQueue)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    low_water: int = 0
    finished: int = 0
    pace: Pace = field(default_factory=Pace)
    on_remove: Callable[[Lease], None] | None = None
    journal: Journal | None = None
    _undecided: int = 0
    _alone: int = 0
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _known: dict[str, int] = field(default_factory=dict)
    _suspected: set[str] = field(default_factory=set)
    _refetched: dict[str, Lease] = field(default_factory=dict)
    _begun_jobs: dict[str, str] = field(default_factory=dict)
    _doubles: dict[str, list[Lease]] = field(default_factory=dict)
    _aside: dict[str, list[Lease]] = field(default_factory=dict)

    def buffer(self, lease: Lease) -> None:
        """Keep a fetched job until it can be begun, `high` first; ignore a job that is held already."""
        if self.add_taken(lease):
            self.put_back(lease)

    def add_fetched(self, lease: Lease) -> None:
        """Keep a job that a fetch returned.

        A job that is held already was given back and fetched again before the reply to the give-back arrived; it is
        buffered once that reply has arrived.
        """
        if self.add_taken(lease):
            self.put_back(lease)
        else:
            self._refetched[lease.key] = lease

    def add_taken(self, lease: Lease) -> bool:
        """Record a job that was fetched, and of which it was decided in the same step whether it begins.

        Return False for a job that is held already.
        """
        key = lease.key
        if key in self._known or key in self.in_flight:
            return False
        self._known[key] = next(self._order)
        return True

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing."""
        return not (self.in_flight or self._known or self._aside)

    @property
    def waiting(self) -> bool:
        """Whether any job waits to be begun."""
        return bool(self.buffered or self.suspects)

    @property
    def any_aside(self) -> bool:
        """Whether the jobs of a partition are set aside."""
        return bool(self._aside)

    def set_aside(self, one: Lease) -> None:
        """Let no job of this one's partition be chosen until `bring_back`; this one is being begun there."""
        tag = _tag_of(one)
        if tag in self._aside:
            return
        suspects, buffered = self.suspects, self.buffered
        waiting = [lease for _, lease in suspects] + [lease for *_, lease in buffered]
        self._aside[tag] = [lease for lease in waiting if _tag_of(lease) == tag]
        self.suspects = [entry for entry in suspects if _tag_of(entry[1]) != tag]
        self.buffered = [entry for entry in buffered if _tag_of(entry[2]) != tag]
        heapq.heapify(self.suspects)

    def bring_back(self, one: Lease) -> None:
        """Put the jobs of this one's partition back in their places."""
        for lease in self._aside.pop(_tag_of(one), ()):
            self.put_back(lease)

    def put_back(self, lease: Lease) -> None:
        """Put a job in its place among those that wait, which it keeps until it is removed."""
        if self._aside and (aside := self._aside.get(_tag_of(lease))) is not None:
            aside.append(lease)
            return
        key = lease.key
        if self._begun_jobs.get(lease.job_id, key) != key:
            self._doubles.setdefault(lease.job_id, []).append(lease)
        elif key in self._suspected:
            heapq.heappush(self.suspects, (self._known[key], lease))
        else:
            buffered, entry = self.buffered, (_RANK[lease.job.lane], self._known[key], lease)
            if buffered and entry < buffered[-1]:
                insort(buffered, entry)
            else:  # nearly always
                buffered.append(entry)

    def add_suspect(self, lease: Lease) -> None:
        """Keep a job that must be sent alone until no other is in flight."""
        self._suspected.add(lease.key)
        self.put_back(lease)

    def take(self, most: int) -> list[Lease]:
        """Take up to `most` jobs out of the buffer, in order; they count as held until they are removed."""
        taken = self.buffered[:most]
        del self.buffered[:most]
        return [lease for _, _, lease in taken]

    def take_high(self, most: int) -> list[Lease]:
        """Take up to `most` jobs of lane `high` out of the buffer."""
        return self.take(min(most, sum(rank == _RANK["high"] for rank, _, _ in self.buffered)))

    def take_suspect(self) -> list[Lease]:
        """Take the suspect that was fetched first, if there is one."""
        return [heapq.heappop(self.suspects)[1]] if self.suspects else []

    def take_all(self) -> list[Lease]:
        """Take every job that waits to be begun."""
        leases = [lease for _, lease in sorted(self.suspects)] + self.take(len(self.buffered))
        leases += [lease for doubles in self._doubles.values() for lease in doubles]
        leases += [lease for aside in self._aside.values() for lease in aside]
        self.suspects.clear()
        self._doubles.clear()
        for aside in self._aside.values():
            aside.clear()
        return leases

    def add_begun(self, begun: BegunJob) -> None:
        """Record a begun job as in flight and hand it to the workers."""
        key = begun.lease.key
        self.in_flight[key] = begun
        self._begun_jobs[begun.lease.job_id] = key
        self._alone += begun.alone
        self.ready.put(begun)

    async def next_begun(self) -> BegunJob:
        """Wait for a begun job to send; wake the dispatcher when few are left."""
        begun = await self.ready.get()
        if self.ready.qsize() == self.low_water:
            self.wake.set()
        return begun

    def next_begun_that_may_wait(self) -> BegunJob | None:
        """Take the next begun job if it may wait behind another on the same worker; None otherwise.

        A job may not wait if its lane is `high`, if a limit spaces its start, or if sends are so slow that another
        worker may be free sooner.
        """
        if self.pace.send_s > SLOW_SEND_S:
            return None
        begun = self.ready.get_one_that_may_wait()
        if begun is not None and self.ready.qsize() == self.low_water:
            self.wake.set()
        return begun

    def is_low(self) -> bool:
        """Return whether few begun jobs are left for the workers."""
        return self.ready.qsize() <= self.low_water

    def remove(self, leases: Iterable[Lease]) -> None:
        """Forget jobs that have been settled or are no longer this sender's."""
        for lease in leases:
            key = lease.key
            self._known.pop(key, None)
            if self._suspected:
                self._suspected.discard(key)
            if self.on_remove is not None:
                self.on_remove(lease)
            if (begun := self.in_flight.pop(key, None)) is not None:
                self._land(begun)
            if self._refetched and (again := self._refetched.pop(key, None)) is not None:
                self.buffer(again)
        self.wake.set()

    def _land(self, begun: BegunJob) -> None:
        self._undecided -= begun.undecided
        self._alone -= begun.alone
        self.finished += 1
        if self.journal is not None:
            self.journal.free(begun.slot)
        job_id = begun.lease.job_id
        self._begun_jobs.pop(job_id, None)
        if self._doubles:
            for double in self._doubles.pop(job_id, ()):
                self.put_back(double)

    def note_taken(self, begun: BegunJob) -> None:
        """Note in the journal that a worker has taken a job."""
        if self.journal is not None and begun.slot < 0:
            begun.slot = self.journal.take(begun.lease.key)

    def note_acceptance(self, begun: BegunJob, event: bytes) -> None:
        """Note in the journal that the provider accepted a job, with its packed `sent` event."""
        if self.journal is not None:
            self.journal.accept(begun.slot, event)

    def note_refusal(self, begun: BegunJob) -> None:
        """Note in the journal that the provider certainly did not accept a job."""
        if self.journal is not None:
            self.journal.refuse(begun.slot)

    def mark_undecided(self, lease: Lease) -> None:
        """Mark a job as undecided: its refusal is held, or its partition is away and it cannot be settled.

        It no longer counts against the window.
        """
        begun = self.in_flight.get(lease.key)
        if begun is not None and not begun.undecided:
            self._undecided += 1
            self._alone -= begun.alone
            begun.undecided, begun.alone = True, False
            self.wake.set()

    @property
    def in_flight_count(self) -> int:
        """How many jobs are in flight, without those that are undecided."""
        return len(self.in_flight) - self._undecided

    def holds(self, entry: Lease | HeldEntry) -> bool:
        """Return whether this sender holds the entry: buffered, being begun, in flight or being settled."""
        return entry.key in self._known or entry.key in self.in_flight

    def some_blasts(self, most: int) -> set[str]:
        """Return the blasts of some jobs that are in flight or buffered, at most `most` jobs of each."""
        leases = [begun.lease for begun in itertools.islice(self.in_flight.values(), most)]
        leases += [lease for _, _, lease in self.buffered[:most]]
        return {lease.job.blast_id for lease in leases}

    def unknown(self, entries: Iterable[HeldEntry]) -> list[HeldEntry]:
        """Return the entries that this sender does not hold."""
        return [entry for entry in entries if not self.holds(entry)]

    def any_alone(self) -> bool:
        """Return whether a job that must be sent alone is in flight."""
        return self._alone > 0


def _tag_of(lease: Lease) -> str:
    """Return the hash tag of a job's partition, which its stream's name begins with."""
    return lease.stream[: lease.stream.index("}") + 1]
