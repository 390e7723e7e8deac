"""A plain model of the queue, and a machine that takes the same random steps on both and compares them.

The model has each job's status, run, attempts and holder; it has no streams, pending lists or scripts. Time passes only
by a step: delays are long, and `time_passes` makes all jobs due.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from shared.errors import QueueUnavailableError
from shared.jobs import TERMINAL, Lane
from shared.queue.client import QueueRedis
from shared.queue.consumer import BeginPolicy, Consumer, Taking
from shared.queue.fetched import Fetched, read_fetched
from shared.queue.leases import Grant, Lease
from shared.queue.partitions import limits_partition
from shared.queue.reaper import Reaper
from shared.sending.job_limits import JobLimit
from tests.integration.queue.model_jobs import ModelBlast, ModelJob
from tests.integration.queue.world import AT_ONCE, HandSender, World, begins, ends, lose_answer, open_world

ValueT = TypeVar("ValueT")
LONG_MS = 60_000
FAR_MS = 4_000_000_000_000
POISON = 3
LIMIT = JobLimit("slow", LONG_MS * 1000, 5)


@contextmanager
def same_number(consumer: Consumer) -> Iterator[None]:
    """Give all begins of a block one sequence number, and all grants, as if the first answers had been lost."""
    both = (consumer._begins, consumer._grants)
    kept = [numbers.next for numbers in both]
    for numbers in both:
        numbers.next = partial(_same, numbers.next())  # type: ignore[method-assign]
    try:
        yield
    finally:
        for numbers, before in zip(both, kept, strict=True):
            numbers.next = before  # type: ignore[method-assign]


def _same(number: tuple[int, bytes]) -> tuple[int, bytes]:
    return number


async def _take(consumer: Consumer, want: int, *, lost: bool) -> Fetched:
    """Fetch jobs and begin them; with `lost` the answer is lost, and the call is made again after it was asked for."""
    if not lost:
        return await consumer.take(Taking(want, 0, 0, 0.0, 0))
    calls = lose_answer(consumer)
    with suppress(QueueUnavailableError):
        await consumer.take(Taking(want, 0, 0, 0.0, 0))
    fetched = await consumer.taken()
    again = read_fetched(await consumer.partition.call("fetch", calls[0]))
    assert (again.leases, again.grants) == (fetched.leases, fetched.grants)
    return fetched


def _without_times(grants: list[Grant]) -> list[Grant]:
    """Return answers without how long ago the limits were asked, which differs from call to call."""
    return [structs.replace(one, waited_us=0) for one in grants]


async def _begin_twice(sender: HandSender, leases: list[Lease]) -> list[Grant]:
    """Begin jobs with each call made twice, partition by partition: only the last call of a sender can be repeated."""
    grants: dict[str, Grant] = {}
    for consumer in sender.consumers:
        some = [lease for lease in leases if lease.stream.startswith(consumer.partition.keys.tag)]
        with ExitStack() as held:
            for one in sender.consumers:
                held.enter_context(same_number(one))
            answers, again = await sender.begin(some), await sender.begin(some)
        assert _without_times(answers) == _without_times(again)
        grants |= {lease.job_id: grant for lease, grant in zip(some, answers, strict=True)}
    return [grants[lease.job_id] for lease in leases]


class QueueMachine(RuleBasedStateMachine):
    """Random steps on a real queue and on the model; `url` and `partitions` are set by the test."""

    url = ""
    partitions = 1
    blasts = Bundle("blasts")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world: World = self.wait(self._open())
        self.model: dict[str, ModelBlast] = {}
        self.senders: list[HandSender] = [self.wait(self._sender()) for _ in range(2)]
        self.held: dict[str, list[Lease]] = {}
        self.lost: list[Lease] = []
        self.paused = False
        self.free = LIMIT.burst
        self.ends: Counter[tuple[str, int]] = Counter()
        self.begun: Counter[tuple[str, int, int]] = Counter()

    async def _open(self) -> World:
        world = open_world(self.url, AT_ONCE, self.partitions)
        assert isinstance(world.redis, QueueRedis)
        for node in await world.redis.every_node():
            await node.flushall()
        world.spread = True
        return world

    async def _sender(self) -> HandSender:
        sender = await self.world.sender(policy=BeginPolicy(concurrency=10_000))
        sender.limit_of = lambda job: LIMIT if self.model[job.blast_id].limited else None
        return sender

    def wait(self, step: Coroutine[Any, Any, ValueT]) -> ValueT:
        return self.loop.run_until_complete(step)

    def job_of(self, lease: Lease) -> ModelJob:
        return self.model[lease.job.blast_id].jobs[lease.job.index]

    def leases(self, sender: HandSender, kind: str) -> list[Lease]:
        return [
            lease for lease in self.held.get(sender.name, []) if self.job_of(lease).holder == f"{sender.name} {kind}"
        ]

    def settled(self, sender: HandSender, lease: Lease) -> None:
        self.held[sender.name].remove(lease)

    def end(self, lease: Lease, status: str) -> None:
        job = self.job_of(lease)
        job.status, job.holder, job.marked = status, "", False

    # Steps

    @rule(
        target=blasts,
        lane=st.sampled_from(["high", "normal", "bulk", "bulk"]),
        count=st.integers(1, 6),
        kind=st.sampled_from(["", "", "", "", "scheduled", "expired"]),
        limited=st.sampled_from([True, False, False]),
    )
    def accept(self, lane: Lane, count: int, kind: str, limited: bool) -> str:
        """Accept and enqueue a blast; each chunk twice, as if its reply had been lost."""
        at_ms = FAR_MS if kind == "scheduled" else 0
        expired = kind == "expired"
        blast = self.wait(self.world.blast(count, lane, scheduled_at_ms=at_ms))
        one = self.model[blast.blast_id] = ModelBlast(blast, limited=limited)
        first = count // 2
        for start, n in ((0, first), (0, first), (first, count - first), (first, count - first)):
            if n:
                self.wait(self.world.enqueue(blast, start, n, expires_at_ms=int(expired)))
        one.jobs = {index: ModelJob(expired=expired) for index in range(count)}
        return blast.blast_id

    @rule(which=st.integers(0, 1), want=st.integers(1, 40))
    def fetch(self, which: int, want: int) -> None:
        """Every fetched job was waiting, is not held by another sender, and has the right number of attempts."""
        sender = self.senders[which]
        self._check_fetched(sender, self.wait(sender.fetch(want)))

    def _check_fetched(self, sender: HandSender, leases: list[Lease]) -> None:
        assert not leases or not self.paused
        for lease in leases:
            job = self.job_of(lease)
            assert job.status in {"queued", "retrying"} or lease.job.run < job.run, (lease, job)
            assert not job.holder, (lease, job)
            assert (lease.job.run, lease.attempt) == (job.run, job.made + 1), (lease, job)
            job.holder = f"{sender.name} buf"
            self.held.setdefault(sender.name, []).append(lease)

    @rule(which=st.integers(0, 1), want=st.integers(1, 40), lost=st.booleans())
    def take(self, which: int, want: int, lost: bool) -> None:
        """Fetch and begin in one step; if the answer is lost, it is asked for. Jobs with a limit are begun apart."""
        sender = self.senders[which]
        if not isinstance(sender.consumer, Consumer) or any(blast.limited for blast in self.model.values()):
            self.fetch(which, want)
            self.begin(which, repeated=False)
            return
        flying = len(self.leases(sender, "tx"))
        fetched = self.wait(_take(sender.consumer, want, lost=lost))
        self._check_fetched(sender, fetched.leases)
        assert not fetched.grants or all(lease.attempt == 1 for lease in fetched.leases)
        if not fetched.grants:
            return
        words = self.wait(sender.settle_refusals(fetched.leases, fetched.grants))
        for lease, word in zip(fetched.leases, words, strict=True):
            flying = self._check_word(sender, lease, word, flying)

    @rule(which=st.integers(0, 1), repeated=st.booleans())
    def begin(self, which: int, repeated: bool) -> None:
        """A begin grants jobs that may be sent and refuses the others (G3); a repeated call gets the same answer."""
        sender = self.senders[which]
        leases = self.leases(sender, "buf")
        if not leases:
            return
        words = self._asked(sender, leases, repeated)
        flying = len(self.leases(sender, "tx"))
        for lease, word in zip(leases, words, strict=True):
            flying = self._check_word(sender, lease, word, flying)

    def _asked(self, sender: HandSender, leases: list[Lease], repeated: bool) -> list[str]:
        if not repeated:
            return self.wait(sender.obey(leases))
        grants = self.wait(_begin_twice(sender, leases))
        return self.wait(sender.settle_refusals(leases, grants))

    def _check_word(self, sender: HandSender, lease: Lease, word: str, flying: int) -> int:
        job, blast = self.job_of(lease), self.model[lease.job.blast_id]
        expected = self._expected(job, blast)
        if word in {"beyond", "full"}:
            assert not expected, (word, expected, lease, job)
            assert blast.limited, (word, lease, job)
        elif word in {"granted", "alone", "wait"}:
            assert not expected, (word, expected, lease, job)
        else:
            assert word == expected, (word, expected, lease, job)
        if word == "wait":
            assert flying, (lease, job)
            return flying
        if word in {"granted", "alone"}:
            assert (word == "alone") == (job.stalls > 0)
            job.status, job.holder = "processing", f"{sender.name} tx"
            self.begun[lease.job_id, lease.job.run, lease.attempt] += 1
            self.free -= blast.limited
            assert self.free >= 0, "the limit was exceeded"
            return flying + 1
        self.settled(sender, lease)
        if word in {"held", "paused", "beyond", "full"}:
            job.holder = ""
        else:
            self.end(lease, {"poison": "failed"}.get(word, word))
        return flying

    def _expected(self, job: ModelJob, blast: ModelBlast) -> str:
        """Return why the job must be refused, "" if it must not."""
        if self.paused:
            return "held"
        if blast.cancelled or job.marked:
            return "cancelled"
        if job.expired:
            return "expired"
        if job.stalls >= POISON:
            return "poison"
        return "paused" if blast.paused else ""

    @rule(
        which=st.integers(0, 1),
        moves=st.lists(
            st.tuples(
                st.integers(0, 1000), st.sampled_from(["finish", "retry", "retry", "defer", "fail", "give_back"])
            ),
            min_size=1,
            max_size=6,
        ),
    )
    def settle(self, which: int, moves: list[tuple[int, str]]) -> None:
        """A job in flight finishes, fails, is deferred or given back."""
        for pick, move in moves:
            self._settle(which, pick, move)

    def _settle(self, which: int, pick: int, move: str) -> None:
        sender = self.senders[which]
        flying = self.leases(sender, "tx")
        if not flying:
            return
        lease = flying[pick % len(flying)]
        job = self.job_of(lease)
        self.settled(sender, lease)
        if move == "finish":
            assert self.wait(sender.finish(lease)) == [True]
            self.end(lease, "sent")
        elif move == "fail":
            assert self.wait(sender.fail(lease))
            self.end(lease, "failed")
        elif move == "retry":
            assert self.wait(sender.retry(lease, LONG_MS))
            job.made += 1
            job.waits()
        elif move == "defer":
            assert self.wait(sender.defer(lease, LONG_MS))
            job.deferred = True
            job.waits()
        else:
            assert self.wait(sender.give_back(lease))
            job.waits()

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        """A sender dies: its buffered jobs wait again unchanged, its jobs in flight are uncertain (G2)."""
        dead = self.senders[which]
        self.senders[which] = self.wait(self._sender())
        self.wait(self._bury(dead))
        for lease in self.held.pop(dead.name, []):
            job = self.job_of(lease)
            if job.holder == f"{dead.name} tx":
                job.made += 1
                job.stalls += 1
                self.lost.append(lease)
            job.waits()

    async def _bury(self, dead: HandSender) -> None:
        for partition in self.world.partitions:
            await self.world.redis.delete(partition.keys.sender(dead.name))
            await Reaper(partition, self.senders[0].name, AT_ONCE).reap_dead()

    @precondition(lambda self: self.lost)
    @rule(pick=st.integers(0, 1000), which=st.integers(0, 1))
    def late(self, pick: int, which: int) -> None:
        """An answer after the lease was lost makes the job `sent`, once, if its run is still the last."""
        lease = self.lost[pick % len(self.lost)]
        job = self.job_of(lease)
        counts = job.run == lease.job.run and job.status != "sent"
        assert self.wait(self.senders[which].late(lease)) == counts, (lease, job)
        if not counts:
            return
        job.status, job.holder, job.marked = "sent", "", False
        for leases in self.held.values():
            leases[:] = [one for one in leases if one.job_id != lease.job_id]

    @rule(blast_id=blasts)
    def pause(self, blast_id: str) -> None:
        one = self.model[blast_id]
        done = self.wait(self.world.control.pause_blast(blast_id, "wait"))
        assert done == (not one.ended and not one.cancelled)
        one.paused |= done

    @rule(blast_id=blasts)
    def resume(self, blast_id: str) -> None:
        one = self.model[blast_id]
        assert self.wait(self.world.control.resume_blast(blast_id)) == (not one.ended and not one.cancelled)
        one.paused = False

    @rule(blast_id=blasts, earnest=st.sampled_from([True, False, False]))
    def cancel(self, blast_id: str, earnest: bool) -> None:
        """All jobs that are not in flight end as cancelled; rarely, because nothing can happen afterwards."""
        one = self.model[blast_id]
        if not earnest:
            return
        assert self.wait(self.world.control.cancel_blast(blast_id)) == (not one.ended)
        if one.ended:
            return
        one.cancelled, one.paused = True, False
        for index, job in one.jobs.items():
            if job.status in {"queued", "retrying"}:
                self._drop(f"{blast_id}:{index}:email")
                job.status, job.holder = "cancelled", ""

    @rule(blast_id=blasts, pick=st.integers(0, 1000))
    def cancel_job(self, blast_id: str, pick: int) -> None:
        """One job ends, or ends instead of its next attempt."""
        one = self.model[blast_id]
        index = pick % len(one.jobs)
        job_id, job = f"{blast_id}:{index}:email", one.jobs[index]
        answer = self.wait(self.world.control.cancel_job(job_id))
        if job.status in TERMINAL:
            assert answer == "unknown"
        elif job.status == "processing":
            assert answer == "processing"
            job.marked = True
        else:
            assert answer == "cancelled"
            self._drop(job_id)
            job.status, job.holder = "cancelled", ""

    def _drop(self, job_id: str) -> None:
        for leases in self.held.values():
            leases[:] = [lease for lease in leases if lease.job_id != job_id]

    @rule(blast_id=blasts)
    def again(self, blast_id: str) -> None:
        """Dead letters are sent again as the next run; the pause ended with the blast and does not hold the run."""
        one = self.model[blast_id]
        dead = [index for index, job in one.jobs.items() if job.status == "failed"]
        if not dead or one.cancelled:
            return
        one.paused &= not one.ended
        one.runs += 1
        added = self.wait(self.world.again(one.blast, dead, one.runs))
        assert added.added == len(dead)
        for index in dead:
            one.jobs[index] = ModelJob(run=one.runs)

    @rule(paused=st.sampled_from([True, False, False]))
    def pause_channel(self, paused: bool) -> None:
        control = self.world.control
        self.wait(control.pause_channel("email", "stop") if paused else control.resume_channel("email"))
        self.paused = paused

    @rule()
    def time_passes(self) -> None:
        """All jobs that wait for a time become due, and the limit's whole burst is free."""
        self.wait(self._make_due())
        self.free = LIMIT.burst

    async def _make_due(self) -> None:
        redis: Any = self.world.redis
        shared = limits_partition(redis, "email").keys
        await redis.delete(*(shared.key(f"{name}{LIMIT.name}") for name in ("limit:", "limits:claims:")))
        for partition in self.world.partitions:
            await redis.delete(partition.keys.key(f"limit:{LIMIT.name}"))
            for name in ("parked", "later", "starts", "limits:high", "limits:due"):
                key = partition.keys.key(name)
                members = await redis.zrange(key, 0, -1, withscores=True)
                if members:
                    await redis.zadd(key, {member: min(score, 1.0) for member, score in members})

    # What must always hold

    @invariant()
    def counts_agree(self) -> None:
        """G4 after each step, compared with the model and with the contents of Redis."""
        self.wait(self.world.check_balance())
        for one in self.model.values():
            self.wait(self._compare(one))

    async def _compare(self, one: ModelBlast) -> None:
        progress = await self.world.progress(one.blast)
        found = Counter({name: count for name, count in progress.counts.items() if count})
        found["queued"] += found.pop("scheduled", 0)
        assert +found == one.counts(), (one, progress)
        assert (progress.ended_at_ms > 0) == one.ended

    def teardown(self) -> None:
        """At the end all jobs are released and must end: none is lost, none is in flight twice."""
        try:
            self.pause_channel(paused=False)
            for blast_id, one in self.model.items():
                if one.paused:
                    self.resume(blast_id)
            for _ in range(200):
                if all(one.ended for one in self.model.values()):
                    break
                self._serve_all()
            self.counts_agree()
            assert all(one.ended for one in self.model.values()), ("jobs were lost", self.model)
            self._check_events()
        finally:
            self.wait(self.world.redis.aclose())
            self.loop.close()

    def _serve_all(self) -> None:
        self.time_passes()
        for which in (0, 1):
            self.fetch(which, 100)
            self.begin(which, repeated=False)
            while self.leases(self.senders[which], "tx"):
                self._settle(which, 0, "finish")

    def _check_events(self) -> None:
        """Each begin of each job is reported once, and the end of each of its runs; a late answer adds its own."""
        written = self.wait(self.world.written())
        assert begins(written) == self.begun
        told = ends(written)
        assert not [key for key, count in told.items() if count > 1]
        late = {(lease.job_id, lease.job.run) for lease in self.lost}
        for blast_id, one in self.model.items():
            for index, job in one.jobs.items():
                key = (f"{blast_id}:{index}:email", job.run)
                assert told[key] == 1 or key in late, key
