"""One sender's steps over several partitions: which partitions they ask, and how the answers are put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from msgspec import structs

from shared.errors import QueueUnavailableError
from shared.jobs import Job, Lane, Recipient
from shared.queue.consumer import BeginRequest, Consumer
from shared.queue.consumers import Consumers
from shared.queue.fetched import Fetched
from shared.queue.keys import PartitionKeys
from shared.queue.leases import Grant, HeldEntry, Lease
from shared.queue.partitions import Partition


class Ticking:
    """A clock that advances by a microsecond at each reading, and otherwise only when a test moves it."""

    now = 1000.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """The clock by which partitions are asked: a test may stand still for longer than their turns last."""
    ticking = Ticking()
    monkeypatch.setattr("shared.queue.consumers.time", ticking)
    return ticking


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for partitions that answer, however long this process stands still."""
    monkeypatch.setattr("shared.queue.consumers.PATIENCE_S", 60.0)


def lease(index: int, number: int = 0, lane: Lane = "normal") -> Lease:
    job = Job("b", number, "email", lane, Recipient("a@example.com", "A"), 0)
    return Lease(PartitionKeys("email", index).lane("normal"), f"{number}-1", 1, job)


@dataclass
class FakeConsumer:
    """A partition with a number of jobs; it records what it was asked."""

    index: int
    jobs: int = 0
    high: int = 0
    due_in_s: float | None = None
    away: bool = False
    asked: list[Any] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    answer: Grant | None = None
    gate: asyncio.Event | None = None
    begun_at: float = 0.0

    @property
    def partition(self) -> Partition:
        return Partition(cast("Any", None), PartitionKeys("email", self.index))

    has_rate: bool = True

    def share_limits(self) -> None:
        return

    async def fetch(self, want: int) -> Fetched:
        self.asked.append(want)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise QueueUnavailableError("away")
        taken = min(want, self.jobs)
        high = min(taken, self.high)
        self.jobs, self.high = self.jobs - taken, self.high - high
        leases = [lease(self.index, number, "high" if number < high else "normal") for number in range(taken)]
        return Fetched(leases, [], "", self.due_in_s)

    async def grant(self, _limits: Partition, requests: Sequence[BeginRequest], _late_ms: int) -> list[BeginRequest]:
        words = iter(self.words or ["g"] * len(requests))
        return [structs.replace(request, granted=next(words)) for request in requests]

    async def begin(self, requests: Sequence[BeginRequest], _now_ms: int, in_flight: int, _late_ms: int) -> list[Grant]:
        self.asked.append((len(requests), in_flight))
        self.begun_at = time.monotonic()
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0.001 * self.index)  # the answers come in another order than the calls
        return [self.answer or Grant("granted", after_us=self.index, spaced="channel") for _ in requests]

    async def leave(self) -> int:
        if self.away:
            raise QueueUnavailableError("away")
        self.asked.append("leave")
        return 0


def four(*jobs: int) -> tuple[Consumers, list[FakeConsumer]]:
    fakes = [FakeConsumer(index, count) for index, count in enumerate(jobs)]
    return Consumers([cast("Consumer", fake) for fake in fakes]), fakes


@pytest.mark.usefixtures("clock")
async def test_a_fetch_asks_every_partition_for_an_equal_share() -> None:
    """Then only those that gave all that they were asked for, until another is woken."""
    consumers, fakes = four(100, 3, 0, 0)
    assert len((await consumers.fetch(20)).leases) == 8
    fetched = await consumers.fetch(20)
    assert len(fetched.leases) == 20
    assert fetched.due_in_s == 0
    assert [fake.asked for fake in fakes] == [[5, 20], [5], [5], [5]]
    consumers.wake(2)
    await consumers.fetch(20)
    assert [fake.asked for fake in fakes] == [[5, 20, 10], [5], [5, 10], [5]]


