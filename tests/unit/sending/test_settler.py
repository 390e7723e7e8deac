"""Settling: batches that grow while a call is under way, and answers that arrive too late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from shared.queue.consumer import Consumer
from shared.queue.leases import Lease, Move, sent
from shared.sending.holdings import Holdings
from shared.sending.settler import MOST_AT_ONCE, Settlement, Settler
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
        self.late += [lease for lease, event in accepted if event == b"late"]
        return [True] * len(accepted)


async def settled(consumer: SlowConsumer, count: int) -> Holdings:
    """Add one outcome, then `count` during the first call; wait until all are settled."""
    holdings = Holdings()
    settler = Settler(cast("Consumer", consumer), holdings)
    running = asyncio.create_task(settler.run())
    for index in range(count + 1):
        lease = lease_of(index)
        holdings.add_fetched(lease)
        settler.add(Settlement(sent(lease, b"event"), lambda: b"late"))
        if index == 0:
            await asyncio.sleep(0)
    consumer.go.set()
    async with asyncio.timeout(5):
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


async def test_a_call_carries_about_a_megabyte() -> None:
    """Redis is blocked while it reads a call: large jobs and events go over several calls, each at least one."""
    consumer = SlowConsumer()
    consumer.go.set()
    settler = Settler(cast("Consumer", consumer), Holdings())
    sizes = [(400_000, 0), (0, 400_000), (300_000, 0), (5_000_000, 0), (0, 0), (600_000, 300_000), (200_000, 0)]
    for index, (packed, event) in enumerate(sizes):
        settler.add(Settlement(Move("later", lease_of(index), b"e" * event, "", b"p" * packed)))
    running = asyncio.create_task(settler.run())
    async with asyncio.timeout(5):
        await settler.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [len(batch) for batch in consumer.asked] == [2, 1, 1, 2, 1]


async def test_acceptance_of_a_lost_job_is_reported_late() -> None:
    """A message whose lease was lost is still reported as sent."""
    consumer = SlowConsumer(held=False)
    await settled(consumer, 2)
    assert [lease.job.index for lease in consumer.late] == [0, 1, 2]
