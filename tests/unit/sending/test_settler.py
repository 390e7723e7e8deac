"""Settling: batches that grow while a call is under way, and answers that arrive too late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest

from shared.events import Sent
from shared.lifecycle import end_tasks
from shared.queue.consumer import Consumer
from shared.queue.leases import Lease, Move, sent
from shared.sending.holdings import BegunJob, Holdings
from shared.sending.journal import Journal, Owner
from shared.sending.outcomes import Tried, accepted
from shared.sending.pace import Pace
from shared.sending.provider import Receipt
from shared.sending.settler import MOST_AT_ONCE, Settler
from tests.servers import PATIENCE_S, wait_for
from tests.unit.sending.leases import lease_of


class SlowConsumer:
    """Answers each settle when the test says so; records the calls."""

    def __init__(self, held: bool = True) -> None:
        self.asked: list[list[Move]] = []
        self.late: list[Lease] = []
        self.go = asyncio.Event()
        self.held = held

    async def settle(self, moves: Sequence[Move]) -> list[bool]:
        self.asked.append(list(moves))
        await self.go.wait()
        return [self.held] * len(moves)

    async def sent_late(self, accepted: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        self.late += [lease for lease, event in accepted if msgspec.msgpack.decode(event, type=Sent).late]
        return [True] * len(accepted)


async def settled(consumer: SlowConsumer, count: int) -> Holdings:
    """Add one outcome, then `count` during the first call; wait until all are settled."""
    holdings = Holdings()
    settler = Settler(cast("Consumer", consumer), holdings)
    running = asyncio.create_task(settler.run())
    for index in range(count + 1):
        lease = lease_of(index)
        holdings.add_fetched(lease)
        settler.add(accepted(Tried(lease, 10_000, 5, "Hello"), Receipt("<1>", "250 ok")))
        if index == 0:
            await asyncio.sleep(0)
    consumer.go.set()
    async with asyncio.timeout(PATIENCE_S):
        await settler.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return holdings


async def test_batches_grow_while_a_call_is_under_way() -> None:
    """Outcomes added during a call go with the next calls, at most `MOST_AT_ONCE` per call, each job once."""
    consumer = SlowConsumer()
    holdings = await settled(consumer, MOST_AT_ONCE + 20)
    assert [len(batch) for batch in consumer.asked] == [1, MOST_AT_ONCE, 20]
    assert not any(holdings.holds(lease_of(index)) for index in range(MOST_AT_ONCE + 21))


@pytest.mark.parametrize(
    ("ready", "per_s", "journal", "calls"),
    [(4, 400.0, True, [2]), (3, 400.0, True, [1, 1]), (4, 50.0, True, [1, 1]), (4, 400.0, False, [1, 1])],
    ids=["busy", "few for the calls", "slow", "no journal"],
)
async def test_outcomes_are_gathered_while_many_are_to_come(
    ready: int, per_s: float, journal: bool, calls: list[int], tmp_path: Path
) -> None:
    """An outcome waits for the next only if a journal has it, and the workers have jobs that they finish soon.

    As many must be left for them to send while it is settled.
    """
    consumer, holdings = SlowConsumer(), Holdings(pace=Pace(per_s=per_s))
    consumer.go.set()
    holdings.journal = Journal(tmp_path, Owner("sender", "{email}"), 10) if journal else None
    for index in range(2, 2 + ready):
        holdings.add_begun(BegunJob(lease_of(index), 0.0))
    settler = Settler(cast("Consumer", consumer), holdings)
    running = asyncio.create_task(settler.run())
    for index in range(2):
        settler.add(sent(lease_of(index), b"event"))
        for _ in range(3):  # the turns of the loop until the settler has asked, or waits
            await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await settler.drained()
    await end_tasks([running])
    if holdings.journal is not None:
        holdings.journal.close(keep=False)
    assert [len(batch) for batch in consumer.asked] == calls


async def test_a_call_carries_about_a_megabyte() -> None:
    """Redis is blocked while it reads a call: large jobs and events go over several calls, each at least one."""
    consumer = SlowConsumer()
    consumer.go.set()
    settler = Settler(cast("Consumer", consumer), Holdings())
    sizes = [(400_000, 0), (0, 400_000), (300_000, 0), (5_000_000, 0), (0, 0), (600_000, 300_000), (200_000, 0)]
    for index, (packed, event) in enumerate(sizes):
        settler.add(Move("later", lease_of(index), b"e" * event, "", b"p" * packed))
    running = asyncio.create_task(settler.run())
    async with asyncio.timeout(PATIENCE_S):
        await settler.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [len(batch) for batch in consumer.asked] == [2, 1, 1, 2, 1]


async def test_acceptance_of_a_lost_job_is_reported_late() -> None:
    """A message whose lease was lost is still reported as sent."""
    consumer = SlowConsumer(held=False)
    await settled(consumer, 2)
    assert [lease.job.index for lease in consumer.late] == [0, 1, 2]


async def test_jobs_of_a_partition_that_does_not_answer_take_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other partitions, jobs that wait to be settled, then and later, do not count against the window."""
    monkeypatch.setattr("shared.sending.settler.STALLED_AFTER_S", 0.01)
    consumer, holdings = SlowConsumer(), Holdings()
    settler = Settler(cast("Consumer", consumer), holdings)
    settler.one_of_several = True
    running = asyncio.create_task(settler.run())
    for index in range(3):
        lease = lease_of(index)
        holdings.add_fetched(lease)
        holdings.add_begun(BegunJob(lease, 0.0, alone=index == 0))
    settler.add(sent(lease_of(0), b"event"))
    await wait_for(lambda: holdings.in_flight_count == 2)
    assert not holdings.any_alone()
    settler.add(sent(lease_of(1), b"event"))
    assert holdings.in_flight_count == 1
    consumer.go.set()
    await settler.drained()
    assert holdings.in_flight_count == 1
    assert list(holdings.in_flight) == [lease_of(2).key]
    settler.add(sent(lease_of(2), b"event"))
    assert holdings.in_flight_count == 1
    await end_tasks([running])