@pytest.mark.usefixtures("clock")
async def test_partitions_with_more_than_is_wanted_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is asked at a time, for several fetches, so that begins and settles carry jobs of few partitions."""
    consumers, fakes = four(1000, 1000, 1000, 3)
    await consumers.fetch(20)
    for _ in range(3):
        assert len((await consumers.fetch(20)).leases) == 20
    assert sorted(len(fake.asked) for fake in fakes) == [1, 1, 1, 4]
    monkeypatch.setattr("shared.queue.consumers._ROUND_S", 0.0)
    consumers, fakes = four(1000, 1000, 1000, 3)
    for _ in range(7):
        await consumers.fetch(20)
    assert [len(fake.asked) for fake in fakes] == [3, 3, 3, 1]


@pytest.mark.usefixtures("clock")
async def test_partitions_are_asked_one_after_the_other_under_a_low_rate() -> None:
    """Each start of a slow channel goes to another partition, also while every job gets a start."""
    consumers, fakes = four(1000, 1000, 1000, 1000)
    await consumers.fetch(4)
    fakes[0].words = ["s1"]
    await consumers.begin([BeginRequest(lease(0))], 0)
    for _ in range(8):
        await consumers.fetch(1)
    assert [fake.asked.count(1) for fake in fakes] == [3, 3, 3, 3]


@pytest.mark.usefixtures("clock")
async def test_a_turn_continues_beside_partitions_that_are_woken_again_and_again() -> None:
    """They get half of what is wanted, not all of it."""
    consumers, fakes = four(1000, 0)
    await consumers.fetch(20)
    for _ in range(3):
        fakes[1].jobs += 1
        consumers.wake(1)
        assert len((await consumers.fetch(20)).leases) == 11
    assert fakes[0].asked == [10] * 4


@pytest.mark.usefixtures("clock")
async def test_a_partition_is_asked_while_another_is_woken_before_each_fetch() -> None:
    """Also where each fetch is for one job, under a low rate: all that have more than they gave have their turn."""
    consumers, fakes = four(1000, 1000, 1000)
    fakes[0].words = ["s1"]
    await consumers.fetch(3)
    await consumers.begin([BeginRequest(lease(0))], 0)
    for _ in range(12):
        consumers.wake(0)
        await consumers.fetch(1)
    assert [sum(isinstance(one, int) for one in fake.asked) for fake in fakes] == [13, 3, 3]


@pytest.mark.usefixtures("clock")
async def test_a_partition_with_more_of_lane_high_comes_before_those_with_other_jobs() -> None:
    """While few are wanted, at a low rate, they do not take turns with it; one that is woken is asked all the same."""
    consumers, fakes = four(100, 100, 100, 100)
    fakes[2].high = 10
    await consumers.fetch(4)
    lanes = [one.job.lane for _ in range(9) for one in (await consumers.fetch(1)).leases]
    assert lanes == ["high"] * 9
    assert [one.job.lane for one in (await consumers.fetch(1)).leases] == ["normal"]
    fakes[2].high, fakes[3].high = 10, 1
    consumers.wake(2)
    assert [one.job.lane for one in (await consumers.fetch(1)).leases] == ["high"]
    consumers.wake(3)
    assert [one.job.lane for one in (await consumers.fetch(1)).leases] == ["high"]


async def test_a_partition_is_asked_again_when_something_is_due(clock: Ticking) -> None:
    """A fetch with nothing to ask says how long there is nothing to do."""
    consumers, fakes = four(0, 0)
    fakes[1].due_in_s = 0.5
    first = await consumers.fetch(2)
    assert first.due_in_s is not None
    assert 0 < first.due_in_s <= 0.5
    assert (await consumers.fetch(2)).leases == []
    clock.now += 0.51
    fakes[1].jobs = 1
    assert [one.stream for one in (await consumers.fetch(2)).leases] == [PartitionKeys("email", 1).lane("normal")]
    assert [len(fake.asked) for fake in fakes] == [1, 2]


async def test_a_wake_up_during_a_fetch_is_kept() -> None:
    """The partition is asked again at once."""
    consumers, fakes = four(0, 0)
    fetch = fakes[0].fetch

    async def woken_meanwhile(want: int) -> Fetched:
        fetched = await fetch(want)
        consumers.wake(0)
        return fetched

    fakes[0].fetch = woken_meanwhile  # type: ignore[method-assign]
    assert (await consumers.fetch(2)).due_in_s == 0
    await consumers.fetch(2)
    assert [len(fake.asked) for fake in fakes] == [2, 1]


async def test_a_partition_that_is_away_does_not_hold_up_the_others() -> None:
    """Only when none answers does the fetch fail; one without a fresh lease is not asked."""
    consumers, fakes = four(5, 5)
    fakes[0].away = True
    assert len((await consumers.fetch(4)).leases) == 2
    fakes[1].away = True
    consumers.wake(0)
    with pytest.raises(QueueUnavailableError):
        await consumers.fetch(4)
    fakes[1].away = False
    consumers.watch_lease(0, lambda: False)
    consumers.wake(0)
    consumers.wake(1)
    assert len((await consumers.fetch(4)).leases) == 3
    assert fakes[0].asked == [2, 2]


async def test_answers_have_the_order_of_the_jobs() -> None:
    """Each partition counts the jobs asked for in the others as in flight; the time since the grant is noted."""
    consumers, fakes = four(0, 0, 0)
    leases = [lease(index, number) for number, index in enumerate((2, 0, 1, 0, 2))]
    grants = await consumers.begin([BeginRequest(one) for one in leases], 0, in_flight=7)
    assert [grant.after_us for grant in grants] == [2, 0, 1, 0, 2]
    assert grants[0].waited_us >= 2000
    assert [fake.asked for fake in fakes] == [[(2, 10)], [(1, 11)], [(2, 10)]]
    assert await consumers.begin([], 0) == []


@pytest.mark.usefixtures("clock")
async def test_a_fetch_takes_about_as_many_jobs_as_were_granted_starts() -> None:
    """From the partitions in turn; more once all that were asked for got a start."""
    consumers, fakes = four(100, 100, 100, 100)
    assert len((await consumers.fetch(20)).leases) == 20
    requests = [BeginRequest(lease(0, number)) for number in range(8)]
    fakes[0].words = ["s1", "s2", *["limited9"] * 6]
    await consumers.begin(requests, 0)
    for _ in range(2):
        assert len((await consumers.fetch(20)).leases) == 2
    assert [sum(one for one in fake.asked if isinstance(one, int)) for fake in fakes] == [6, 6, 6, 6]
    fakes[0].words = []
    await consumers.begin(requests, 0)
    assert len((await consumers.fetch(20)).leases) == 16


@pytest.mark.usefixtures("clock")
async def test_all_jobs_are_asked_for_after_one_was_lost() -> None:
    """Those that were fetched with it may be lost too, and would use up starts."""
    consumers, fakes = four(0, 0)
    requests = [BeginRequest(lease(0, number)) for number in range(3)]
    fakes[0].words = ["s1", "limited5", "limited5"]
    for asked in (3, 1, 1):
        await consumers.begin(requests, 0)
        assert fakes[0].asked.pop() == (asked, 0)
    fakes[0].answer = Grant("lost")
    for asked in (1, 3):
        await consumers.begin(requests, 0)
        assert fakes[0].asked.pop() == (asked, 0)


@pytest.mark.usefixtures("clock")
async def test_partitions_are_asked_once_a_second_for_jobs_without_a_free_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise only for jobs that may start, or that must wait in the list of their own limit."""
    consumers, fakes = four(0, 0, 0)
    requests = [BeginRequest(lease(index, number)) for number, index in enumerate((0, 1, 1, 2))]
    fakes[0].words = ["s5", "limited70", "beyond/9", "limited80/3"]
    assert [grant.kind for grant in await consumers.begin(requests, 0)] == ["granted"] * 4
    kinds = [(grant.kind, grant.after_us) for grant in await consumers.begin(requests, 0)]
    assert kinds == [("granted", 0), ("limited", 70), ("granted", 1), ("limited", 80)]
    assert [fake.asked for fake in fakes] == [[(1, 3), (1, 1)], [(2, 2), (1, 1)], [(1, 3)]]
    fakes[0].words = ["limited1"] * 4
    assert {grant.kind for grant in await consumers.begin(requests, 0)} == {"limited"}
    assert sum(len(fake.asked) for fake in fakes) == 5
    monkeypatch.setattr("shared.queue.consumers._ASK_ALL_S", 0.0)
    consumers, fakes = four(0, 0, 0)
    fakes[0].words = ["limited1"] * 4
    for _ in range(2):
        await consumers.begin(requests, 0)
    assert sum(len(fake.asked) for fake in fakes) == 6


