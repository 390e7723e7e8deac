"""What one sender holds at this moment: jobs buffered, granted and in flight, and who is to be woken."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shared.queue.leases import HeldEntry, Lease
from shared.sending.pace import Pace

SLOW_SEND_S = 0.5
_RANK = {"high": 0, "normal": 1, "bulk": 2}


@dataclass(slots=True)
class Flight:
    """A job begun and not settled; times are on the monotonic clock, in seconds.

    A start later than `latest_start` could come too close to those that were granted after it; `granted_for` is the
    earliest moment that the grant can mean. `asked_at` is when the grant was asked for: it is void once the lease has
    lapsed after that. The channel was asked to send it at `taken_at`, infinity before that and after its answer; from
    its start on it is `sending`: what ends before was not handed over. `undecided` once it was refused, while it is
    not clear whom that concerns.
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


class ReadyQueue(asyncio.Queue[Flight]):
    """The begun jobs that wait for a worker, in order."""

    def first(self) -> Flight | None:
        """Return the job that is next, without taking it; None where there is none."""
        return self._queue[0] if self._queue else None  # type: ignore[attr-defined]  # asyncio's hook for subclasses


@dataclass(slots=True)
class Holdings:
    """The sender's memory of what it holds, to compare with what the queue says it holds.

    `suspects` were abandoned in mid-send before: each is begun alone, once nothing is in flight. `left` is told what
    leaves it.
    """

    buffered: list[tuple[int, int, Lease]] = field(default_factory=list)
    suspects: list[tuple[int, Lease]] = field(default_factory=list)
    in_flight: dict[str, Flight] = field(default_factory=dict)
    ready: ReadyQueue = field(default_factory=ReadyQueue)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    low_water: int = 0
    finished: int = 0
    pace: Pace = field(default_factory=Pace)
    left: Callable[[Lease], None] | None = None
    _undecided: int = 0
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _known: dict[str, int] = field(default_factory=dict)
    _suspected: set[str] = field(default_factory=set)
    _refetched: dict[str, Lease] = field(default_factory=dict)

    def buffer(self, lease: Lease) -> None:
        """Keep a fetched job until it can be begun; `high` comes first. What is known already stays as it is."""
        if self.holds(lease):
            return
        self._known[entry_key(lease)] = next(self._order)
        self.put_back(lease)

    def fetched(self, lease: Lease) -> None:
        """Keep a job that a fetch brought.

        One that is known was given back, and taken again before the answer to the giving back came: it is kept
        once that has come.
        """
        if self.holds(lease):
            self._refetched[entry_key(lease)] = lease
        else:
            self.buffer(lease)

    @property
    def waiting(self) -> bool:
        """Whether any job waits to be begun."""
        return bool(self.buffered or self.suspects)

    def put_back(self, lease: Lease) -> None:
        """Keep a job that was taken out and could not be begun yet, in the place that it had."""
        key = entry_key(lease)
        if key in self._suspected:
            heapq.heappush(self.suspects, (self._known[key], lease))
        else:
            heapq.heappush(self.buffered, (_RANK[lease.job.lane], self._known[key], lease))

    def put_aside(self, lease: Lease) -> None:
        """Keep a job that must be sent alone until nothing is in flight."""
        self._suspected.add(entry_key(lease))
        self.put_back(lease)

    def take(self, most: int) -> list[Lease]:
        """Take up to `most` jobs out of the buffer, in their order; they stay known until they land or leave."""
        return [heapq.heappop(self.buffered)[2] for _ in range(min(most, len(self.buffered)))]

    def take_high(self, most: int) -> list[Lease]:
        """Take up to `most` jobs of lane `high` out of the buffer."""
        return self.take(min(most, sum(rank == _RANK["high"] for rank, _, _ in self.buffered)))

    def take_suspect(self) -> list[Lease]:
        """Take the suspect that has waited longest, if there is one."""
        return [heapq.heappop(self.suspects)[1]] if self.suspects else []

    def take_all(self) -> list[Lease]:
        """Take everything that waits to be begun."""
        leases = [lease for _, lease in sorted(self.suspects)] + self.take(len(self.buffered))
        self.suspects.clear()
        return leases

    def launch(self, flight: Flight) -> None:
        """Note a begun job and hand it to the workers."""
        self.in_flight[entry_key(flight.lease)] = flight
        self.ready.put_nowait(flight)

    async def next_flight(self) -> Flight:
        """Wait for a begun job to send; wakes the dispatcher when few are left."""
        flight = await self.ready.get()
        self._wake_if_low()
        return flight

    def unhurried_flight(self) -> Flight | None:
        """Take a begun job that may be sent behind another, whenever that is done; None where there is none.

        Not one of lane `high`, nor one whose start a limit spaces; and none where sends are so slow that another
        worker may well be free before.
        """
        flight = self.ready.first()
        if flight is None or flight.alone or flight.latest_start < math.inf or flight.lease.job.lane == "high":
            return None
        if self.pace.send_s > SLOW_SEND_S:
            return None
        self.ready.get_nowait()
        self._wake_if_low()
        return flight

    def _wake_if_low(self) -> None:
        if self.ready.qsize() == self.low_water:
            self.wake.set()

    def land(self, lease: Lease) -> None:
        """Forget a job that has been settled or is no longer ours."""
        key = entry_key(lease)
        self._known.pop(key, None)
        self._suspected.discard(key)
        if self.left is not None:
            self.left(lease)
        flight = self.in_flight.pop(key, None)
        if flight is not None:
            self._undecided -= flight.undecided
            self.finished += 1
            self.wake.set()
        again = self._refetched.pop(key, None)
        if again is not None:
            self.buffer(again)
            self.wake.set()

    def set_aside(self, lease: Lease) -> None:
        """Note that a job has been sent and waits for what that means: it takes no room from others."""
        flight = self.in_flight.get(entry_key(lease))
        if flight is not None and not flight.undecided:
            flight.undecided, flight.alone = True, False
            self._undecided += 1
            self.wake.set()

    @property
    def flying(self) -> int:
        """How many begun jobs are sent or settled now, or are to be sent."""
        return len(self.in_flight) - self._undecided

    def holds(self, entry: Lease | HeldEntry) -> bool:
        """Return whether this sender knows of the entry: buffered, being begun, in flight or being settled."""
        key = entry_key(entry)
        return key in self._known or key in self.in_flight

    def unknown(self, entries: Iterable[HeldEntry]) -> list[HeldEntry]:
        """Return those entries of which this sender knows nothing."""
        return [entry for entry in entries if not self.holds(entry)]

    def any_alone(self) -> bool:
        """Say whether a job that must be sent alone is in flight."""
        return any(flight.alone for flight in self.in_flight.values())


def entry_key(entry: Lease | HeldEntry) -> str:
    """Return what names an entry among all streams of the channel."""
    return f"{entry.stream} {entry.entry_id}"
