"""One sender's side of all partitions of a channel's queue.

`Consumers` fetches and begins as a `Consumer` does, so a sender serves several partitions as it serves one: a fetch
asks those that may have work, and every other step goes to the partitions of its jobs. A fetch and a begin wait for a
partition for PATIENCE_S at most, and its answer is handled when it comes, so one that is away or slow holds up no
other. Each partition has its own settler and heartbeat (`shared.sending.shares`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import structs

from shared.errors import QueueUnavailableError
from shared.lifecycle import end_tasks
from shared.queue.consumer import BeginRequest, Consumer
from shared.queue.fetched import Fetched, Undecodable
from shared.queue.leases import Grant, HeldEntry, Lease, parse_grant
from shared.queue.partitions import Partition, limits_partition

IDLE_POLL_S = 1.0
"""How long a partition without work is left alone, unless it is woken or something is due there."""
AWAY_POLL_S = 0.25
PATIENCE_S = 0.5
"""How long the other partitions wait for one that does not answer."""
_ASK_ALL_S = 1.0
_FEW_FOR_S = 1.0
_MANY = 16
"""As many jobs of each partition are worth a call of their own."""
_ROUND_S = 1.0
"""How long the turns of all partitions with more than is wanted last together."""

_AWAY, _WAIT = Grant("away"), Grant("wait")


@dataclass(slots=True)
class _Share:
    """A partition, and when to fetch from it next (monotonic clock) unless it is woken; `fresh`: with a fresh lease.

    `full`: the last fetch got all that it wanted; `high`: these were all of lane `high`. `fetching` is the fetch under
    way; `error` is that of the last one.
    """

    consumer: Consumer
    next_at: float = 0.0
    woken: bool = True
    full: bool = False
    high: bool = False
    log_behind: bool = False
    fresh: Callable[[], bool] = lambda: True
    fetching: asyncio.Task[Fetched | None] | None = None
    error: QueueUnavailableError | None = None

    def wait_s(self) -> float:
        """Return for how long there is no reason to fetch."""
        if self.fetching is not None:
            return IDLE_POLL_S  # its answer wakes the sender
        return 0.0 if self.woken else max(0.0, self.next_at - time.monotonic())


@dataclass(frozen=True, slots=True)
class Asking:
    """What all partitions are told that are asked for one begin; the limits granted its starts at `granted_at`."""

    now_ms: int
    in_flight: int
    late_ms: int
    asked_at: float
    granted_at: float


@dataclass(frozen=True, slots=True)
class Begun:
    """Jobs that a sender asked to begin at `asked_at` (monotonic clock), and the answers; see `Consumer.begin`."""

    requests: Sequence[BeginRequest]
    grants: Sequence[Grant]
    asked_at: float
    late_ms: int


class Consumers:
    """A sender's consumers, one for each partition, in the order of the partitions."""

    def __init__(self, each: Sequence[Consumer]) -> None:
        self.each = tuple(each)
        for one in self.each:
            one.share_limits()
        self._limits = limits_partition(self.partition.redis, self.partition.channel)
        self._has_rate = False
        self._shares = [_Share(one) for one in self.each]
        self._ask_all_at = 0.0
        self._few, self._few_until = 1, 0.0
        self._passed_over = 0
        self._turn, self._turn_until, self._spaced_until = self._shares[0], 0.0, 0.0
        # a stream's name begins with its partition's tag
        self._places = {one.partition.keys.tag: place for place, one in enumerate(self.each)}
        self._beginning: set[asyncio.Task[Begun]] = set()
        self._late: list[asyncio.Task[Begun]] = []
        self.on_late_answer: Callable[[], None] = lambda: None

    @property
    def partition(self) -> Partition:
        """The first partition, with the data of the whole channel."""
        return self.each[0].partition

    @property
    def sender_id(self) -> str:
        """The sender's id, the same in every partition."""
        return self.each[0].sender_id

    def place_of(self, entry: Lease | HeldEntry | Undecodable) -> int:
        """Return the place of an entry's partition."""
        return self._places[entry.stream[: entry.stream.index("}") + 1]]

    def watch_lease(self, place: int, fresh: Callable[[], bool]) -> None:
        """Fetch from a partition only while `fresh` says that the sender's lease there is."""
        self._shares[place].fresh = fresh

    def wake(self, place: int) -> None:
        """Note that there may be work in a partition."""
        self._shares[place].woken = True

    async def fetch(self, want: int) -> Fetched:
        """Take about `want` jobs, an equal share from each partition asked: those that may have work.

        While starts are limited it takes about as many as were granted last. Jobs that wait for long in a buffer are
        lost to other senders, and so are the starts that are then granted to them. What a slow partition gives is in
        the answer of a later call, which `on_late_answer` asks for. Raises QueueUnavailableError if every partition
        is away.
        """
        if time.monotonic() < self._few_until:
            want = min(want, self._few)
        await self._ask(self._to_ask(want), want)
        found = self._answered()
        fresh = [one for one in self._shares if one.fresh()]
        errors = [one.error for one in fresh if one.error is not None]
        if not found and errors and len(errors) == len(fresh):
            raise errors[0]
        return Fetched(
            [lease for one in found for lease in one.leases],
            [entry for one in found for entry in one.undecodable],
            next((one.paused for one in found if one.paused), ""),
            self._wait_s(),
            log_behind=any(one.log_behind for one in self._shares),
        )

    async def _ask(self, asked: Sequence[_Share], want: int) -> None:
        """Ask partitions for an equal share of what is wanted; wait for those that answered last time.

        If none did, wait for the first answer.
        """
        for one in asked:
            one.fetching = asyncio.create_task(self._fetch(one, math.ceil(want / len(asked))))
        awaited = [one.fetching for one in asked if one.fetching is not None and one.error is None]
        until = asyncio.ALL_COMPLETED
        if not awaited and all(one.error is not None for one in self._shares if one.fresh()):
            awaited = [one.fetching for one in self._shares if one.fetching is not None]
            until = asyncio.FIRST_COMPLETED
        if awaited:
            await asyncio.wait(awaited, timeout=PATIENCE_S, return_when=until)
        for one in asked:
            if one.fetching is not None and not one.fetching.done():
                one.fetching.add_done_callback(lambda _: self.on_late_answer())

    def _answered(self) -> list[Fetched]:
        """Return what the fetches that have been answered took, also those of earlier calls."""
        found: list[Fetched] = []
        for one in self._shares:
            if one.fetching is not None and one.fetching.done():
                task, one.fetching = one.fetching, None
                if (fetched := task.result()) is not None:
                    found.append(fetched)
        return found

    def _to_ask(self, want: int) -> list[_Share]:
        """Return the partitions to fetch from.

        Of those that have more than they gave, one is asked at a time, or as many as jobs are wanted under a low rate.
        While some of them have more of lane `high`, the others have no turn. Partitions that are woken come first;
        one of the others is asked as well after they were passed over as often as there are partitions.
        """
        ready = [one for one in self._shares if one.fetching is None and not one.wait_s() and one.fresh()]
        asked = [one for one in ready if one.woken or not one.full]
        rest = [one for one in ready if not one.woken and one.full]
        rest = [one for one in rest if one.high] or rest
        left = want - len(asked)
        if left <= 0 and rest:
            # under a low rate others may be woken before each fetch
            self._passed_over += 1
            left = self._passed_over // len(self._shares)
        if left > 0 or not rest:
            self._passed_over = 0
        return [*asked, *self._in_turn(rest, want)[: max(0, left)]]

    def _in_turn(self, rest: Sequence[_Share], want: int) -> Sequence[_Share]:
        """Return whose turn it is: one for some fetches, so that calls carry many jobs of few partitions.

        Under a low rate there are few jobs anyway: then all, the one asked least recently first.
        """
        now = time.monotonic()
        if now < self._spaced_until and want < _MANY * len(rest):
            return sorted(rest, key=lambda one: one.next_at)
        if rest and (self._turn not in rest or now >= self._turn_until):
            self._turn = min(rest, key=lambda one: one.next_at)
            self._turn_until = now + _ROUND_S / len(rest)
        return [self._turn] if rest else []

    def _wait_s(self) -> float:
        return min((one.wait_s() for one in self._shares if one.fresh()), default=AWAY_POLL_S)

    async def _fetch(self, share: _Share, want: int) -> Fetched | None:
        """Fetch from a partition; return None and note the error if it is away."""
        share.woken = False  # before the fetch, so that a wake-up during it is kept
        try:
            fetched = await share.consumer.fetch(want)
        except QueueUnavailableError as error:
            share.next_at, share.error = time.monotonic() + AWAY_POLL_S, error
            return None
        share.error = None
        share.log_behind = fetched.log_behind
        wait_s = IDLE_POLL_S if fetched.due_in_s is None else min(fetched.due_in_s, IDLE_POLL_S)
        share.full = len(fetched.leases) >= want
        share.high = share.full and all(lease.job.lane == "high" for lease in fetched.leases)
        share.next_at = time.monotonic() + (0.0 if share.full else wait_s)
        return fetched

    async def begin(
        self, requests: Sequence[BeginRequest], now_ms: int, in_flight: int = 0, late_ms: int = 0
    ) -> list[Grant]:
        """Ask to begin jobs of any partitions; see `Consumer.begin`.

        The limits, which all partitions share, are asked first for jobs with a limit of their own, and for all jobs
        once a partition has answered that the channel may have a rate, as long as it has one.
        Each partition counts the jobs asked for in the others as in flight: a job that must be sent alone waits then.
        For the jobs of a partition that has not answered in time the answer is "away"; it is in `late_answers` once it
        has come. Until then nothing of that partition may be begun.
        """
        if not requests:
            return []
        answers = await self._begin_once(requests, now_ms, in_flight, late_ms)
        again = [number for number, grant in enumerate(answers) if grant.kind == "ask"]
        if not again:
            return answers
        self._has_rate = True
        if any(grant.kind == "alone" for grant in answers):
            return [_WAIT if grant.kind == "ask" else grant for grant in answers]
        in_flight += sum(grant.starts for grant in answers)
        asked = await self._begin_once([requests[number] for number in again], now_ms, in_flight, late_ms)
        for number, grant in zip(again, asked, strict=True):
            answers[number] = grant
        return answers

    async def _begin_once(
        self, requests: Sequence[BeginRequest], now_ms: int, in_flight: int, late_ms: int
    ) -> list[Grant]:
        """Ask the limits where that is needed, then the partitions.

        The partitions are asked only for jobs that may start or that must wait in a list; once a second for all, so
        that a job that was cancelled or has expired ends.
        """
        asked_at = time.monotonic()
        requests = await self._granted(requests, late_ms)
        granted_at = time.monotonic()
        if granted_at < self._ask_all_at:
            asked = [one for one in requests if not _is_limited(one)]
        else:
            asked, self._ask_all_at = list(requests), granted_at + _ASK_ALL_S
        answers = await self._begin_apart(asked, Asking(now_ms, in_flight, late_ms, asked_at, granted_at))
        if any(grant.kind == "lost" for grant in answers):
            self._ask_all_at = 0.0  # others of this buffer may be lost too
        if len(asked) == len(requests):
            return answers
        begun = iter(answers)
        return [parse_grant(one.granted.partition("/")[0]) if _is_limited(one) else next(begun) for one in requests]

    async def _granted(self, requests: Sequence[BeginRequest], late_ms: int) -> Sequence[BeginRequest]:
        """Return the requests with the answers of the limits, where these must be asked."""
        limited = requests if self._has_rate or self.each[0].has_rate else [one for one in requests if one.limit]
        if not limited:
            return requests
        granted = await self.each[0].grant(self._limits, limited, late_ms)
        self._note_starts(granted, time.monotonic())
        if len(limited) == len(requests):
            return granted
        answers = iter(granted)
        return [next(answers) if one.limit else one for one in requests]

    async def _begin_apart(self, asked: Sequence[BeginRequest], asking: Asking) -> list[Grant]:
        """Ask each partition concerned, all at once; return the answers in the order of the requests."""
        by_place: dict[int, list[int]] = {}
        for number, one in enumerate(asked):
            by_place.setdefault(self.place_of(one.lease), []).append(number)
        tasks = {
            place: asyncio.create_task(self._begin_at(place, [asked[number] for number in some], len(asked), asking))
            for place, some in by_place.items()
        }
        self._beginning.update(tasks.values())
        if tasks:
            await asyncio.wait(tasks.values(), timeout=PATIENCE_S)
        answers = [_AWAY] * len(asked)
        for place, task in tasks.items():
            if not task.done():
                self._late.append(task)
                task.add_done_callback(lambda _: self.on_late_answer())
                continue
            self._beginning.discard(task)
            for number, grant in zip(by_place[place], task.result().grants, strict=True):
                answers[number] = grant
        return answers

    async def _begin_at(self, place: int, some: Sequence[BeginRequest], total: int, asking: Asking) -> Begun:
        others = total - len(some)
        grants = await self.each[place].begin(some, asking.now_ms, asking.in_flight + others, asking.late_ms)
        waited_us = int((time.monotonic() - asking.granted_at) * 1e6)
        grants = [structs.replace(grant, waited_us=waited_us) if grant.spaced else grant for grant in grants]
        return Begun(some, grants, asking.asked_at, asking.late_ms)

    def late_answers(self) -> list[Begun]:
        """Return the answers to earlier begins that have come since the last call."""
        answered = [task for task in self._late if task.done()]
        self._late = [task for task in self._late if not task.done()]
        self._beginning.difference_update(answered)
        return [task.result() for task in answered]

    async def close(self) -> None:
        """End the calls that have not been answered."""
        fetching = [one.fetching for one in self._shares if one.fetching is not None]
        await end_tasks([*fetching, *self._beginning])

    def _note_starts(self, requests: Sequence[BeginRequest], now: float) -> None:
        """Note how many jobs to take next, by the starts that were granted, and whether the rate spaces them."""
        if any(one.granted.startswith(("s", "limited")) for one in requests):
            self._has_rate = True
            self._spaced_until = now + _FEW_FOR_S
        elif any(one.granted.startswith(("g", "o")) for one in requests):
            self._has_rate = False
        granted = sum(not _is_limited(one) for one in requests)
        if granted < len(requests):
            self._few, self._few_until = max(1, granted), now + _FEW_FOR_S
        else:
            self._few = 2 * granted

    async def list_held(self, kind: str) -> list[HeldEntry]:
        """List what this sender holds in all partitions, `buf` or `tx`; raises QueueUnavailableError."""
        return [entry for one in self.each for entry in await one.list_held(kind)]

    async def load(self, entries: Sequence[HeldEntry]) -> list[Lease]:
        """Read the jobs of entries that this sender holds; see `Consumer.load`."""
        by_place: dict[int, list[HeldEntry]] = {}
        for entry in entries:
            by_place.setdefault(self.place_of(entry), []).append(entry)
        return [lease for place, some in by_place.items() for lease in await self.each[place].load(some)]

    async def discard(self, entry: Undecodable, now_ms: int) -> None:
        """End an entry that is not a job; see `Consumer.discard`."""
        await self.each[self.place_of(entry)].discard(entry, now_ms)

    async def leave(self) -> int:
        """Leave every partition; return in how many streams this sender still holds something.

        Raises QueueUnavailableError if any is away, after leaving the others.
        """
        left = await asyncio.gather(*(one.leave() for one in self.each), return_exceptions=True)
        for one in left:
            if isinstance(one, BaseException):
                raise one
        return sum(one for one in left if isinstance(one, int))


def _is_limited(request: BeginRequest) -> bool:
    return request.granted.startswith("limited")