def test_place_of_an_entry_is_that_of_its_partition() -> None:
    """By the tag of its stream."""
    consumers, _ = four(0, 0, 0)
    held = [HeldEntry(PartitionKeys("email", index).bulk("b}x"), "1-1", 1) for index in (2, 0, 1)]
    assert [consumers.place_of(entry) for entry in held] == [2, 0, 1]


async def test_a_fetch_does_not_wait_for_a_partition_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gives at last is in the answer of a later call; until then it is not asked again."""
    monkeypatch.setattr("shared.queue.consumers.PATIENCE_S", 0.02)
    consumers, fakes = four(8, 8)
    late = asyncio.Event()
    consumers.on_late_answer = late.set
    gate = fakes[0].gate = asyncio.Event()
    assert [one.stream for one in (await consumers.fetch(4)).leases] == [PartitionKeys("email", 1).lane("normal")] * 2
    assert len((await consumers.fetch(4)).leases) == 4
    assert not late.is_set()
    gate.set()
    await late.wait()
    assert len((await consumers.fetch(4)).leases) == 4
    assert [fake.asked for fake in fakes] == [[2], [2, 4, 4]]
    await consumers.close()


async def test_nobody_waits_for_a_partition_that_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has answered again the others' fetches return at once."""
    monkeypatch.setattr("shared.queue.consumers.PATIENCE_S", 60.0)
    consumers, fakes = four(8, 8)
    fakes[0].away = True
    await consumers.fetch(4)
    fakes[0].gate = asyncio.Event()
    consumers.wake(0)
    async with asyncio.timeout(20):
        assert len((await consumers.fetch(4)).leases) == 2
    assert fakes[0].asked == [2, 2]
    await consumers.close()


async def test_a_begin_does_not_wait_for_a_partition_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is given later, once, with the moment at which it was asked for."""
    monkeypatch.setattr("shared.queue.consumers.PATIENCE_S", 0.02)
    consumers, fakes = four(0, 0)
    late = asyncio.Event()
    consumers.on_late_answer = late.set
    gate = fakes[1].gate = asyncio.Event()
    leases = [lease(index, number) for number, index in enumerate((1, 0, 1))]
    asked_at = time.monotonic()
    grants = await consumers.begin([BeginRequest(one) for one in leases], 0, 0, 7)
    assert [grant.kind for grant in grants] == ["away", "granted", "away"]
    assert consumers.late_answers() == []
    gate.set()
    await late.wait()
    (answers,) = consumers.late_answers()
    assert [request.lease for request in answers.requests] == [leases[0], leases[2]]
    assert {(grant.kind, grant.waited_us > 20_000) for grant in answers.grants} == {("granted", True)}
    assert asked_at <= answers.asked_at <= min(fakes[0].begun_at, fakes[1].begun_at)
    assert answers.late_ms == 7
    assert consumers.late_answers() == []


async def test_a_sender_leaves_the_partitions_that_answer() -> None:
    """One that is away fails the call, after the others were left."""
    consumers, fakes = four(0, 0)
    fakes[0].away = True
    with pytest.raises(QueueUnavailableError):
        await consumers.leave()
    assert fakes[1].asked == ["leave"]
